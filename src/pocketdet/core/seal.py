"""A checksum that an ONNX file carries within itself, so that one changed byte is noticed without an ONNX parser.

The metadata hold the SHA-256 of the file as it is with 64 zeros in the place of the checksum.
"""

import hashlib
import re
from pathlib import Path

SEAL_KEY = "pocketdet_sha256"  # in an ONNX file's metadata_props
BLANK = "0" * 64  # its value until the file is sealed
_SEAL = re.compile(re.escape(SEAL_KEY.encode()) + rb"\x12\x40([0-9a-f]{64})")  # as protobuf writes a string of 64 bytes


def seal(path: Path) -> None:
    """Replace the blank checksum of a file by its real one."""
    content = path.read_bytes()
    path.write_bytes(content.replace(BLANK.encode(), _digest(content), 1))


def is_intact(content: bytes) -> bool:
    """Whether a file is what it was when it was sealed; not so if it has no seal."""
    match = _SEAL.match(content, max(0, content.find(SEAL_KEY.encode())))  # search takes three times as long as find
    if match is None:
        return False
    start, end = match.span(1)
    view = memoryview(content)
    return match[1] == _digest(view[:start], BLANK.encode(), view[end:])


def _digest(*parts: bytes | memoryview) -> bytes:
    checksum = hashlib.sha256()
    for part in parts:
        checksum.update(part)
    return checksum.hexdigest().encode()
