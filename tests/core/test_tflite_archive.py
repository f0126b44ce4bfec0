import dataclasses
import io
import zipfile

import pytest

from pocketdet.core.metadata import ModelMetadata
from pocketdet.core.tflite_archive import append_metadata, read_metadata, without_metadata
from pocketdet.errors import ModelFileError

METADATA = ModelMetadata("mobilenet_v2", 1.0, 0.5, "same", ("Katze", "Kühe"), (64, 64))
NETWORK = bytes(range(256)) * 3


def test_network_and_metadata_come_back():
    content = append_metadata(NETWORK, METADATA)
    assert without_metadata(content) == NETWORK
    assert read_metadata(content, "x") == METADATA
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.read("labels.txt").decode() == "Katze\nKühe\n"


def test_every_changed_or_missing_byte_is_noticed():
    content = append_metadata(NETWORK, METADATA)
    for place in range(0, len(content), 7):
        changed = bytearray(content)
        changed[place] ^= 1
        with pytest.raises(ModelFileError, match=r"changed|cut"):
            read_metadata(bytes(changed), "x")
        with pytest.raises(ModelFileError, match=r"changed|cut"):
            read_metadata(content[:place], "x")


def test_a_foreign_file_is_refused_with_the_way_out():
    with pytest.raises(ModelFileError, match="only files written by 'pocketdet export'"):
        read_metadata(NETWORK, "foreign.tflite")


def test_the_same_network_and_metadata_give_the_same_file():
    assert append_metadata(NETWORK, METADATA) == append_metadata(NETWORK, METADATA)
    other = dataclasses.replace(METADATA, class_names=("cat", "cow"))
    assert append_metadata(NETWORK, METADATA) != append_metadata(NETWORK, other)
