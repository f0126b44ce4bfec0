import csv
import dataclasses
import os
import signal
from pathlib import Path

import pytest
import torch

from pocketdet.core.metadata import YOLOV4_ANCHORS, ModelMetadata
from pocketdet.errors import ModelFileError, SettingsError
from pocketdet.models.checkpoint import save_detector
from pocketdet.models.detector import Detector, build_from_metadata, describe_levels
from pocketdet.training import TrainSettings, train
from pocketdet.training.assigner import Targets
from pocketdet.training.distillation import Student, TaughtLoss, TaughtLosses, Teacher, load_teacher
from pocketdet.training.loss import DetectionLoss

CLASSES = ("blue thing", "red thing")
SMALL = TrainSettings(
    model="mobilenet_v3_small",
    width=0.35,
    neck_width=0.125,
    size=64,
    epochs=2,
    batch_size=4,
    evaluate_every=2,
    checkpoint_minutes=0.0,
    bf16=False,
)
DESCRIPTION = ModelMetadata("mobilenet_v3_small", 0.35, 0.125, "symmetric", CLASSES, (64, 64))
LARGER = dataclasses.replace(DESCRIPTION, width=0.5, neck_width=0.25, input_size=(96, 96))


def write_teacher(path: Path, metadata: ModelMetadata = LARGER) -> Path:
    """A detector with settled random weights; its answers are no good, but they are answers."""
    torch.manual_seed(1)
    save_detector(path, build_from_metadata(metadata), metadata)
    return path


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("teacher") / "best.safetensors")


@torch.no_grad()
def judge(detector: Detector, metadata: ModelMetadata, teacher: Teacher, images: torch.Tensor) -> TaughtLosses:
    targets = Targets(torch.tensor([[8.0, 8, 40, 40]]), torch.tensor([1]), torch.tensor([0]))
    loss = TaughtLoss(DetectionLoss(metadata), metadata, teacher.metadata, 1.0)
    return loss(Student(detector, teacher, metadata)(images), targets)


def test_a_student_that_answers_as_its_teacher_has_no_loss_by_it_and_another_has(teacher: Path) -> None:
    master = load_teacher(teacher, CLASSES)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    same = judge(load_teacher(teacher, CLASSES).detector, LARGER, master, images)
    assert abs(float(same.teacher)) < 1e-3
    other = judge(build_from_metadata(DESCRIPTION), DESCRIPTION, master, images)
    assert float(other.teacher) > 0.05
    total = 3 * other.box + other.objectness + other.classes + other.teacher
    assert float(other.total) == pytest.approx(float(total), rel=1e-5)


def test_a_teacher_that_knows_the_classes_in_another_order_is_read_by_their_names(
    teacher: Path, tmp_path: Path
) -> None:
    master = load_teacher(teacher, CLASSES)
    assert load_teacher(teacher, CLASSES[::-1]).metadata.class_names == CLASSES[::-1]
    images = torch.rand(1, 3, 64, 64)
    turned = load_teacher(teacher, CLASSES[::-1]).detector(images)
    for ours, theirs in zip(master.detector(images), turned, strict=True):
        by_class = ours.classes.unflatten(1, (3, 2))
        torch.testing.assert_close(theirs.classes.unflatten(1, (3, 2)), by_class.flip(2))


def test_the_teacher_is_no_part_of_what_is_trained_and_kept(teacher: Path) -> None:
    student = Student(build_from_metadata(DESCRIPTION), load_teacher(teacher, CLASSES), DESCRIPTION)
    trained = {name.split(".")[0] for name, _ in student.named_parameters()}
    assert trained == {"detector", "adapters"}
    assert {name.split(".")[0] for name in student.state_dict()} == trained


