"""TensorFlow's checkpoints, ``NAME.index`` and ``NAME.data-00000-of-00001``, without TensorFlow.

The index is a table as LevelDB writes it (its doc/table_format.md) of protocol buffers (TensorFlow's
tensor_bundle.proto), and the data are raw numbers. Nothing in them is executed.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketdet.errors import ModelFileError

SUFFIXES = (".index", ".ckpt")
MAGIC = bytes.fromhex("57fb808b247547db")
FOOTER = 48  # bytes: where the two last blocks lie, and the magic
DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}  # of types.proto; others, as strings, are no weights
NUM_SHARDS, ENDIANNESS = 1, 2  # fields of the header
DTYPE, SHAPE, SHARD, OFFSET, SIZE, SLICES = 1, 2, 3, 4, 5, 7  # of an entry
DIMENSION = 2  # of a shape; the size of a dimension is its field 1
CRC32C = 0x82F63B78  # Castagnoli's polynomial, reflected


def read_checkpoint(path: Path) -> dict[str, NDArray[Any]]:
    """Variables by name; sizes are checked, of the index its checksums, too.

    Args:
        path: ``NAME.index``, or ``NAME`` itself where it ends with ``.ckpt``.

    Raises:
        ModelFileError: A file is missing, cut, damaged or of another kind.
    """
    index = path if path.suffix == ".index" else path.with_name(f"{path.name}.index")
    try:
        content = index.read_bytes()
    except OSError as error:
        raise ModelFileError(
            f"{index}: {error.strerror or error}; a checkpoint of TensorFlow is two files, {index.stem}.index and "
            f"{index.stem}.data-00000-of-00001"
        ) from error
    try:
        entries = {key.decode(): _fields(value) for key, value in _table(content)}
        header = entries.pop("")  # the first key
        count = header.get(NUM_SHARDS, [0])[0]
        if header.get(ENDIANNESS, [0])[0] or any(SLICES in entry for entry in entries.values()):
            raise ValueError("it is of a big-endian machine, or holds variables in slices, which is not supported")
        wanted = {name: entry for name, entry in entries.items() if entry.get(DTYPE, [0])[0] in DTYPES}
        return {name: _read(index.with_suffix(""), entry, count) for name, entry in wanted.items()}
    except (ValueError, IndexError, KeyError, OSError, TypeError, AttributeError, OverflowError) as error:
        raise ModelFileError(
            f"{index}: no whole checkpoint of TensorFlow: {error}; it is cut, damaged or of another kind: get it again"
        ) from error


def _read(prefix: Path, entry: dict[int, list[Any]], num_shards: int) -> NDArray[Any]:
    """One variable, of the file that holds it."""
    shape = [_fields(size).get(1, [0])[0] for size in _fields(entry.get(SHAPE, [b""])[0]).get(DIMENSION, [])]
    shard, offset, size = (entry.get(field, [0])[0] for field in (SHARD, OFFSET, SIZE))
    dtype = np.dtype(DTYPES[entry[DTYPE][0]])
    data = prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{num_shards:05d}")
    length = data.stat().st_size
    if size != math.prod(shape) * dtype.itemsize or offset + size > length:
        raise ValueError(f"{data.name} has {length} bytes; {size} bytes at {offset} were to be {shape} of {dtype}")
    return np.fromfile(data, dtype, math.prod(shape), offset=offset).reshape(shape)


def _table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values in order, of all blocks that the last one names."""
    if len(content) < FOOTER or not content.endswith(MAGIC):
        raise ValueError("its end is not that of an index")
    footer = content[-FOOTER:]
    place = 0
    for _ in range(2):  # of the block of names, which is not needed
        _, place = _varint(footer, place)
    for _, handle in _block(content, footer[place:]):
        yield from _block(content, handle)


def _block(content: bytes, handle: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of one block; a key says how much of the one before it shares."""
    offset, place = _varint(handle, 0)
    size, _ = _varint(handle, place)
    block, trailer = content[offset : offset + size], content[offset + size : offset + size + 5]
    if len(trailer) < 5 or _masked_crc(block + trailer[:1]) != int.from_bytes(trailer[1:], "little"):
        raise ValueError(f"the checksum of the block at {offset} differs")
    if trailer[0]:
        raise ValueError("it is compressed, which TensorFlow's own are not")
    end = size - 4 * (1 + int.from_bytes(block[-4:], "little"))  # behind it, where whole keys stand
    key, place = b"", 0
    while place < end:
        shared, place = _varint(block, place)
        own, place = _varint(block, place)
        length, place = _varint(block, place)
        key = key[:shared] + block[place : place + own]
        yield key, block[place + own : place + own + length]
        place += own + length


def _fields(message: bytes) -> dict[int, list[Any]]:
    """A protocol buffer's values by the number of their field: whole numbers, or bytes."""
    fields: dict[int, list[Any]] = {}
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        if tag & 7 == 0:
            value: int | bytes
            value, place = _varint(message, place)
        elif tag & 7 in (1, 2, 5):
            size, place = _varint(message, place) if tag & 7 == 2 else ({1: 8, 5: 4}[tag & 7], place)
            value, place = message[place : place + size], place + size
        else:
            raise ValueError(f"an entry has a field of kind {tag & 7}")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """A whole number, seven bits a byte, and the place behind it."""
    value = shift = 0
    while content[place] & 0x80:
        value |= (content[place] & 0x7F) << shift
        place, shift = place + 1, shift + 7
    return value | content[place] << shift, place + 1


def _masked_crc(content: bytes) -> int:
    """CRC-32C as LevelDB stores it."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _crc_of_byte(crc: int) -> int:
    for _ in range(8):
        crc = crc >> 1 ^ (CRC32C if crc & 1 else 0)
    return crc


TABLE = tuple(_crc_of_byte(byte) for byte in range(256))
