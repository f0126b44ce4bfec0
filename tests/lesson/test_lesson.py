import re
import string
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from pocketdet.cli import main
from pocketdet.core.metadata import ModelMetadata
from pocketdet.errors import SettingsError
from pocketdet.lesson import facts, write_lesson
from pocketdet.lesson.papers import paper_rows
from pocketdet.lesson.sights import look, overlay
from pocketdet.lesson.texts import CHINESE, ENGLISH
from pocketdet.loading import ASSETS
from pocketdet.models import BACKBONES, build_from_metadata, explain, save_detector

SMALL = ModelMetadata("mobilenet_v3_small", 0.35, 0.25, "same", ("cat", "dog"), (64, 96))
CAT = ASSETS / "chelsea.jpg"


class Checker(HTMLParser):
    """Collects what a page loads and the tags that it leaves open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.language = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.sources += [str(values[key]) for key in ("src", "href") if key in values]
        self.language = values.get("lang") or self.language
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    assert [source for source in checker.sources if not source.startswith(("data:", "#"))] == []
    return checker


def test_both_languages_say_the_same_with_the_same_figures():
    assert ENGLISH.keys() == CHINESE.keys()
    for key, english in ENGLISH.items():
        fields = [sorted(f[1] or "" for f in string.Formatter().parse(text)) for text in (english, CHINESE[key])]
        assert {f for f in fields[0] if f} == {f for f in fields[1] if f}, key
        assert english.count("|") == CHINESE[key].count("|"), key


def test_chinese_has_its_own_punctuation():
    for text in CHINESE.values():
        assert re.findall(r".*(?:[\u3001\u3002\u4e00-\u9fff][,:;?!()]|[,:;?!()][\u4e00-\u9fff]).*", text) == []


def test_the_missions_figures_are_computed():
    plain, separable = facts.convolution_costs(16, 32)
    assert (plain.weights, separable.weights) == (4608, 656)
    assert plain.multiply_adds == 4608 * 52 * 52
    original, inverted = facts.residual_costs(side=56)
    assert original.weights == 256 * 64 + 9 * 64 * 64 + 64 * 256
    assert inverted.weights == 24 * 144 + 9 * 144 + 144 * 24


def test_eight_bits_are_fine_steps_of_what_torch_computes():
    x = np.linspace(-8, 8, 101)
    for name, function in (
        ("h-swish", torch.nn.functional.hardswish),
        ("hard-sigmoid", torch.nn.functional.hardsigmoid),
        ("swish", torch.nn.functional.silu),
        ("ReLU6", torch.nn.functional.relu6),
    ):
        np.testing.assert_allclose(facts.ACTIVATIONS[name](x), function(torch.from_numpy(x)).numpy(), atol=1e-12)
    errors = {error.name: error for error in facts.quantised_errors()}
    assert errors.keys() == facts.ACTIVATIONS.keys()
    step = 16 / 255
    assert 0.4 * step < errors["ReLU6"].largest < step
    assert all(0 < error.mean < error.largest < 2 * step for error in errors.values())


def test_relu_destroys_less_where_there_are_more_channels():
    lost = facts.lost_by_relu()
    errors = [error for _, error in lost]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.3
    assert errors[-1] < 0.1
    assert lost == facts.lost_by_relu()


@pytest.mark.parametrize("backbone", [name for name in BACKBONES if name.startswith("mobilenet")])
def test_the_papers_table_has_a_row_for_every_block(backbone: str):
    rows = [row for row in explain(backbone, (64, 64)).rows if row.part == "backbone"]
    paper, printed = paper_rows(backbone)
    assert paper.startswith("arXiv")
    assert len(printed) == len(rows)
    for row, line in zip(rows, printed, strict=True):
        assert f"s{row.stride}" in line or "n=" in line


def test_a_trained_network_shows_its_gates_and_where_it_looks():
    torch.manual_seed(0)
    detector = build_from_metadata(SMALL).eval()
    sights = look(detector, SMALL, CAT)
    assert sights.pixels.shape == (64, 96, 3)
    assert len(sights.gates) == 9
    assert all((gate >= 0).all() and (gate <= 1).all() for gate in sights.gates.values())
    assert [level.shape for level in sights.features] == [(8, 12), (4, 6), (2, 3)]
    assert [level.shape for level in sights.scores] == [(2, 8, 12), (2, 4, 6), (2, 2, 3)]
    assert not any(module._forward_hooks for module in detector.modules())


def test_the_overlay_is_orange_where_the_map_is_high():
    heat = np.zeros((2, 2), np.float32)
    heat[0, 1] = 1
    shown = overlay(np.full((8, 8, 3), 100, np.uint8), heat, 1.0)
    assert shown[0, 7, 0] > 200 > shown[0, 7, 2]
    assert (shown[7, 0] == 120).all()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_of_a_checkpoint_needs_nothing_but_itself(tmp_path: Path, language: str):
    torch.manual_seed(0)
    save_detector(tmp_path / "small.safetensors", build_from_metadata(SMALL), SMALL)
    page = tmp_path / "pages" / "lesson.html"
    assert main(["explain", str(tmp_path / "small.safetensors"), "--page", str(page), "--language", language]) == 0
    text = page.read_text(encoding="utf-8")
    assert check(text).language == language
    texts = {"en": ENGLISH, "zh": CHINESE}[language]
    for key in ("table", "map", "separable", "activations", "residual", "gates", "kernels", "sight"):
        assert texts[key].replace("'", "&#x27;") in text
    assert text.count("<img") == 8
    assert "656" in text
    assert "4608" in text
    for key in ("parameters", "multiply_adds", "backbone", "neck", "head"):
        assert texts[key] in text
    if language == "zh":
        left = re.sub(r"<style>.*?</style>|<[^>]*>", " ", text, flags=re.DOTALL)
        assert re.findall(r"\b(?:weights|parameters|multiply-adds|original|inverted|found)\b", left) == []


def test_the_page_of_an_exported_file_says_why_it_has_no_kernels(tmp_path: Path):
    assert main(["explain", "animals-small", "--page", str(tmp_path / "lesson.html")]) == 0
    assert ENGLISH["kernels_unknown"] in (tmp_path / "lesson.html").read_text(encoding="utf-8")


def test_the_page_of_a_name_has_no_pictures(tmp_path: Path):
    assert main(["explain", "mobilenet_v2", "--size", "64", "--page", str(tmp_path / "v2.html")]) == 0
    text = (tmp_path / "v2.html").read_text()
    check(text)
    assert "<img" not in text
    assert "bottleneck t=6 c=320 n=1 s=1 (1/1)" in text
    assert (
        main(["explain", "mobilenet_v2", "--size", "64", "--page", str(tmp_path / "v2.html"), "--language", "zh"]) == 0
    )
    title = "图解 mobilenet_v2、宽度 1、颈部宽度 0.5、80 类、64 x 64 像素"
    assert f"<h1>{title}</h1>" in (tmp_path / "v2.html").read_text(encoding="utf-8")


def test_bad_wishes_are_refused(tmp_path: Path):
    explanation = explain("mobilenet_v1", (64, 64))
    with pytest.raises(SettingsError, match='language is "fr"; it must be one of en, zh'):
        write_lesson(tmp_path / "a.html", explanation, "mobilenet_v1", picture=CAT, language="fr")  # type: ignore[arg-type]
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="cannot be written"):
        write_lesson(tmp_path / "file" / "a.html", explanation, "mobilenet_v1", picture=CAT)


def test_what_an_exported_file_no_longer_tells_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["explain", "animals-small", "--drop-dead", str(tmp_path / "smaller.safetensors")]) == 2
    assert "--drop-dead need the checkpoint" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
