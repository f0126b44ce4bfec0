import json

import numpy as np
import pytest

from pocketdet.core.detections import Detections


@pytest.fixture
def two():
    boxes = np.array([[1, 2, 30.06, 40], [5, 6, 7, 8]], np.float32)
    return Detections(boxes, np.array([0.91234, 0.5], np.float32), np.array([1, 0]), ("cat", "dog"), (48, 64), "a.jpg")


def test_class_names_follow_the_ids(two):
    assert two.class_names == ["dog", "cat"]
    assert len(two) == 2


def test_json_holds_plain_rounded_values(two):
    document = json.loads(two.to_json())
    assert document["objects"][0] == {"class": "dog", "class_id": 1, "score": 0.9123, "box": [1.0, 2.0, 30.1, 40.0]}
    assert (document["source"], document["height"], document["width"]) == ("a.jpg", 48, 64)


def test_nothing_found_is_an_empty_list():
    none = np.empty(0, np.float32)
    found = Detections(none.reshape(0, 4), none, none.astype(np.int64), ("cat",), (10, 10))
    assert found.to_dict()["objects"] == []
    assert found.class_names == []
