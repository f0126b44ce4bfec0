"""The documents: their commands are understood, their links lead somewhere."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pocketdet.cli import app

ROOT = Path(__file__).parents[1]
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
        app.parse_args(tokens, exit_on_error=False, print_error=False)
    else:
        assert "--help" in tokens or app.parse_args(tokens, exit_on_error=False, print_error=False)


def test_the_site_builds_without_a_broken_link(tmp_path: Path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={"NO_MKDOCS_2_WARNING": "1", "PATH": "/usr/bin:/bin"}
    )
    assert result.returncode == 0, result.stderr
    api = (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")
    for name in ("iter_predict", "score_threshold", "ModelFileError", "freeze_epochs"):
        assert name in api


@pytest.mark.parametrize(
    ("page", "chinese"), [("README.md", "README.zh-CN.md"), ("docs/tutorial.md", "docs/tutorial.zh-CN.md")]
)
def test_the_chinese_page_has_the_commands_of_the_english_one(page: str, chinese: str):
    english = code(ROOT / page)
    assert len(english) > 5
    assert code(ROOT / chinese) == english, f"{chinese} is not in step with {page}: bring the change there, too"


def test_links_of_the_readme_lead_to_files():
    for page in ROOT.glob("README*.md"):
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert target.startswith("https://") or (ROOT / target).exists(), f"{page.name}: {target}"
