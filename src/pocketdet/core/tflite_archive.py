"""What pocketdet adds to a TFLite file: a zip archive behind the network, as TFLite's own metadata have it, and a seal.

``labels.txt`` has the class names, a line each, and ``pocketdet.json`` the metadata. The archive's comment, which are
the last 64 bytes of the file, is the SHA-256 of all before, so that one changed byte is noticed without any parser.
"""

import hashlib
import io
import zipfile

from pocketdet.core.metadata import ModelMetadata
from pocketdet.errors import ModelFileError

LABELS = "labels.txt"
METADATA = "pocketdet.json"
_DIGEST = 64  # hexadecimal digits
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the same network gives the same file


def append_metadata(network: bytes, metadata: ModelMetadata) -> bytes:
    """The whole file.

    Args:
        network: A TFLite file without an archive.
        metadata: Of the network.
    """
    file = io.BytesIO()
    file.write(network)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_STORED) as archive:  # as they are
        for name, text in ((LABELS, "\n".join(metadata.class_names) + "\n"), (METADATA, metadata.to_json())):
            archive.writestr(zipfile.ZipInfo(name, _LONG_AGO), text)
        archive.comment = b"0" * _DIGEST
    content = file.getvalue()[:-_DIGEST]
    return content + _digest(content)


def read_metadata(content: bytes, where: str) -> ModelMetadata:
    """What ``append_metadata`` wrote, once the file is known to be as it was.

    Args:
        content: Of the whole file.
        where: The file, for the error message.

    Raises:
        ModelFileError: The file was cut or changed, or pocketdet did not write it.
    """
    if _digest(content[:-_DIGEST]) != content[-_DIGEST:]:
        if METADATA.encode() in content:
            raise ModelFileError(
                f"{where}: the file was changed after 'pocketdet export' wrote it; copy or export it again"
            )
        raise ModelFileError(
            f"{where}: the file was cut, or has no pocketdet metadata: only files written by 'pocketdet export' can be "
            "used; copy or export it again"
        )
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return ModelMetadata.from_json(archive.read(METADATA).decode(), where)


def without_metadata(content: bytes) -> bytes:
    """The network alone."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return content[: archive.infolist()[0].header_offset]


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
