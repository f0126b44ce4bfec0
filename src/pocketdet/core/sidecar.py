"""A JSON file beside a model whose format has no room for metadata; it also holds the SHA-256 of each of its files."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from pocketdet.core.metadata import ModelMetadata
from pocketdet.errors import ModelFileError


def sidecar_path(path: Path) -> Path:
    """Of the model file that a person names: ``model.xml`` has ``model.xml.json``."""
    return path.with_name(f"{path.name}.json")


def model_files(path: Path) -> list[Path]:
    """All files of a model: ``path``, the sidecar if it has one, and those that the sidecar lists."""
    sidecar = sidecar_path(path)
    if not sidecar.is_file():
        return [path]
    listed = json.loads(sidecar.read_text(encoding="utf-8"))["sha256"]
    return [*(path.with_name(name) for name in listed), sidecar]


def write_sidecar(path: Path, metadata: ModelMetadata, files: Sequence[Path]) -> None:
    """Write metadata and checksums.

    Args:
        path: The model file that a person names.
        metadata: Of the model.
        files: All files of the model, ``path`` among them, in one folder.
    """
    document = {
        "metadata": dataclasses.asdict(metadata),
        "sha256": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
    }
    sidecar_path(path).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def read_sidecar(path: Path) -> ModelMetadata:
    """Read the metadata of a model, once all its files are known to be those that were written.

    Raises:
        ModelFileError: A file is missing, cut or changed, or the sidecar is not pocketdet's.
    """
    sidecar = sidecar_path(path)
    if not path.is_file():
        raise ModelFileError(f"{path}: no such model file")
    if not sidecar.is_file():
        raise ModelFileError(
            f"{path}: {sidecar.name}, which 'pocketdet export' wrote beside it, is missing; "
            "copy it along, or export the model again"
        )
    try:
        document = json.loads(sidecar.read_text(encoding="utf-8"))
        metadata, checksums = json.dumps(document["metadata"]), dict(document["sha256"])
    except (ValueError, TypeError, KeyError) as error:
        raise ModelFileError(
            f"{sidecar}: not what 'pocketdet export' wrote ({error}); export the model again"
        ) from error
    for name, checksum in checksums.items():
        file = path.with_name(Path(name).name)
        if not file.is_file():
            raise ModelFileError(f"{file}: missing; {path.name} is of no use without it: copy it along")
        if hashlib.sha256(file.read_bytes()).hexdigest() != checksum:
            raise ModelFileError(
                f"{file}: the file was changed after 'pocketdet export' wrote it; copy or export it again"
            )
    return ModelMetadata.from_json(metadata, str(sidecar))
