import hashlib
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pocketdet
from pocketdet import cli, loading
from pocketdet.runtime.predictor import Predictor

VERBS = ("check", "demo", "evaluate", "explain", "export", "import", "predict", "serve", "track", "train")


@pytest.fixture
def run(capsys):
    """Run the command line: exit code, standard output, standard error."""

    def run_it(*arguments):
        code = cli.main([str(a) for a in arguments])
        return (code, *capsys.readouterr())

    return run_it


@pytest.fixture
def picture(tmp_path, red_cell):
    path = tmp_path / "red.png"
    Image.fromarray(red_cell).save(path)
    return path


def assert_one_message(result, *words):
    """Exit code 2 and one message on standard error, without a traceback."""
    code, output, errors = result
    assert code == 2
    assert errors.startswith("error: ")
    assert errors.count("error: ") == 1
    assert "Traceback" not in errors
    assert output == ""
    for word in words:
        assert word in errors


def test_predict_prints_what_it_found(run, picture, tiny_model):
    code, output, errors = run("predict", picture, "--model", tiny_model)
    assert (code, errors) == (0, "")
    assert "red.png (64 x 64)" in output
    row = next(line for line in output.splitlines() if "red " in line and "100%" in line)
    assert row.split() == ["red", "100%", "16", "24", "24", "32"]


def test_predict_says_that_it_found_nothing(run, tmp_path, tiny_model):
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    code, output, _ = run("predict", tmp_path / "black.png", "--model", tiny_model)
    assert code == 0
    assert "nothing with a score above 30%" in output


def test_predict_json_is_one_document(run, picture, tiny_model):
    code, output, errors = run("predict", picture, picture.parent, "--model", tiny_model, "--json", "--threads", 1)
    assert (code, errors) == (0, "")
    found = {"class": "red", "class_id": 0, "score": 1.0, "box": [16.0, 24.0, 24.0, 32.0]}
    expected = {"source": str(picture), "height": 64, "width": 64, "objects": [found]}
    assert json.loads(output) == {"pictures": [expected], "errors": []}


