"""The pages that pocketdet writes, opened in a real browser: reports and lessons."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pocketdet.cli import main

CHECK = """
const broken = Array.from(document.images).filter((image) => !image.complete || !image.naturalWidth);
const loaded = performance.getEntriesByType("resource").map((one) => one.name);
return {
  broken: broken.length,
  images: document.images.length,
  drawings: document.querySelectorAll("svg").length,
  foreign: loaded.filter((name) => !name.startsWith("data:")),
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  language: document.documentElement.lang,
};
"""


def look(browser: Any, page: Path) -> dict[str, Any]:
    browser.get(page.as_uri())
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    seen: dict[str, Any] = browser.execute_script(CHECK)
    assert (seen["broken"], seen["foreign"]) == (0, [])
    assert seen["overflow"] <= 0
    return seen


def test_the_report_of_an_evaluation_shows_its_charts_and_pictures(
    browser: Any, voc_writer: Callable[..., Path], tmp_path: Path
):
    data = voc_writer(tmp_path / "pictures", ("cat", "person"))
    report = tmp_path / "report.html"
    command = ["evaluate", str(data), "--model", "animals-small", "--classes", "cat", "person", "--report", str(report)]
    assert main(command) == 0
    seen = look(browser, report)
    assert seen["drawings"] >= 2
    assert seen["images"] >= 1
    assert "cat" in browser.find_element("css selector", "table").text


@pytest.mark.parametrize(("language", "title"), [("en", "explained"), ("zh", "图解")])
def test_the_lesson_shows_its_drawings(
    browser: Any, shoot: Callable[[str], None], tmp_path: Path, language: str, title: str
):
    pytest.importorskip("torch")
    page = tmp_path / "lesson.html"
    assert main(["explain", "animals-small", "--page", str(page), "--language", language]) == 0
    seen = look(browser, page)
    assert seen["language"] == language
    assert seen["drawings"] >= 4
    assert seen["images"] == 8
    assert title in browser.find_element("css selector", "h1").text
    browser.execute_script("document.querySelectorAll('section')[1].scrollIntoView()")
    if language == "en":
        shoot("lesson")
