"""The files of the page that detects in the browser. Its sources are in ``web/``; ``make page`` builds them."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from pocketdet.errors import SettingsError

STATIC = Path(__file__).parent / "static"
DEMO_PICTURE = Path(__file__).parents[1] / "assets" / "chelsea.jpg"
MEDIA_TYPES = {
    ".css": "text/css",
    ".gz": "application/gzip",
    ".html": "text/html",
    ".jpg": "image/jpeg",
    ".js": "text/javascript",
    ".json": "application/json",
    ".mjs": "text/javascript",
    ".onnx": "application/octet-stream",
    ".txt": "text/plain",
}


def page_files(models: Mapping[str, Path]) -> dict[str, Path]:
    """What the page consists of, without its list of models.

    Args:
        models: Exported ``.onnx`` files by name.

    Returns:
        Files by their path on the host.
    """
    files = {path.name: path for path in sorted(STATIC.iterdir()) if path.suffix in MEDIA_TYPES}
    return files | {"demo.jpg": DEMO_PICTURE} | {_address(name): path for name, path in models.items()}


def list_models(models: Mapping[str, Path]) -> str:
    """The page's ``models.json``."""
    return json.dumps([{"name": name, "file": _address(name)} for name in models])


def write_page(models: Mapping[str, Path], folder: Path) -> None:
    """Write the page for any web host.

    Raises:
        SettingsError: The folder cannot be written.
    """
    try:
        for address, path in page_files(models).items():
            target = folder / address
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        (folder / "models.json").write_text(list_models(models), encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{folder}: the page cannot be written: {error}") from error


def _address(name: str) -> str:
    return f"models/{name}.onnx"