def test_predict_json_gives_a_picture_a_line_as_it_comes_and_a_whole_document_after_ctrl_c(
    run, picture, tiny_model, monkeypatch
):
    iter_predict = Predictor.iter_predict

    def interrupted(*arguments, **options):
        yield from iter_predict(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(Predictor, "iter_predict", interrupted)
    code, output, _ = run("predict", picture, picture.with_name("gone.png"), "--model", tiny_model, "--json")
    assert code == 130
    document = json.loads(output)
    assert [entry["source"] for entry in document["pictures"]] == [str(picture)]
    assert len(document["errors"]) == 1
    assert json.loads(output.splitlines()[1]) == document["pictures"][0]


def test_predict_json_without_a_picture_is_a_document_too(run, tmp_path, tiny_model):
    code, output, _ = run("predict", tmp_path / "gone.png", "--model", tiny_model, "--json")
    assert code == 2
    assert json.loads(output)["pictures"] == []


def test_predict_in_tiles_finds_what_is_too_small_for_one_look(run, tmp_path, tiny_model, red_cell):
    large = np.zeros((112, 112, 3), np.uint8)
    large[48:, 48:] = red_cell
    Image.fromarray(large).save(tmp_path / "large.png")
    arguments = ("predict", tmp_path / "large.png", "--model", tiny_model, "--json")
    found = [json.loads(run(*arguments, *more)[1])["pictures"][0]["objects"] for more in ((), ("--tiles", 64))]
    assert [len(objects) for objects in found] == [0, 1]
    assert found[1][0]["box"] == [64, 72, 72, 80]
    assert_one_message(run(*arguments, "--tiles", 5), "tiles is 5", "at least 32")


def test_predict_writes_drawings_and_keeps_pictures_of_one_name_apart(run, picture, tmp_path, tiny_model):
    (tmp_path / "other").mkdir()
    shutil.copy(picture, tmp_path / "other" / "red.png")
    folder = tmp_path / "drawings"
    code, *_ = run("predict", picture, tmp_path / "other", "--model", tiny_model, "--output", folder)
    assert code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["red-2.png", "red.png"]
    with Image.open(folder / "red.png") as drawn, Image.open(picture) as original:
        assert drawn.tobytes() != original.tobytes()


def test_predict_never_writes_over_its_pictures(run, picture, tiny_model):
    before = picture.read_bytes()
    assert_one_message(
        run("predict", picture, "--model", tiny_model, "--output", picture.parent), "would be overwritten"
    )
    assert picture.read_bytes() == before


def test_a_bad_picture_among_good_ones_is_named_and_the_others_go_on(run, picture, tmp_path, tiny_model):
    (tmp_path / "a.jpg").write_text("no picture")
    code, output, errors = run(
        "predict", tmp_path / "a.jpg", picture, tmp_path / "gone.jpg", "--model", tiny_model, "--json"
    )
    assert code == 2
    document = json.loads(output)
    assert [entry["source"] for entry in document["pictures"]] == [str(picture)]
    assert {Path(entry["source"]).name for entry in document["errors"]} == {"a.jpg", "gone.jpg"}
    assert len(errors.splitlines()) == 2


def write_bad_picture(kind, path):
    if kind == "text":
        path.write_text("This is text.\n" * 100)
    elif kind == "empty":
        path.touch()
    elif kind == "truncated":
        noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("kind", ["missing", "text", "empty", "truncated"])
def test_a_bad_picture_gives_one_message(run, kind, tmp_path, tiny_model):
    path = tmp_path / "bad.jpg"
    write_bad_picture(kind, path)
    code, _, errors = run("predict", path, "--model", tiny_model)
    assert code == 2
    assert errors.startswith("error: ")
    assert len(errors.splitlines()) == 1
    assert "bad.jpg" in errors


class Explosive:
    """Unpickling it would leave a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("name", ["model.onnx", "best.safetensors", "last.pt", "model.pkl"])
@pytest.mark.parametrize("verb", ["predict", "evaluate", "export", "explain"])
def test_a_pickle_posing_as_a_model_is_refused_and_not_executed(run, verb, name, picture, tmp_path):
    pytest.importorskip("torch")
    path, trace = tmp_path / name, tmp_path / "trace"
    path.write_bytes(pickle.dumps(Explosive(trace)))
    arguments = {"predict": (picture, "--model"), "evaluate": (tmp_path, "--model")}.get(verb, ())
    assert_one_message(run(verb, *arguments, path), name)
    assert not trace.exists()


def test_a_model_file_cut_in_half_gives_one_message(run, picture, tmp_path, tiny_model):
    content = tiny_model.read_bytes()
    (tmp_path / "half.onnx").write_bytes(content[: len(content) // 2])
    assert_one_message(run("predict", picture, "--model", tmp_path / "half.onnx"), "half.onnx", "cut or changed")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("predict",), "SOURCE requires an argument"),
        (("predikt", "a.jpg"), 'Did you mean "predict"'),
        (("predict", "a.jpg", "--modle", "x"), "Did you mean --model"),
        (("predict", "a.jpg", "--threads", "many"), "many"),
        (("predict", "a.jpg", "--model", "lions"), "no bundled detector has this name"),
        (("train", "data", "--size", "100"), "size is 100; it must be a multiple of 32"),
        (("train", "absent-folder", "--output", "unused"), "absent-folder"),
        (("explain", "mobilenet_v9"), "mobilenet_v9"),
        (("explain", "mobilenet_v2", "--size", "100"), "100"),
        (("export", "absent.safetensors"), "absent.safetensors"),
        (("evaluate", "absent-folder"), "absent-folder"),
    ],
)
def test_wrong_usage_gives_one_message(run, arguments, word, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "evaluate":
        arguments = (*arguments, "--model", tiny_model)
    assert_one_message(run(*arguments), word)


def test_a_threshold_out_of_range_gives_one_message(run, picture, tiny_model):
    assert_one_message(run("predict", picture, "--model", tiny_model, "--score-threshold", 30), "between 0 and 1")


@pytest.mark.parametrize("arguments", [("train", "data"), ("explain", "mobilenet_v2"), ("export", "run")])
def test_what_needs_torch_names_the_extra(run, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.safetensors").touch()
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None)
    assert_one_message(run(*arguments), 'pip install "pocketdet[train]"')


def test_ctrl_c_gives_exit_code_130(run, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(loading, "load", interrupted)
    assert run("predict", "a.jpg") == (130, "", "")


def test_version_is_printed(run):
    assert run("--version") == (0, f"{pocketdet.__version__}\n", "")


@pytest.mark.parametrize("verb", VERBS)
def test_help_tells_what_every_option_is_for(run, verb):
    code, output, _ = run(verb, "--help")
    assert code == 0
    assert f"Usage: pocketdet {verb}" in output
    assert "--json" in output


def test_help_lists_all_verbs(run):
    code, output, _ = run("--help")
    assert code == 0
    assert all(verb in output for verb in VERBS)


@pytest.fixture
def labelled(tmp_path, picture):
    """A data set in YOLO's layout: one picture, one object, 24 x 16 of 64 x 64 pixels."""
    root = tmp_path / "set"
    for folder in ("images", "labels"):
        (root / folder / "train").mkdir(parents=True)
    shutil.copy(picture, root / "images/train/red.png")
    (root / "labels/train/red.txt").write_text("0 0.5 0.5 0.375 0.25\n")
    (root / "data.yaml").write_text("train: images/train\nnames: [cell]\n")
    return root


def test_check_exits_with_0_1_or_2_by_what_it_found(run, labelled):
    code, output, errors = run("check", labelled)
    assert (code, errors) == (0, "")
    assert "nothing is wrong" in output
    label = labelled / "labels/train/red.txt"
    label.write_text(f"{label.read_text()}0 0.5 0.5 0 0\n")
    code, output, _ = run("check", labelled)
    assert code == 1
    assert f"no-area: {label}:2 (cell): its box has no area" in output
    label.write_text(f"{label.read_text()}1 0.5 0.5 0.5 0.5\n")
    code, output, _ = run("check", labelled, "--json", "--size", 64)
    assert code == 2
    document = json.loads(output)
    assert document["counts"] == {"no-area": 1, "unknown-class": 1}
    assert document["smallest"] == [
        {"file": str(labelled / "images/train/red.png"), "class_name": "cell", "width": 24.0, "height": 16.0}
    ]


def test_check_fix_writes_a_copy_that_is_clean_and_leaves_the_data_set_as_it_was(run, labelled, tmp_path):
    (labelled / "labels/train/red.txt").write_text("0 0.5 0.5 0.375 0.25\n7 0.5 0.5 0.5 0.5\n")
    before = {path: path.read_bytes() for path in labelled.rglob("*") if path.is_file()}
    code, _, errors = run("check", labelled, "--fix", tmp_path / "clean", "--format", "coco")
    assert code == 2
    assert "a clean copy with 1 pictures" in errors
    assert {path: path.read_bytes() for path in labelled.rglob("*") if path.is_file()} == before
    assert run("check", tmp_path / "clean")[0] == 0
    assert_one_message(run("check", labelled, "--fix", tmp_path / "clean"), "not an empty folder")


@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_a_wrong_label_says_that_check_finds_all_of_them(run, verb, labelled, tmp_path, tiny_model):
    pytest.importorskip("torch")
    (labelled / "labels/train/red.txt").write_text("7 0.5 0.5 0.5 0.5\n")
    options = {"train": ("--output", tmp_path / "run"), "evaluate": ("--model", tiny_model, "--split", "train")}
    assert_one_message(run(verb, labelled, *options[verb]), "red.txt:1: class id 7", f"`pocketdet check {labelled}`")


def test_demo_draws_both_pictures_side_by_side(run, tiny_model, tmp_path, monkeypatch):
    shutil.copytree(loading.ASSETS, tmp_path / "assets", ignore=shutil.ignore_patterns("*.onnx"))
    shutil.copy(tiny_model, tmp_path / "assets" / "animals.onnx")
    entry = {"file": "animals.onnx", "sha256": hashlib.sha256(tiny_model.read_bytes()).hexdigest()}
    (tmp_path / "assets" / "bundled.json").write_text(json.dumps({"animals": entry}))
    monkeypatch.setattr(loading, "ASSETS", tmp_path / "assets")
    monkeypatch.chdir(tmp_path)
    code, output, _ = run("demo", "--json")
    assert code == 0
    assert [Path(p["source"]).name for p in json.loads(output)["pictures"]] == ["chelsea.jpg", "astronaut.jpg"]
    with Image.open("demo.jpg") as drawn:
        assert drawn.size == (451 + 512, 512)


@pytest.mark.skipif("animals" not in loading.bundled_models(), reason="no detector is bundled yet")
def test_the_bundled_detector_finds_the_cat_and_the_person(run, tmp_path):
    code, output, _ = run("demo", "--output", tmp_path / "demo.jpg", "--json")
    assert code == 0
    best = [picture["objects"][0] for picture in json.loads(output)["pictures"]]
    assert [found["class"] for found in best] == ["cat", "person"]
    # Chelsea's head fills most of her picture.
    left, top, right, bottom = best[0]["box"]
    assert (right - left) * (bottom - top) > 0.4 * 451 * 300


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A data set in YOLO's layout and a run of two epochs on it."""
    pytest.importorskip("torch")
    root = tmp_path_factory.mktemp("trained")
    draws = np.random.default_rng(0)
    for split in ("train", "val"):
        (root / "data" / "images" / split).mkdir(parents=True)
        (root / "data" / "labels" / split).mkdir(parents=True)
        for n in range(4):
            pixels = draws.integers(0, 60, (64, 96, 3), np.uint8)
            pixels[16:48, 24:72] = (200, 30, 30)
            Image.fromarray(pixels).save(root / "data" / "images" / split / f"{n}.png")
            (root / "data" / "labels" / split / f"{n}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (root / "data" / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [block]\n")
    options = (
        "--model mobilenet_v3_small --width 0.35 --neck-width 0.25 --size 64 --epochs 2 --batch-size 2 --val-split val"
    )
    command = ["train", str(root / "data"), "--output", str(root / "run"), "--no-bf16", *options.split()]
    assert cli.main([*command, "--evaluate-every", "1"]) == 0
    return root


def test_train_does_not_write_over_a_run(run, trained):
    assert_one_message(run("train", trained / "data", "--output", trained / "run"), "--resume")


def test_train_goes_on_from_a_finished_run_and_reports_in_json(run, trained):
    code, output, _ = run("train", trained / "data", "--output", trained / "run", "--resume", "--json")
    assert code == 0
    result = json.loads(output)
    assert result["epochs"] == 2
    assert Path(result["best"]) == trained / "run" / "best.safetensors"


def test_evaluate_prints_a_table_or_one_document(run, trained):
    arguments = ("evaluate", trained / "data", "--model", trained / "run", "--split", "val")
    code, output, _ = run(*arguments)
    assert code == 0
    assert "block" in output
    code, output, errors = run(*arguments, "--classes", "block", "--json")
    assert (code, errors) == (0, "")
    assert 0 <= json.loads(output)["ap50"] <= 1


def test_an_unknown_class_gives_one_message(run, trained, tiny_model):
    assert_one_message(run("evaluate", trained / "data", "--model", tiny_model, "--classes", "blok"), "'blok'", "block")


def test_a_checkpoint_and_its_export_find_the_same(run, trained, tmp_path):
    pytest.importorskip("onnxscript")
    code, output, _ = run("export", trained / "run", "--output", tmp_path / "block.onnx", "--json")
    assert code == 0
    json.loads(output)
    pictures = trained / "data" / "images" / "val"
    found = []
    for model in (trained / "run", tmp_path / "block.onnx"):
        code, output, _ = run("predict", pictures, "--model", model, "--score-threshold", 0.001, "--json")
        assert code == 0
        found.append(json.loads(output)["pictures"])
    counts = [[len(picture["objects"]) for picture in one] for one in found]
    assert counts[0] == counts[1]
    for ours, theirs in zip(*found, strict=True):
        for a, b in zip(ours["objects"], theirs["objects"], strict=True):
            np.testing.assert_allclose(a["box"], b["box"], atol=0.2)


def test_explain_knows_backbones_and_checkpoints(run, trained):
    pytest.importorskip("torch")
    code, output, _ = run("explain", "mobilenet_v3_small", "--size", 64, "--num-classes", 2)
    assert code == 0
    assert "multiply-adds" in output
    code, output, _ = run("explain", trained / "run", "--json")
    assert code == 0
    assert json.loads(output)["totals"]["parameters"] > 0


def test_a_reader_that_stops_reading_is_no_error():
    command = [sys.executable, "-m", "pocketdet", "explain", "mobilenet_v1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdout.close()
        messages = run.stderr.read()
    assert run.returncode == 0
    assert messages == ""


def test_evaluate_writes_a_report_and_keeps_json_one_document(run, trained, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "new" / "report.html"
    arguments = ("evaluate", trained / "data", "--model", trained / "run", "--split", "val", "--json")
    code, output, errors = run(*arguments, "--report", path)
    assert code == 0
    assert f"{json.loads(output)['ap50']:.3f}" in path.read_text(encoding="utf-8")
    assert str(path) in errors


def test_a_report_that_cannot_be_written_is_refused_before_the_evaluation(run, tmp_path):
    pytest.importorskip("matplotlib")
    assert_one_message(run("evaluate", "absent-folder", "--report", tmp_path), "a folder")


@pytest.fixture
def darknet_files(tmp_path):
    """A network of two layers for one class, with zeros as weights."""
    torch = pytest.importorskip("torch")
    from pocketdet.models.darknet.weights import write_weights
    from pocketdet.models.detector import build_darknet

    text = (
        "[net]\nwidth=32\nheight=32\n[convolutional]\nfilters=4\nstride=32\nsize=32\nactivation=relu\n"
        "[convolutional]\nfilters=6\nactivation=linear\n[yolo]\nanchors=8,8\nclasses=1\nscale_x_y=1.05\n"
    )
    (tmp_path / "a.cfg").write_text(text)
    detector = build_darknet(text)
    torch.nn.init.constant_(detector.head.levels[0].objectness.bias, 5)
    torch.nn.init.constant_(detector.head.levels[0].classes.bias, 5)
    write_weights(detector, tmp_path / "a.weights")
    return tmp_path / "a.cfg", tmp_path / "a.weights"


def test_import_makes_a_checkpoint_of_darknets_files(run, darknet_files, tmp_path, picture):
    output = tmp_path / "a.safetensors"
    code, printed, errors = run("import", *darknet_files, "--classes", "red", "-o", output)
    assert (code, errors) == (0, "")
    assert "a.safetensors: 12,322 parameters, 1 classes, 32 x 32 pixels" in printed
    code, printed, _ = run("predict", picture, "--model", output, "--json")
    assert code == 0
    assert [found["class"] for found in json.loads(printed)["pictures"][0]["objects"]] == ["red"]


def test_import_says_what_the_source_lacks(run, darknet_files, tmp_path):
    configuration, weights = darknet_files
    weights.write_bytes(weights.read_bytes()[: 20 + 4 * (4 + 3 * 32 * 32 * 4)])
    (tmp_path / "a.names").write_text("red\n")
    code, printed, _ = run(
        "import", weights, configuration, "--names", tmp_path / "a.names", "-o", tmp_path / "a.safetensors", "--json"
    )
    assert code == 0
    document = json.loads(printed)
    assert (document["missing"], document["unused"], document["class_names"]) == (["layer 1 (line 9)"], [], ["red"])


def test_import_asks_for_the_names_of_the_classes(run, darknet_files, tmp_path):
    assert_one_message(
        run("import", *darknet_files, "-o", tmp_path / "a.safetensors"), "1 classes apart, and 0 names", "--classes"
    )


def test_import_says_what_it_can_read(run, tmp_path):
    assert_one_message(run("import", "a.onnx", "-o", tmp_path / "a.safetensors"), "a.onnx", "NAME.cfg NAME.weights")
