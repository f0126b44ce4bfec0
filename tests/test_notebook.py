"""The notebook of the documents, cell by cell in one namespace."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.timeout(1200)

NOTEBOOK = Path(__file__).parents[1] / "docs" / "tutorial.ipynb"


def test_the_notebook_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    names: dict[str, object] = {"__name__": "notebook"}
    printed = []
    for cell in cells:
        exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, {cell['id']}", "exec"), names)
        printed.append(capsys.readouterr().out)
    assert printed[0].startswith("cat 0.")
    assert "stride 32: boxes (1, 12, 13, 13), best cat" in printed[1]
    assert "AP50" in printed[3]
    assert "Compared with the checkpoint" in printed[5]
    assert printed[6].count("ms a picture") == 2
    assert {path.name for path in tmp_path.iterdir()} >= {"cat.jpg", "pictures", "run", "mine.onnx"}


def test_the_notebook_is_stored_without_outputs():
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs"), "clear the outputs before you commit"
        assert cell.get("execution_count") is None
