"""The page in a real browser, and whether its build is up to date."""

import base64
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketdet import cli
from pocketdet.core.metadata import ModelMetadata
from pocketdet.export import int8, onnx_file
from pocketdet.export.conversion import Conversion
from pocketdet.loading import load
from pocketdet.models.detector import build_from_metadata
from pocketdet.web.page import DEMO_PICTURE, STATIC, page_files

REPOSITORY = Path(__file__).parents[2]
SOURCES = REPOSITORY / "web"
# Drops a file on the page as a person does; the content comes in base64.
DROP = """
const [text, name] = arguments;
const content = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const dataTransfer = new DataTransfer();
dataTransfer.items.add(new File([content], name));
document.getElementById("stage").dispatchEvent(new DragEvent("drop", {dataTransfer, bubbles: true}));
"""


@pytest.mark.skipif(not SOURCES.is_dir(), reason="needs the page's sources")
def test_the_built_page_is_the_one_of_its_sources():
    files = ("index.html", "package.json", "vite.config.ts", "finish.mjs")
    digest = hashlib.sha256()
    for name in (*files, *(f"src/{path.name}" for path in sorted((SOURCES / "src").iterdir()))):
        digest.update(f"{name}\n".encode() + (SOURCES / name).read_bytes())
    built = (STATIC / "sources.sha256").read_text().strip()
    assert built == digest.hexdigest(), "web/ was changed after the page was built; run: make page"


def test_the_page_names_no_other_host():
    for path in page_files({}).values():
        if path.suffix in (".html", ".css"):
            assert "//" not in path.read_text().replace("/*", ""), path