def test_a_run_with_a_teacher_that_was_stopped_ends_bit_for_bit_where_an_unbroken_one_ends(
    drawn_voc: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(SMALL, teacher=teacher.parent)
    train(drawn_voc, dataclasses.replace(settings, output=tmp_path / "unbroken"))

    def press(seed: int, epoch: int, batch: int) -> None:
        if (epoch, batch) == (1, 0):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("pocketdet.training.run.seed_batch", press)
    with pytest.raises(KeyboardInterrupt):
        train(drawn_voc, dataclasses.replace(settings, output=tmp_path / "broken"))
    monkeypatch.undo()
    train(drawn_voc, TrainSettings(output=tmp_path / "broken", resume=True))

    unbroken, broken = (torch.load(tmp_path / run / "last.pt", weights_only=True) for run in ("unbroken", "broken"))
    assert unbroken["adapters"]
    for part in ("detector", "average", "adapters"):
        assert not [name for name, value in unbroken[part].items() if not torch.equal(value, broken[part][name])]
    rows = list(csv.DictReader((tmp_path / "broken/results.csv").read_text().splitlines()))
    assert all(float(row["teacher_loss"]) > 0 for row in rows)


def test_accumulated_batches_have_the_losses_of_a_large_one_with_a_teacher_too(
    drawn_voc: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pocketdet.training.run._set_mode", lambda detector, *_: detector.eval())
    losses = []
    for batch_size, accumulate in ((4, 1), (2, 2)):
        output = tmp_path / str(batch_size)
        settings = dataclasses.replace(SMALL, optimizer="sgd", learning_rate=0.01, output=output, teacher=teacher)
        train(drawn_voc, dataclasses.replace(settings, batch_size=batch_size, accumulate=accumulate))
        rows = csv.DictReader((output / "results.csv").read_text().splitlines())
        losses.append([float(row[name]) for row in rows for name in ("loss", "teacher_loss")])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_a_run_does_not_go_on_with_a_teacher_that_was_changed(drawn_voc: Path, tmp_path: Path) -> None:
    teacher = write_teacher(tmp_path / "teacher.safetensors")
    train(drawn_voc, dataclasses.replace(SMALL, epochs=1, teacher=teacher, output=tmp_path / "run"))
    write_teacher(teacher, dataclasses.replace(LARGER, neck_width=0.125))
    with pytest.raises(ModelFileError, match="is not the teacher that this run began with"):
        train(drawn_voc, TrainSettings(output=tmp_path / "run", resume=True))


def test_a_teacher_of_other_classes_is_refused_and_both_lists_are_named(tmp_path: Path) -> None:
    teacher = write_teacher(tmp_path / "t.safetensors", dataclasses.replace(LARGER, class_names=("cat", "dog")))
    with pytest.raises(SettingsError, match=r"knows the classes cat, dog, .* blue thing, red thing"):
        load_teacher(teacher, CLASSES)


def test_a_teacher_of_other_anchors_teaches_by_its_features_alone(
    drawn_voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    anchors = (*YOLOV4_ANCHORS[:2], ((1, 2), (3, 4), (5, 6)))
    path = write_teacher(tmp_path / "t.safetensors", dataclasses.replace(LARGER, anchors=anchors))
    teacher, detector = load_teacher(path, CLASSES), build_from_metadata(DESCRIPTION).eval()
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    student = Student(detector, teacher, DESCRIPTION)
    lesson, expected = student(images), 0.0
    for ours, theirs, output in zip(lesson.features, lesson.teacher_features, lesson.teacher_outputs, strict=True):
        cosine = torch.nn.functional.cosine_similarity(ours, theirs)
        expected += float((output.objectness.sigmoid().amax(1) * (1 - cosine)).sum().detach())
    loss = TaughtLoss(DetectionLoss(DESCRIPTION), DESCRIPTION, teacher.metadata, 1.0)
    targets = Targets(torch.tensor([[8.0, 8, 40, 40]]), torch.tensor([1]), torch.tensor([0]))
    found = loss(lesson, targets)
    assert float((found.teacher * found.positives).detach()) == pytest.approx(expected, rel=1e-3)
    assert expected > 0.1
    train(drawn_voc, dataclasses.replace(SMALL, epochs=1, teacher=path, output=tmp_path / "run"))
    assert "the teacher has other anchors than this run" in capsys.readouterr().err
    (row,) = csv.DictReader((tmp_path / "run/results.csv").read_text().splitlines())
    assert float(row["teacher_loss"]) > 0


def test_a_teacher_of_other_strides_is_refused(tmp_path: Path) -> None:
    tiny = describe_levels(dataclasses.replace(LARGER, backbone="cspdarknet53_tiny", neck_activation="leaky"))
    path = write_teacher(tmp_path / "t.safetensors", tiny)
    with pytest.raises(SettingsError, match=r"has the strides \(16, 32\), and this run has \(8, 16, 32\)"):
        Student(build_from_metadata(DESCRIPTION), load_teacher(path, CLASSES), DESCRIPTION)


def test_a_teacher_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"best\.safetensors: there is no such file; a teacher is"):
        load_teacher(tmp_path, CLASSES)
    with pytest.raises(SettingsError, match="teacher_weight is -1"):
        TrainSettings(teacher_weight=-1)
