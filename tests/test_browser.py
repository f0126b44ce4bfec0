"""The pages that pocketdet writes, opened in a real browser: reports and lessons."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageEnhance, ImageFilter

from pocketdet.cli import main
from pocketdet.loading import ASSETS

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
NARROWEST_DRAWING = """
return Math.min(...Array.from(document.querySelectorAll("svg"), (drawing) => drawing.getBoundingClientRect().width));
"""
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}


def look(browser: Any, page: Path) -> dict[str, Any]:
    browser.get(page.as_uri())
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    seen: dict[str, Any] = browser.execute_script(CHECK)
    assert (seen["broken"], seen["foreign"]) == (0, [])
    assert seen["overflow"] <= 0
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    try:
        assert browser.execute_script(CHECK)["overflow"] <= 0
        assert browser.execute_script(NARROWEST_DRAWING) > 600, "its letters are too small to read"
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    return seen


def write_album(folder: Path) -> Path:
    """The bundled cat and person, alone and together, ever smaller, darker and more blurred, labelled as VOC does."""
    (folder / "Annotations").mkdir(parents=True)
    (folder / "JPEGImages").mkdir()
    (folder / "ImageSets/Main").mkdir(parents=True)
    (folder / "ImageSets/Main/val.txt").write_text("".join(f"{n}\n" for n in range(24)))
    cat, person = (Image.open(ASSETS / name).convert("RGB") for name in ("chelsea.jpg", "astronaut.jpg"))
    known = {"cat": (cat, (4, 4, 408, 298)), "person": (person, (16, 10, 436, 511))}
    for n in range(24):
        shown = (("cat",), ("person",), ("cat", "person"))[n % 3]
        picture = (person if shown == ("cat",) else cat).resize((480, 320)).filter(ImageFilter.GaussianBlur(40))
        objects = []
        for place, name in enumerate(shown):
            part, box = known[name]
            scale = (300 - 9 * n) / part.height
            left, top = 10 + 250 * place + n, 5 + 4 * n
            picture.paste(part.resize((round(scale * part.width), round(scale * part.height))), (left, top))
            sides = [
                f"<{side}>{round(start + scale * value)}</{side}>"
                for side, start, value in zip(("xmin", "ymin", "xmax", "ymax"), (left, top) * 2, box, strict=True)
            ]
            objects.append(f"<object><name>{name}</name><bndbox>{''.join(sides)}</bndbox></object>")
        spoilt = ImageEnhance.Brightness(picture.filter(ImageFilter.GaussianBlur(n % 7))).enhance(1 - 0.03 * n)
        spoilt.save(folder / f"JPEGImages/{n}.jpg")
        size = "<size><width>480</width><height>320</height></size>"
        (folder / f"Annotations/{n}.xml").write_text(f"<annotation>{size}{''.join(objects)}</annotation>")
    return folder


def test_the_report_of_an_evaluation_shows_its_charts_and_pictures(
    browser: Any, shoot: Callable[[str], None], tmp_path: Path
):
    data = write_album(tmp_path / "album")
    report = tmp_path / "report.html"
    command = ["evaluate", str(data), "--model", "animals-small", "--classes", "cat", "person", "--report", str(report)]
    assert main(command) == 0
    seen = look(browser, report)
    assert seen["drawings"] >= 2
    assert seen["images"] >= 1
    assert "cat" in browser.find_element("css selector", "table").text
    browser.set_window_size(800, 1500)
    try:
        shoot("report")
        browser.execute_script("document.querySelector('.pictures').closest('section').scrollIntoView()")
        shoot("mistakes")
    finally:
        browser.set_window_size(800, 1000)


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
