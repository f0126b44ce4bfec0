import json
import subprocess
import sys

import pytest

from pocketdet.benchmark import Benchmark, Row, plot, run_benchmark
from pocketdet.cli import main
from pocketdet.errors import ModelFileError, SettingsError


def row(**changes: object) -> Row:
    values = {"model": "a.onnx", "backbone": "mobilenet_v2", "precision": "half", "threads": 1, "median_ms": 20.0}
    values |= {"p90_ms": 25.0, "load_ms": 100.0, "peak_mib": 80.0, "num_bytes": 3_000_000}
    return Row(**(values | changes))


def test_every_model_is_measured_on_every_number_of_threads(tiny_model):
    result = run_benchmark([str(tiny_model)], threads=(1, 2), rounds=3)
    assert [(one.threads, one.backbone) for one in result.rows] == [(1, "mobilenet_v2"), (2, "mobilenet_v2")]
    for one in result.rows:
        assert 0 < one.median_ms <= one.p90_ms
        assert one.load_ms > 0
        assert 20 < one.peak_mib < 2000
        assert one.num_bytes == tiny_model.stat().st_size
        assert one.ap is None


def test_the_table_holds_the_ratios_to_the_first_row():
    text = Benchmark((row(), row(model="b.onnx", median_ms=30.0, ap=0.5, ap50=0.75)), 5).to_text().splitlines()
    assert text[0].split()[-2:] == ["AP50", "AP"]
    assert text[1].split() == ["a.onnx", "half", "1", "20.0", "25.0", "1.00", "100", "80", "3.0", "-", "-"]
    assert text[2].split() == ["b.onnx", "half", "1", "30.0", "25.0", "1.50", "100", "80", "3.0", "75.0", "50.0"]


def test_json_is_one_document(tiny_model, capsys):
    assert main(["benchmark", str(tiny_model), "--rounds", "2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["rounds"] == 2
    assert document["rows"][0]["model"] == str(tiny_model)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_picture_is_of_the_kind_that_its_name_says(tmp_path, suffix):
    pytest.importorskip("matplotlib")
    plot(Benchmark((row(ap=0.4, ap50=0.7), row(threads=2, ap=0.4, ap50=0.7)), 5), tmp_path / f"plot.{suffix}")
    content = (tmp_path / f"plot.{suffix}").read_bytes()
    assert content.startswith(b"\x89PNG") if suffix == "png" else b"a.onnx, half, 2 threads" in content


def test_what_cannot_be_measured_is_refused(tmp_path, tiny_model):
    with pytest.raises(ModelFileError, match=r"absent\.onnx"):
        run_benchmark([str(tmp_path / "absent.onnx")])
    with pytest.raises(SettingsError, match="at least one model, one round and one thread"):
        run_benchmark([])
    with pytest.raises(SettingsError, match="at least one model, one round and one thread"):
        run_benchmark([str(tiny_model)], threads=(0,))
    with pytest.raises(SettingsError, match="name a data set by --data"):
        plot(Benchmark((row(),), 5), tmp_path / "plot.png")
    with pytest.raises(SettingsError, match="the picture cannot be written"):
        plot(Benchmark((row(ap=0.4),), 5), tmp_path / "plot.unknown")


def test_it_needs_no_torch(tiny_model):
    code = (
        "import sys, pocketdet.benchmark as b; b.run_benchmark([sys.argv[1]], rounds=1); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tiny_model)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
