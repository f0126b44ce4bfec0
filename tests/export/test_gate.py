import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketdet.core.decode import LevelLogits
from pocketdet.core.metadata import ModelMetadata
from pocketdet.errors import ExportError
from pocketdet.export.gate import GateReport, compare

METADATA = ModelMetadata("mobilenet_v2", 1.0, 0.5, "same", ("cat", "dog"), (64, 64))


class Constant:
    """A network that answers the same to every picture: one likely object, all else silent."""

    metadata = METADATA

    def __init__(self, tw: float = 0.0, objectness: float = 2.0) -> None:
        sides = [64 // stride for stride in METADATA.strides]
        self.levels = [
            LevelLogits(
                np.zeros((1, 12, n, n), np.float32),
                np.full((1, 3, n, n), -20, np.float32),
                np.zeros((1, 6, n, n), np.float32),
            )
            for n in sides
        ]
        self.levels[0].boxes[0, 2, 3, 4] = tw  # of the anchor 12 wide and 16 high
        self.levels[0].objectness[0, 0, 3, 4] = objectness

    def run(self, images: np.ndarray) -> list[LevelLogits]:
        assert images.shape == (1, 64, 64, 3)
        return self.levels


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.new("RGB", (80, 50), "green").save(tmp_path / "green.png")
    return tmp_path / "green.png"


def test_a_network_does_not_differ_from_itself(picture: Path):
    report = compare(Constant(), Constant(), [picture, picture])
    assert report == GateReport(2, 0, 0, 0, num_objects=4)  # one of each class
    report.check()


def test_a_box_twice_as_wide_is_off_by_half_its_anchor(picture: Path):
    report = compare(Constant(), Constant(tw=math.log(2)), [picture])
    assert report.max_box_difference_px == pytest.approx(6, abs=1e-4)
    assert report.max_output_difference == pytest.approx(math.log(2))
    assert report.max_score_difference == 0


def test_a_lost_object_is_a_score_difference(picture: Path):
    report = compare(Constant(), Constant(objectness=-20), [picture])
    assert report.max_score_difference == pytest.approx(0.5 / (1 + math.exp(-2)), abs=1e-5)
    with pytest.raises(ExportError, match=r"a score is off by 0\.4404 \(limit 0\.01\), on 1 pictures"):
        report.check()


@pytest.mark.parametrize(("file_ap", "passes"), [(0.5009, True), (0.4991, True), (0.4985, False), (0.502, False)])
def test_ap_may_drift_by_a_tenth_of_a_point(file_ap: float, passes: bool):
    report = GateReport(9, 0.01, 0, 0, checkpoint_ap=0.5, file_ap=file_ap)
    if passes:
        report.check()
        assert report.to_metrics()["gate_ap_difference"] == pytest.approx(file_ap - 0.5)
    else:
        with pytest.raises(ExportError, match="AP is off"):
            report.check()


def test_ap_may_change_by_more_where_outputs_differ_by_round_off_alone():
    report = GateReport(6, 9e-5, 0, 0, checkpoint_ap=0.10, file_ap=0.12)
    report.check()
    for off in (2e-4, math.nan):
        with pytest.raises(ExportError, match="AP is off"):
            dataclasses.replace(report, max_output_difference=off).check()


def test_objects_are_compared_as_people_see_them(picture: Path):
    same = compare(Constant(), Constant(tw=0.25, objectness=1.5), [picture])
    assert (same.num_objects, same.num_unmatched) == (2, 0)
    assert same.max_object_box_difference_px == pytest.approx(6 * (math.exp(0.25) - 1), abs=1e-4)
    probability = [1 / (1 + math.exp(-logit)) for logit in (2, 1.5)]
    assert same.max_object_score_difference == pytest.approx(0.5 * (probability[0] - probability[1]), abs=1e-5)
    assert same.to_metrics()["gate_max_object_box_difference_px"] == same.max_object_box_difference_px


@pytest.mark.parametrize(("objectness", "pairs", "unmatched"), [(0.0, 2, 0), (-2.0, 0, 2)])
def test_a_partner_may_have_a_lower_score_but_not_a_tiny_one(
    picture: Path, objectness: float, pairs: int, unmatched: int
):
    for networks in [(Constant(), Constant(objectness=objectness)), (Constant(objectness=objectness), Constant())]:
        report = compare(*networks, [picture])
        assert (report.num_objects, report.num_unmatched) == (pairs, unmatched)


def test_a_box_elsewhere_is_no_partner(picture: Path):
    report = compare(Constant(), Constant(tw=1.5), [picture])  # IoU 0.22
    assert (report.num_objects, report.num_unmatched, report.max_object_box_difference_px) == (0, 4, 0)


def test_int8_is_judged_by_its_loss_of_ap50_alone():
    report = GateReport(200, 5, 9, 0.4, 0.40, 0.38, checkpoint_ap50=0.70, file_ap50=0.691)
    report.check("int8")
    with pytest.raises(ExportError, match="a box is off by 9 pixels"):
        report.check()
    worse = dataclasses.replace(report, file_ap50=0.689)
    with pytest.raises(ExportError, match=r"AP50 is off by 0\.011 \(limit 0\.01\).*--allow-drift"):
        worse.check("int8")
    worse.check("int8", allow_drift=True)
    with pytest.raises(ExportError, match="AP50 is off by nan"):
        dataclasses.replace(report, max_output_difference=math.nan).check("int8", allow_drift=True)
