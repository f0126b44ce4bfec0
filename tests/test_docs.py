"""The documents: their commands are understood, their links lead somewhere."""

import http.server
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pocketdet.cli import load_app

ROOT = Path(__file__).parents[1]
APP = load_app()
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md"), *(ROOT / "recipes").glob("*.md")])


def commands(page: Path) -> list[str]:
    """The lines of a page that start with our name, or give it to torchrun, without comments and redirections."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^(?: {4}|\t)?(?:torchrun .* -m )?(pocketdet [a-z].*)$", text, re.MULTILINE)
    lines += re.findall(r"`(pocketdet [a-z]+ [^`…]*)`", text)
    return [re.split(r"\s+[#>|]|\s*…", line)[0] for line in lines]


def is_complete(command: str) -> bool:
    """Whether all values stand there; in running text `pocketdet explain BACKBONE` names a place for one."""
    return not re.search(r"\b[A-Z]{2,}\b|\.\.\.", command)


def code(page: Path) -> list[str]:
    """What readers type: the lines of indented blocks without comments, then the commands in running text."""
    text = page.read_text(encoding="utf-8")
    lines = [re.split(r"\s+#", line)[0] for line in re.findall(r"^ {4}(.*\S)$", text, re.MULTILINE)]
    return lines + re.findall(r"`((?:pocketdet|pip) [a-z]+ [^`]*)`", text)


COMMANDS = sorted({command for page in PAGES for command in commands(page) if is_complete(command)})


def test_the_documents_have_commands():
    assert len(COMMANDS) > 20


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_documents_is_understood(command: str):
    tokens = shlex.split(command)[1:]
    if tokens and not tokens[-1].startswith("--"):
        APP.parse_args(tokens, exit_on_error=False, print_error=False)
    else:
        assert "--help" in tokens or APP.parse_args(tokens, exit_on_error=False, print_error=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {"NO_MKDOCS_2_WARNING": "1", "PATH": "/usr/bin:/bin"}
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    return folder


def test_the_site_builds_without_a_broken_link(site: Path):
    api = (site / "api" / "index.html").read_text(encoding="utf-8")
    for name in ("iter_predict", "score_threshold", "ModelFileError", "freeze_epochs"):
        assert name in api


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Not on the test's standard error."""


def test_the_site_reads_and_searches_in_a_browser_without_other_hosts(
    browser: Any, shoot: Callable[[str], None], site: Path
):
    from selenium.webdriver.support.ui import WebDriverWait

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            address = f"http://127.0.0.1:{server.server_port}/"
            browser.get(address)
            (picture,) = browser.find_elements("css selector", "article img")
            assert int(picture.get_attribute("naturalWidth")) > 300
            assert browser.find_element("css selector", "h1").text.startswith("pocketdet")
            browser.set_window_size(1280, 900)  # wide enough for the list of pages
            shoot("site")
            browser.get(address + "?q=mosaic")
            wait = WebDriverWait(browser, 60)
            wait.until(lambda _: browser.find_elements("css selector", ".md-search-result__item"))
            loaded = "return performance.getEntriesByType('resource').map((one) => one.name)"
            assert [name for name in browser.execute_script(loaded) if not name.startswith((address, "data:"))] == []
            assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
        finally:
            server.shutdown()


@pytest.mark.parametrize(
    ("page", "chinese"), [("README.md", "README.zh-CN.md"), ("docs/tutorial.md", "docs/tutorial.zh-CN.md")]
)
def test_the_chinese_page_has_the_commands_of_the_english_one(page: str, chinese: str):
    english = code(ROOT / page)
    assert len(english) > 5
    assert code(ROOT / chinese) == english, f"{chinese} is not in step with {page}: bring the change there, too"


@pytest.mark.parametrize("page", ["README.zh-CN.md", "docs/tutorial.zh-CN.md"])
def test_chinese_is_set_as_chinese(page: str):
    text = re.sub(r"`[^`\n]*`|\]\([^)]*\)", "", (ROOT / page).read_text(encoding="utf-8"))
    hanzi = r"[\u3001\u3002\u4e00-\u9fff]"
    assert re.findall(rf".*{hanzi}[,:;?!()].*|.*[,:;?!()]{hanzi}.*", text) == [], "punctuation of half the width"
    assert re.findall(rf".*{hanzi}\n(?={hanzi}).*", text) == [], "a line's end becomes a space"


def test_links_of_the_readme_lead_to_files():
    for page in ROOT.glob("README*.md"):
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert target.startswith("https://") or (ROOT / target).exists(), f"{page.name}: {target}"
