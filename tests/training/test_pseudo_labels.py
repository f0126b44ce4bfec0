import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from pocketdet.core.metadata import ModelMetadata
from pocketdet.datasets.load import load_dataset
from pocketdet.errors import DataError, SettingsError
from pocketdet.models.checkpoint import load_detector, save_detector
from pocketdet.models.detector import build_from_metadata
from pocketdet.training import TrainSettings, train
from pocketdet.training.distillation import load_teacher
from pocketdet.training.pseudo_labels import add_pseudo_labels

METADATA = ModelMetadata("mobilenet_v3_small", 0.35, 0.125, "symmetric", ("red thing", "blue thing"), (64, 64))
SMALL = TrainSettings(
    model="mobilenet_v3_small", width=0.35, neck_width=0.125, size=64, epochs=2, batch_size=4, bf16=False
)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector that sees a red thing, as large as its anchor, in the middle of every picture."""
    torch.manual_seed(0)
    detector = build_from_metadata(METADATA)
    for output in detector.head.levels[2].children():
        if isinstance(output, torch.nn.Conv2d):
            torch.nn.init.zeros_(output.weight)
    with torch.no_grad():
        detector.head.levels[2].objectness.bias[:] = torch.tensor([3.0, -9, -9])
        detector.head.levels[2].classes.bias[:] = torch.tensor([3.0, -3] * 3)
    path = tmp_path_factory.mktemp("teacher") / "best.safetensors"
    save_detector(path, detector, METADATA)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four without labels, and one that is cut."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(5):
        image = Image.fromarray(rng.integers(0, 255, (80, 100, 3), dtype=np.uint8))
        image.save(folder / f"{number}.jpg")
    (folder / "4.jpg").write_bytes((folder / "4.jpg").read_bytes()[:2000])
    return folder


def test_pictures_without_labels_are_labelled_once_and_learned_from(
    drawn_voc: Path, teacher: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    settings = dataclasses.replace(
        SMALL, teacher=teacher, pseudo_label=pictures, teacher_weight=0.0, output=tmp_path / "run", epochs=1
    )
    result = train(drawn_voc, settings)
    messages = capsys.readouterr().err
    assert f"left out: {pictures / '4.jpg'}" in messages
    file = tmp_path / "run/pseudo_labels.json"
    boxes = len(json.loads(file.read_text())["annotations"])
    assert f"4 more pictures to learn from, labelled by the teacher; boxes: blue thing 0, red thing {boxes}" in messages
    assert boxes >= 4
    assert load_detector(result.best)[1].training_data == "voc (train), and pictures that a teacher labelled"

    # It goes on with the labels of the start, whatever the teacher would find now.
    content = json.loads(file.read_text())
    content["annotations"] = content["annotations"][:1]
    file.write_text(json.dumps(content))
    train(drawn_voc, TrainSettings(output=tmp_path / "run", resume=True))
    assert "4 more pictures to learn from, labelled by the teacher; boxes: blue thing 0, red thing 1" in (
        capsys.readouterr().err
    )
    os.remove(pictures / "0.jpg")
    with pytest.raises(DataError, match="1 of its 4 pictures cannot be read any more"):
        train(drawn_voc, TrainSettings(output=tmp_path / "run", resume=True))


def test_the_labels_are_what_the_teacher_finds_and_pictures_of_the_data_set_stay_out(
    drawn_voc: Path, teacher: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from pocketdet import load

    training, validation = (load_dataset(drawn_voc, (split,)) for split in ("train", "val"))
    os.symlink(validation.records[0].path, pictures / "val.jpg")
    settings = dataclasses.replace(SMALL, teacher=teacher, pseudo_label=pictures, output=tmp_path)
    master = load_teacher(teacher, training.class_names)
    console = Console(stderr=True)
    extended = add_pseudo_labels(training, validation, master, settings, console, is_resumed=False)
    added = extended.records[len(training.records) :]
    assert [record.path.name for record in added] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert "1 that the data set has already" in " ".join(capsys.readouterr().err.split())
    expected = load(teacher).predict(added[0].path, 0.5)
    np.testing.assert_allclose(added[0].boxes, expected.boxes, atol=1e-3)
    assert [extended.class_names[number] for number in added[0].class_ids] == expected.class_names


def test_a_teacher_that_finds_nothing_ends_the_run_and_says_what_to_change(
    drawn_voc: Path, teacher: Path, pictures: Path, tmp_path: Path
) -> None:
    settings = dataclasses.replace(
        SMALL, teacher=teacher, pseudo_label=pictures, pseudo_score=0.99, output=tmp_path / "run"
    )
    with pytest.raises(DataError, match=r"labels none of its pictures; lower pseudo_score \(0\.99\)"):
        train(drawn_voc, settings)
    assert not (tmp_path / "run/last.pt").exists()


def test_pseudo_labels_need_a_teacher() -> None:
    with pytest.raises(SettingsError, match="no teacher labels it"):
        TrainSettings(pseudo_label=Path("pictures"))
    with pytest.raises(SettingsError, match="pseudo_score is 2"):
        TrainSettings(teacher=Path("t"), pseudo_label=Path("pictures"), pseudo_score=2)
