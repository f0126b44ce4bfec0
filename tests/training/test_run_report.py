import csv
import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from pocketdet.datasets.load import load_dataset
from pocketdet.errors import MissingExtraError
from pocketdet.reports import charts
from pocketdet.training import TrainSettings, train
from pocketdet.training.loader import EpochBatches, TrainingPictures
from pocketdet.training.run_report import GAP, SIDE, draw_first_batch

pytest.importorskip("matplotlib")

SMALL = TrainSettings(
    model="mobilenet_v3_small",
    width=0.35,
    neck_width=0.125,
    size=64,
    epochs=2,
    batch_size=4,
    evaluate_every=1,
    bf16=False,
)


def test_a_run_writes_a_report_of_its_best_detector(drawn_voc: Path, tmp_path: Path) -> None:
    result = train(drawn_voc, dataclasses.replace(SMALL, output=tmp_path / "run"))
    text = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    top = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", text))
    assert (top["AP"], top["AP50"]) == (f"{result.ap:.3f}", f"{result.ap50:.3f}")
    assert "<tr><th>pictures</th><td>12</td><td>4</td></tr>" in text
    assert "<tr><th>batch_size</th><td>4</td></tr>" in text
    assert "learning rate" in text
    rows = list(csv.DictReader((tmp_path / "run/results.csv").read_text().splitlines()))
    assert [row["dead_kernels"] for row in rows] == ["0", "0"]
    assert "<th>all layers</th>" in text
    assert "dead depthwise kernels" in text


def test_a_report_that_cannot_be_written_does_not_lose_the_run(
    drawn_voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise MissingExtraError("no charts here")

    monkeypatch.setattr(charts, "require_matplotlib", refuse)
    result = train(drawn_voc, dataclasses.replace(SMALL, epochs=1, output=tmp_path / "run"))
    assert result.best.exists()
    assert "no report: no charts here" in capsys.readouterr().err
    assert not (tmp_path / "run/report.html").exists()


def test_the_batch_is_the_one_that_the_network_saw_first(drawn_voc: Path) -> None:
    training = load_dataset(drawn_voc, ("train",))
    settings = dataclasses.replace(SMALL, size=SIDE, batch_size=3)
    grid = draw_first_batch(training, settings, (114, 114, 114))
    assert grid.shape == (SIDE + GAP, 3 * (SIDE + GAP), 3)
    items = next(iter(EpochBatches(len(training.records), 3, settings.seed)))
    for number, item in enumerate(items):
        seen = TrainingPictures(training.records, settings, (114, 114, 114))[item].image
        shown = grid[:SIDE, number * (SIDE + GAP) :][:, :SIDE]
        assert np.mean((shown == seen).all(axis=2)) > 0.5, "boxes and labels cover less than half"
