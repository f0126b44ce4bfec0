"""The documented commands are run, in the order of their page, on small made data under the names of the documents.

A training takes one epoch at 64 pixels, a benchmark one round. What is not run stands in NOT_RUN with its reason; a
command that is new in the documents is run, or has to be listed there.
"""

import importlib.util
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pocketdet
from pocketdet.cli import main
from pocketdet.loading import ASSETS

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.timeout(1200)  # a page's commands are one test; the first one makes the world, too

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *(p for p in sorted((ROOT / "docs").glob("*.md")) if ".zh-CN" not in p.name)]
CLASSES = {"my-pictures": ("cat", "person"), "voc12-animals": ("cat", "cow", "dog", "horse", "person", "sheep")}
PROGRAMS = ("pocketdet", "pip", "make", "curl", "python", "torchrun", "#")
# What the world's runs and files are made by; all of them are commands of the documents.
TRAIN = "pocketdet train my-pictures --model mobilenet_v2 --neck-width 0.5 --size 320 --epochs 60 --output runs/mine"
FIRST = [
    TRAIN,
    "pocketdet export runs/mine --output mine.onnx --data my-pictures",
    "pocketdet export runs/mine --format darknet --output mine.cfg",
]

ANOTHER_EXPORT = "exports take 10 s and more; the one of README.md is run, tests/export runs each format"
STREAM = "needs a camera or a stream; tests/runtime/test_live.py has one"
CLUSTER = "starts a cluster; tests/distributed does"
CONVERTER = "needs the converter to TFLite; make test-tflite runs it"
NOT_RUN = {  # by a pattern of how the command begins
    "pip install": "installs",
    "make": "installs; CI runs make test, which is all that is here",
    "curl": "tests/web/test_server.py asks a server with them",
    "pocketdet serve --model animals$": "serves until it is stopped; tests/web/test_server.py does",
    "torchrun": "starts processes; tests/training/test_processes.py does, with two",
    "python benchmarks": "measures for minutes; its options are looked up below",
    "pocketdet train my-pictures --output runs/mine --logger wandb": "needs wandb; tests/training/test_loggers.py",
    "pocketdet predict rtsp:": STREAM,
    "pocketdet predict 0 ": STREAM,
    "pocketdet track 0 ": STREAM,
    "pocketdet predict photos --ray": CLUSTER,
    "pocketdet predict list": CLUSTER,
    "pocketdet export animals --format tflite": CONVERTER,
    "pocketdet predict photo.jpg --model animals.tflite": CONVERTER,
    "pocketdet export runs/cells --output cells.onnx": ANOTHER_EXPORT,
    "pocketdet export runs/mine --format openvino": ANOTHER_EXPORT,
    "pocketdet export runs/mine --format onnx": ANOTHER_EXPORT,
    "pocketdet export runs/mine --int8": ANOTHER_EXPORT,
    "pocketdet export animals --(int8|decode|nms|dynamic)": ANOTHER_EXPORT,
    "pocketdet export (mine|best).safetensors": ANOTHER_EXPORT,
    "pocketdet export yolov4.safetensors": ANOTHER_EXPORT,
    "pocketdet export animals --format (executorch|coreml)": ANOTHER_EXPORT,
    "pocketdet predict photo.jpg --model animals.pte": "needs the file of an export that is not run",
    "pocketdet benchmark .* --plot docs/": "draws into the documents; the one of export.md is run",
}


def blocks(page: Path) -> Iterator[list[str]]:
    """The indented blocks of a page that are commands or Python."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for block in re.findall(r"(?:^(?: {4}.*)?\n)+", text, re.MULTILINE):
        lines = [line[4:].rstrip() for line in block.splitlines() if line.strip()]
        if lines and lines[0].split()[0] in (*PROGRAMS, "import", "from", "detector"):
            yield lines


def shell(page: Path) -> list[str]:
    """The commands of a page, without comments and redirections, then the complete ones in its running text."""
    lines = [line for block in blocks(page) for line in block if line.split()[0] in PROGRAMS[:-1]]
    lines += re.findall(r"`(pocketdet [a-z]+ [^`…]*|python benchmarks[^`]*)`", page.read_text(encoding="utf-8"))
    commands = [re.sub(r"\s+", " ", re.split(r"\s+[#>|]|\s*…|\s*<<", line)[0]) for line in lines]
    return [c for c in dict.fromkeys(commands) if c != "python -" and not re.search(r"\b[A-Z]{2,}\b|\.\.\.|--help", c)]


def python(page: Path) -> str:
    """All Python of a page, in one go: what follows the commands of a block, or stands between EOFs."""
    lines = [line for block in blocks(page) for line in block if line.split()[0] not in PROGRAMS and line != "EOF"]
    return "\n".join(lines).replace("rtsp://10.0.0.7/yard", "street.mp4")


def reason(command: str) -> str | None:
    """Why a command is not run."""
    return next((why for start, why in NOT_RUN.items() if re.match(start, command)), None)


def shrink(command: str) -> list[str]:
    """A command's words, made quick."""
    words = shlex.split(command)[1:]
    small = {"train": {"--epochs": "1", "--size": "64", "--batch-size": "4"}, "benchmark": {"--rounds": "1"}}
    options = small.get(words[0], {}) if "--resume" not in words else {}
    if "--pseudo-label" in words:
        options |= {"--pseudo-score": "0.001"}  # after one epoch the teacher is sure of nothing
    for option, value in options.items():
        if option in words:
            words[words.index(option) + 1] = value
        else:
            words += [option, value]
    if "--freeze-epochs" in words:
        words[words.index("--freeze-epochs") + 1] = "1"
    return words