def test_write_page_gives_a_folder_for_any_host(tmp_path, tiny_model, capsys):
    assert cli.main(["serve", "--model", str(tiny_model), "--write-page", str(tmp_path / "site"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"folder": str(tmp_path / "site")}
    (model,) = json.loads((tmp_path / "site" / "models.json").read_text())
    assert (tmp_path / "site" / model["file"]).read_bytes() == tiny_model.read_bytes()
    assert (tmp_path / "site" / "index.html").is_file()


@pytest.fixture(scope="module")
def port(start_server):
    with start_server("--threads", "1", models=("animals", "animals-small")) as (_, port):
        yield port


class Page:
    """The page, as a person sees and uses it."""

    def __init__(self, browser):
        self.browser = browser

    def element(self, selector):
        return self.browser.find_element("css selector", selector)

    def wait_for(self, selector, words, seconds=120):
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.browser, seconds).until(
            lambda _: words in self.element(selector).text,
            f"{words!r} never came, but {self.element('#status').text!r}",
        )

    def drop(self, content, name):
        self.browser.execute_script(DROP, base64.b64encode(content).decode(), name)

    def found(self):
        items = self.browser.find_elements("css selector", "#found li")
        return [(item.text, [float(side) for side in item.get_attribute("data-box").split()]) for item in items]

    def move(self, slider, value):
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
        self.browser.execute_script(script, self.element(slider), value)


@pytest.fixture
def page(browser, port):
    browser.get(f"http://127.0.0.1:{port}/")
    page = Page(browser)
    page.wait_for("#status", "is ready")
    return page


def test_a_dropped_picture_gives_python_s_boxes_and_the_slider_acts_without_the_network(page):
    file = io.BytesIO()
    Image.open(DEMO_PICTURE).save(file, "PNG")  # browsers and Pillow decode JPEGs a little differently
    page.drop(file.getvalue(), "cat.png")
    page.wait_for("#status", "Found:")
    for threshold in (0.3, 0.05):
        page.move("#score", threshold)
        expected = load("animals", threads=1).predict(file.getvalue(), score_threshold=threshold)
        found = page.found()
        assert [name.split()[0] for name, _ in found] == expected.class_names
        for (_, box), other in zip(found, expected.boxes, strict=True):
            assert box == pytest.approx(other.tolist(), abs=0.5)
    network = page.element("#latency").text.partition("network")[2].partition(",")[0]
    page.move("#score", 0.99)
    assert page.found() == []
    assert "Found: nothing" in page.element("#status").text
    assert f"network{network}," in page.element("#latency").text


# Puts a PNG, given in base64, into the clipboard, as a screenshot tool does.
COPY = """
const [text, done] = arguments;
const content = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const item = new ClipboardItem({"image/png": new Blob([content], {type: "image/png"})});
navigator.clipboard.write([item]).then(() => done(""), (error) => done(String(error)));
"""


def test_a_picture_of_the_clipboard_is_pasted_by_ctrl_v(page, browser):
    from selenium.webdriver import ActionChains, Keys

    permissions = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    browser.execute_cdp_cmd("Browser.grantPermissions", permissions)
    file = io.BytesIO()
    Image.open(DEMO_PICTURE).save(file, "PNG")
    assert browser.execute_async_script(COPY, base64.b64encode(file.getvalue()).decode()) == ""
    ActionChains(browser).key_down(Keys.CONTROL).send_keys("v").key_up(Keys.CONTROL).perform()
    page.wait_for("#found", "cat")
    expected = load("animals", threads=1).predict(file.getvalue())
    assert page.found()[0][1] == pytest.approx(expected.boxes[0].tolist(), abs=0.5)


def test_the_demo_picture_shows_a_cat_and_nothing_leaves_the_page(page, browser, port, shoot):
    assert "Nothing leaves this device" in page.element("header").text
    assert browser.execute_script("return crossOriginIsolated") is True
    page.element("#demo").click()
    page.wait_for("#found", "cat")
    assert page.element("#boxes").get_attribute("aria-label").startswith("The picture. Found: cat")
    addresses = browser.execute_script("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert all(address.startswith((f"http://127.0.0.1:{port}/", "blob:", "data:")) for address in addresses)
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    shoot("page")


def test_other_detectors_files_and_the_camera_can_be_chosen_and_errors_are_told(page, tiny_model, red_png):
    page.drop(tiny_model.read_bytes(), "tiny.onnx")
    page.wait_for("#status", "tiny.onnx is ready")
    page.drop(red_png, "red.png")
    page.wait_for("#found", "red 100%")
    assert page.found()[0][1] == pytest.approx([16, 24, 24, 32], abs=0.01)
    page.drop(tiny_model.read_bytes()[:-9], "cut.onnx")
    page.wait_for("#status", "cut.onnx: ")
    page.drop(b"text", "notes.jpg")
    page.wait_for("#status", "notes.jpg: this is no picture")
    page.element("#camera").click()
    page.wait_for("#status", "The camera is on.")
    assert page.element("#camera").get_attribute("aria-pressed") == "true"
    page.element("#camera").click()
    page.wait_for("#status", "The camera is off.")


def test_an_int8_file_runs_in_the_page(page, tmp_path, monkeypatch):
    """ONNX Runtime Web has fewer kernels than ONNX Runtime; this network needs those of all int8 files."""
    metadata = ModelMetadata("mobilenet_v3_small", 0.35, 0.25, "same", ("cat",), (64, 64))
    pictures = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    monkeypatch.setattr(int8, "MAX_ERROR", np.inf)
    detector = build_from_metadata(metadata).eval()
    onnx_file.write(Conversion(detector, metadata, "int8", calibration=pictures), tmp_path / "int8.onnx")
    page.drop((tmp_path / "int8.onnx").read_bytes(), "int8.onnx")
    page.wait_for("#status", "int8.onnx is ready")  # it ran once


def test_the_page_fits_a_phone_and_works_by_keyboard(page, browser):
    from selenium.webdriver import ActionChains, Keys

    browser.set_window_size(500, 800)  # Chromium's smallest; the page itself is made narrower
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 320, "height": 640, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 320
        reached = []
        for _ in range(7):
            ActionChains(browser).send_keys(Keys.TAB).perform()
            reached.append(browser.switch_to.active_element.get_attribute("id"))
        assert reached == ["file", "demo", "camera", "model", "own", "score", "iou"]
        browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
        assert page.element("#iou").get_attribute("value") == "0.51"
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.set_window_size(800, 1000)
