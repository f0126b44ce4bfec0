import base64
import html.parser
import importlib.util
import io
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from pocketdet.core.metadata import ModelMetadata
from pocketdet.datasets.records import Dataset
from pocketdet.errors import MissingExtraError, SettingsError
from pocketdet.evaluation import evaluate
from pocketdet.reports import Report, charts, check_report_file, write_report
from pocketdet.reports.gallery import PICTURES, SIDE, show_mistakes
from pocketdet.reports.matching import confuse
from pocketdet.reports.report import to_html

pytest.importorskip("matplotlib")

EVIL = "<script>alert('$1$ & 2')</script>"
ROWS = (
    {"epoch": 1, "learning_rate": 1e-3, "loss": 3.0, "box_loss": 1.0, "objectness_loss": 1.0, "class_loss": 1.0},
    {"epoch": 2, "learning_rate": 1e-4, "loss": 2.0, "box_loss": 0.5, "objectness_loss": 1.0, "AP": 0.1, "AP50": 0.3},
)


class Outline(html.parser.HTMLParser):
    """Checks that elements are closed in order, and keeps references, ids and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sources, self.ids, self.words = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.sources += [values[name] for name in ("src", "href", "xlink:href") if name in values]
        self.ids += [values["id"]] if "id" in values else []
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in ("meta", "img"):
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def build(tmp_path, record, detections):
    """A report on 14 grey pictures: each has a cat found, a dog missed, an emu taken for a cat, and a false emu."""
    boxes = [[0, 0, 30, 30], [60, 0, 90, 30], [0, 60, 30, 90]]
    records = []
    for number in range(14):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (100, 100), (90, 90, 90)).save(path)
        records.append(record(boxes, [0, 1, 2], path=path))
    found = detections([boxes[0], boxes[2], [50, 50, 99, 99]], [0.9, 0.8, 0.7], [0, 0, 2])

    def build_it(names=("cat", "dog", "emu"), **values):
        dataset = Dataset(tuple(records), names, ("bad.xml: a box without area",))
        result = evaluate(
            lambda _: found.__class__(found.boxes, found.scores, found.class_ids, names, (100, 100)), dataset
        )
        metadata = ModelMetadata("mobilenet_v2", 1.0, 0.5, "same", names, (64, 64))
        return Report("a title", result, {"val": dataset}, "val", metadata, {"model": "m"}, **values)

    return build_it


def test_the_page_is_one_file_that_refers_to_nothing_outside(build, tmp_path):
    path = tmp_path / "new folder" / "report.html"
    batch = np.zeros((64, 64, 3), np.uint8)
    write_report(build(rows=ROWS, batch=batch), path)
    text = path.read_text(encoding="utf-8")
    page = Outline(text)
    assert all(source.startswith(("data:image/jpeg;base64,", "#")) for source in page.sources)
    assert not re.search(r"url\((?!#)|@import|<link|<script", text)
    assert len(text) < 5e6


def test_every_reference_within_the_page_is_to_one_place(build):
    text = to_html(build(rows=ROWS))
    page = Outline(text)
    wanted = {source[1:] for source in page.sources if source.startswith("#")} | set(re.findall(r"url\(#(.*?)\)", text))
    assert wanted <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_training_parts_are_there_only_for_a_training(build):
    parts = {"Classes", "Precision, recall and F1", "Confusion", "Object sizes", "Worst mistakes", "Data", "Left out"}
    parts |= {"Settings", "Environment"}
    assert set(re.findall("<h2>(.*?)</h2>", to_html(build()))) == parts
    with_training = to_html(build(rows=ROWS, batch=np.zeros((64, 64, 3), np.uint8)))
    assert set(re.findall("<h2>(.*?)</h2>", with_training)) == parts | {"Training", "What the network saw"}


def test_the_page_shows_the_figures_worked_by_hand(build):
    text = to_html(build())
    # From 0.8 to below 0.9 only the cats are shown, all of them right; below, half of the boxes named cat are emus.
    assert re.search("<th>cat</th><td>14</td>.*?<td>0.850</td><td>1.000</td><td>1.000</td><td>1.000</td></tr>", text)
    confusion = text[text.index("<h2>Confusion") : text.index("<h2>Object sizes")]
    rows = {
        name: re.findall(r"<td.*?>(\d*)</td>", row)
        for name, row in re.findall("<tr><th>(.*?)</th>(.*?)</tr>", confusion)
    }
    assert rows["cat"] == ["14", "", "", ""]
    assert rows["dog"] == rows["emu"] == ["", "", "", "14"]
    assert rows["background"] == ["", "", "", ""]
    assert "<th>small</th><td>42</td>" in text
    assert "bad.xml: a box without area" in text


def test_names_cannot_become_markup(build):
    text = to_html(build(names=(EVIL, "猫", "a & b"), rows=ROWS))
    assert "<script" not in text
    assert EVIL in "".join(Outline(text).words)


def test_mistakes_become_pictures_each_from_another_file(build):
    report = build()
    confusion = confuse(report.evaluation.detections, report.dataset, 0.5)
    gallery = show_mistakes(confusion, report.evaluation.detections, report.dataset)
    for examples, words in zip(
        gallery, ("nothing labelled there", "no box as dog fits", "cat instead of emu"), strict=True
    ):
        assert len({example.caption for example in examples}) == PICTURES
        assert all(example.caption.endswith(words) for example in examples)
        with Image.open(io.BytesIO(examples[0].jpeg)) as picture:
            assert max(picture.size) == SIDE
            assert len(picture.getcolors(1 << 16)) > 10, "nothing is drawn in"


def test_a_picture_that_is_gone_is_left_out(build):
    report = build()
    for record in report.dataset.records[1:]:
        record.path.unlink()
    text = to_html(report)
    assert text.count("<img") == 1  # at the best threshold there are only misses
    pictures = re.findall('src="data:image/jpeg;base64,(.*?)"', text)
    assert all(base64.b64decode(picture).startswith(b"\xff\xd8") for picture in pictures)


def test_of_many_classes_the_ones_with_the_most_mistakes_are_shown(record, detections, tmp_path):
    names = tuple(f"class {n}" for n in range(60))
    boxes = [[n % 10 * 10, n // 10 * 10, n % 10 * 10 + 9, n // 10 * 10 + 9] for n in range(60)]
    found = detections(boxes[:25], [0.9] * 25, list(range(25)))
    found = found.__class__(found.boxes, found.scores, found.class_ids, names, (100, 100))
    dataset = Dataset((record(boxes, list(range(60)), path=tmp_path / "gone.jpg"),), names)
    metadata = ModelMetadata("mobilenet_v2", 1.0, 0.5, "same", names, (64, 64))
    text = to_html(Report("t", evaluate(lambda _: found, dataset), {"val": dataset}, "val", metadata, {}))
    heat = text[text.index("<tbody>", text.index('class="heat"')) :]
    shown = re.findall("<tr><th>(.*?)</th>", heat[: heat.index("</table>")])
    assert len(shown) == 41
    assert set(names[25:]) <= set(shown)


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1]])
def test_a_chart_is_xml_in_the_page_s_colour(rows):
    chart = charts.training_chart(rows)
    assert ElementTree.fromstring(chart).tag.endswith("svg")
    assert "currentColor" in chart
    assert charts.INK not in chart


def test_a_missing_matplotlib_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pocketdet\[report\]"):
        check_report_file(tmp_path / "report.html")


def test_a_place_that_cannot_be_written_is_refused_before_any_work(tmp_path):
    with pytest.raises(SettingsError, match="a folder"):
        check_report_file(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="cannot be written"):
        check_report_file(tmp_path / "file" / "report.html")


def test_epochs_are_whole_numbers():
    for epochs in ((1, 2, 3), (3,)):
        chart = charts.kernel_chart([{"epoch": epoch, "dead_kernels": 100.0} for epoch in epochs])
        marks = re.findall(r">([\d.]+)</text>", chart)
        assert {"1", "2", "3"} & set(marks)
        assert [mark for mark in marks if re.fullmatch(r"[123]\.\d+", mark)] == []