def write_scripts_checkpoint(folder: Path) -> None:
    """A checkpoint of the MobileNet-YOLOv4 scripts with random weights, and its classes."""
    torch.manual_seed(0)
    path = Path(__file__).parent / "models" / "test_import_scripts.py"
    spec = importlib.util.spec_from_file_location("test_import_scripts", path)
    assert spec is not None
    assert spec.loader is not None
    scripts = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scripts)
    script = scripts.Script("mobilenet_v2", classes=2)
    script(torch.rand(2, 3, 64, 64))
    torch.save(script.state, folder / "best_epoch_weights.pth")
    (folder / "voc_classes.txt").write_text("cat\nperson\n")


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, voc_writer: Callable[..., Path], video_writer: Callable[..., Path]
) -> Iterator[Callable[[str], int]]:
    """Runs a command, once, in a folder where all that the documents name is there."""
    folder = tmp_path_factory.mktemp("world")
    for name, classes in CLASSES.items():
        voc_writer(folder / name, classes)
    for copy in ("bccd", "VOCdevkit/VOC2007"):
        shutil.copytree(folder / "my-pictures", folder / copy)
    cat = Image.open(ASSETS / "chelsea.jpg").convert("RGB").resize((225, 150))
    for name in ("photo.jpg", "smear.jpg", "field-from-above.jpg", "photos/1.jpg", "photos/2.jpg", "more/3.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        cat.save(folder / name)
    for copy in ("smears", "more-pictures"):
        shutil.copytree(folder / "photos", folder / copy)
    frames = [Image.new("RGB", (160, 96)) for _ in range(6)]
    for n, frame in enumerate(frames):
        frame.paste(cat.resize((96, 64)), (8 * n, 16))
    for name in ("holiday.mp4", "street.mp4"):
        video_writer(folder / name, [np.asarray(frame) for frame in frames])
    write_scripts_checkpoint(folder)
    done: dict[str, int] = {}

    def run(command: str) -> int:
        words = shrink(command)
        meaning = " ".join(words).replace(" --model mobilenet_v2", "").replace(" --neck-width 0.5", "")  # the defaults
        if meaning not in done:
            if words[0] == "train" and "--resume" not in words:
                output = words[words.index("--output") + 1] if "--output" in words else "runs/train"
                shutil.rmtree(output, ignore_errors=True)
            done[meaning] = main(words)
        return done[meaning]

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in FIRST:
            assert run(command) == 0, command
        for name in ("cfg", "weights", "names"):
            shutil.copy(f"mine.{name}", f"yolov4.{name}")
        for name in ("coco.names", "obj.names"):
            shutil.copy("mine.names", name)
        shutil.copy("mine.onnx", "cells.onnx")
        shutil.copytree("runs/mine", "runs/kept")
        assert main(["check", "my-pictures", "--fix", "yolo", "--format", "yolo"]) < 2
        Path("data.yaml").write_text("path: yolo\n" + Path("yolo/data.yaml").read_text())
        yield run


@pytest.mark.parametrize("page", [p.name for p in PAGES if [c for c in shell(p) if reason(c) is None]])
def test_the_commands_of_a_page_work(page: str, world: Callable[[str], int]):
    (path,) = (p for p in PAGES if p.name == page)
    shutil.copytree("runs/kept", "runs/mine", dirs_exist_ok=True)  # whatever another page left there
    for command in shell(path):
        if reason(command) is None:
            assert world(command) in ((0, 1) if command.startswith("pocketdet check") else (0,)), command


@pytest.mark.parametrize("page", [p.name for p in PAGES if python(p)])
def test_the_python_of_a_page_works(page: str, world: Callable[[str], int], capsys: pytest.CaptureFixture[str]):
    (path,) = (p for p in PAGES if p.name == page)
    exec(python(path), {"pocketdet": pocketdet})
    if page not in ("predicting.md", "api.md"):
        assert capsys.readouterr().out


def test_what_is_listed_as_not_run_stands_in_the_documents():
    commands = [command for page in PAGES for command in shell(page)]
    assert len(commands) > 80
    assert [start for start in NOT_RUN if not any(re.match(start, command) for command in commands)] == []
    assert [command for command in FIRST if command not in commands] == []


@pytest.mark.parametrize(
    "command", sorted({c for page in PAGES for c in shell(page) if c.startswith("python benchmarks")})
)
def test_the_options_of_a_documented_benchmark_exist(command: str):
    script, *words = shlex.split(command)[1:]
    source = (ROOT / script).read_text(encoding="utf-8")
    for option in (word for word in words if word.startswith("--")):
        assert f'"{option}"' in source, f"{script} has no {option}"
