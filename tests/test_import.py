import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import pocketdet

HEAVY = ("torch", "torchvision", "cv2", "onnx", "safetensors", "lightning_fabric")


def run_python(code, *arguments):
    source = str(Path(pocketdet.__file__).parents[1])
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": source}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=120).stdout


def test_importing_the_package_loads_neither_torch_nor_numpy():
    loaded = json.loads(run_python("import json, sys, pocketdet; print(json.dumps(list(sys.modules)))"))
    assert not {"numpy", "onnxruntime", "PIL", *HEAVY} & set(loaded)


def test_detecting_on_the_command_line_never_loads_torch(tiny_model, red_cell, tmp_path):
    Image.fromarray(red_cell).save(tmp_path / "red.png")
    code = "import sys; from pocketdet.cli import main; assert main(sys.argv[1:]) == 0; print(*sys.modules, sep='\\n')"
    output = run_python(code, "predict", tmp_path / "red.png", "--model", tiny_model, "--output", tmp_path / "drawn")
    assert "red" in output
    assert not set(HEAVY) & set(output.splitlines())


def test_a_verb_imports_neither_the_others_nor_video():
    code = "import sys; from pocketdet.cli import main; main(sys.argv[1:]); print(*sys.modules, sep='\\n')"
    loaded = run_python(code, "predict", "no-such-file.jpg").splitlines()
    assert "pocketdet.cli.predict" in loaded
    assert not {"pocketdet.cli.train", "pocketdet.cli.serve", "pocketdet.web", "pocketdet.runtime.live"} & set(loaded)


def test_every_public_name_is_there():
    for name in pocketdet.__all__:
        assert getattr(pocketdet, name) is not None
    assert pocketdet.load.__module__ == "pocketdet.loading"
    assert set(pocketdet.__all__) <= set(dir(pocketdet))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = pocketdet.lod


def test_the_version_is_the_package_s():
    try:
        installed = importlib.metadata.version("pocketdet")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("pocketdet is not installed, only importable")
    assert pocketdet.__version__ == installed
