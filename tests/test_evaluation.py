import contextlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pocketdet.core.detections import Detections
from pocketdet.datasets.records import Dataset, Record
from pocketdet.errors import DataError
from pocketdet.evaluation import Evaluation, evaluate

NAMES = ("cat", "dog", "emu")  # no targets of the last


def record(number: int, boxes: Sequence, class_ids: Sequence[int], difficult: Sequence[bool] = ()) -> Record:
    return Record(
        Path(f"{number}.jpg"),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(class_ids, np.int64),
        np.array(difficult or [False] * len(class_ids), bool),
    )


def detections(boxes: Sequence, scores: Sequence[float], class_ids: Sequence[int], names: tuple[str, ...] = NAMES):
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(class_ids, np.int64),
        names,
        (100, 100),
    )


def measure(records: Sequence[Record], found: Sequence[Detections], names: tuple[str, ...] = NAMES) -> Evaluation:
    by_path = {r.path: d for r, d in zip(records, found, strict=True)}
    return evaluate(lambda r: by_path[r.path], Dataset(tuple(records), names))


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    low = rng.uniform(0, 70, (count, 2))
    return np.hstack((low, low + rng.uniform(5, 30, (count, 2)))).astype(np.float32)


def random_case(seed: int) -> tuple[list[Record], list[Detections]]:
    """Targets, some difficult; detections near them and elsewhere; pictures without either."""
    rng = np.random.default_rng(seed)
    records, found = [], []
    for number in range(25):
        targets = int(rng.integers(0, 7))
        boxes, class_ids = random_boxes(rng, targets), rng.integers(0, 2, targets)
        records.append(record(number, boxes, class_ids, list(rng.random(targets) < 0.25)))
        near = np.repeat(boxes, 2, axis=0) + rng.normal(0, 2.5, (2 * targets, 4)).astype(np.float32)
        wild = random_boxes(rng, int(rng.integers(0, 6)))
        classes = np.concatenate((np.repeat(class_ids, 2), rng.integers(0, 3, len(wild))))
        order = rng.permutation(len(classes))[: int(rng.integers(0, len(classes) + 1))]
        scores = np.sort(rng.random(len(order)))[::-1]
        found.append(detections(np.concatenate((near, wild))[order], scores, classes[order]))
    return records, found


def pycocotools_stats(records: Sequence[Record], found: Sequence[Detections]) -> np.ndarray:
    truth, results = COCO(), []
    truth.dataset = {
        "images": [{"id": n, "height": 100, "width": 100} for n in range(len(records))],
        "categories": [{"id": k, "name": name} for k, name in enumerate(NAMES)],
        "annotations": [],
    }
    for n, (r, d) in enumerate(zip(records, found, strict=True)):
        for (x1, y1, x2, y2), k, crowd in zip(
            r.boxes.tolist(), r.class_ids.tolist(), r.difficult.tolist(), strict=True
        ):
            truth.dataset["annotations"].append(
                {
                    "id": len(truth.dataset["annotations"]) + 1,
                    "image_id": n,
                    "category_id": k,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(crowd),
                }
            )
        for (x1, y1, x2, y2), score, k in zip(d.boxes.tolist(), d.scores.tolist(), d.class_ids.tolist(), strict=True):
            results.append({"image_id": n, "category_id": k, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        oracle = COCOeval(truth, truth.loadRes(results), "bbox")
        oracle.evaluate()
        oracle.accumulate()
        oracle.summarize()
    return oracle.stats


def slow_voc(records: Sequence[Record], found: Sequence[Detections], summarise: Callable[[list, list], float]) -> float:
    """VOC's rules told step by step."""
    values = []
    for class_id in range(len(NAMES)):
        total = sum(
            1 for r in records for k, hard in zip(r.class_ids, r.difficult, strict=True) if k == class_id and not hard
        )
        if total == 0:
            continue
        every = [
            (float(score), n, box)
            for n, d in enumerate(found)
            for box, score, k in zip(d.boxes.tolist(), d.scores, d.class_ids, strict=True)
            if k == class_id
        ]
        used, hits, misses, recalls, precisions = set(), 0, 0, [], []
        for _, n, box in sorted(every, key=lambda item: -item[0]):
            best, best_target = 0.0, None
            for t, target in enumerate(records[n].boxes.tolist()):
                if records[n].class_ids[t] != class_id:
                    continue
                width = min(box[2], target[2]) - max(box[0], target[0])
                height = min(box[3], target[3]) - max(box[1], target[1])
                if width <= 0 or height <= 0:
                    continue
                both = (box[2] - box[0]) * (box[3] - box[1]) + (target[2] - target[0]) * (target[3] - target[1])
                overlap = width * height / (both - width * height)
                if overlap > best:
                    best, best_target = overlap, t
            if best >= 0.5 and records[n].difficult[best_target]:
                continue
            if best >= 0.5 and (n, best_target) not in used:
                used.add((n, best_target))
                hits += 1
            else:
                misses += 1
            recalls.append(hits / total)
            precisions.append(hits / (hits + misses))
        values.append(summarise(recalls, precisions))
    return sum(values) / len(values)


def slow_area(recalls: list[float], precisions: list[float]) -> float:
    area, before = 0.0, 0.0
    for n, recall in enumerate(recalls):
        area += (recall - before) * max(precisions[n:])
        before = recall
    return area


def slow_eleven(recalls: list[float], precisions: list[float]) -> float:
    best = [
        max((p for r, p in zip(recalls, precisions, strict=True) if r >= point / 10), default=0.0)
        for point in range(11)
    ]
    return sum(best) / 11


@pytest.mark.parametrize("seed", range(5))
def test_coco_ap_agrees_with_pycocotools(seed: int):
    records, found = random_case(seed)
    ours = measure(records, found)
    oracle = pycocotools_stats(records, found)
    np.testing.assert_allclose([ours.ap, ours.ap50, ours.ap75], oracle[:3], atol=1e-6)
    np.testing.assert_allclose([-1 if size.ap is None else size.ap for size in ours.by_size], oracle[3:6], atol=1e-6)
    assert 0.05 < ours.ap < 0.95


@pytest.mark.parametrize("seed", range(5))
def test_voc_ap_agrees_with_a_loop_that_follows_the_rules_step_by_step(seed: int):
    records, found = random_case(seed)
    ours = measure(records, found)
    assert ours.voc_ap50_area == pytest.approx(slow_voc(records, found, slow_area), abs=1e-9)
    assert ours.voc_ap50_11point == pytest.approx(slow_voc(records, found, slow_eleven), abs=1e-9)


def test_voc_ap_worked_by_hand():
    # Scores fall: true, false, true; of four targets one is difficult. Recall 1/3, 1/3, 2/3; precision 1, 1/2, 2/3.
    boxes = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]]
    records = [record(0, boxes, [0] * 4, [False, False, False, True])]
    found = [detections([boxes[0], [80, 80, 90, 90], boxes[1], boxes[3]], [0.9, 0.8, 0.7, 0.6], [0] * 4)]
    ours = measure(records, found)
    assert ours.voc_ap50_area == pytest.approx(1 / 3 + 1 / 3 * 2 / 3)
    assert ours.voc_ap50_11point == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)
    assert ours.num_targets == 3


def test_a_second_detection_of_one_target_is_false():
    records = [record(0, [[0, 0, 10, 10], [50, 50, 60, 60]], [0, 0])]
    found = [detections([[0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60]], [0.9, 0.8, 0.7], [0] * 3)]
    assert measure(records, found).voc_ap50_area == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)


def test_an_overlap_of_exactly_one_half_counts_in_voc():
    records, found = [record(0, [[0, 0, 10, 10]], [0])], [detections([[0, 0, 10, 5]], [0.9], [0])]
    assert measure(records, found).voc_ap50_area == 1


def test_no_detections_at_all_is_zero_not_an_error():
    ours = measure([record(0, [[0, 0, 10, 10]], [1])], [detections([], [], [])])
    assert (ours.ap, ours.ap50, ours.ap75, ours.voc_ap50_area, ours.voc_ap50_11point) == (0, 0, 0, 0, 0)


def test_classes_without_targets_are_left_out_of_the_means():
    box = [0, 0, 10, 10]
    ours = measure([record(0, [box], [0])], [detections([box, box], [0.9, 0.8], [0, 2])])
    assert ours.ap == pytest.approx(1)
    assert ours.per_class[2][1:] == (0, None, None, None)


def test_classes_are_matched_by_name():
    box = [0, 0, 10, 10]
    found = detections([box, box], [0.9, 0.8], [0, 1], names=("zebra", "dog"))
    ours = measure([record(0, [box], [1])], [found])
    assert ours.per_class[1].ap50 == pytest.approx(1)
    with pytest.raises(DataError, match="not one class is the same"):
        measure([record(0, [box], [1])], [detections([], [], [], names=("zebra",))])


def test_objects_are_counted_by_coco_s_sizes_and_difficult_ones_are_not():
    boxes = [[0, 0, 31, 32], [0, 0, 32, 32], [0, 0, 95, 96], [0, 0, 96, 96], [0, 0, 99, 99]]
    ours = measure([record(0, boxes, [0] * 5, [False] * 4 + [True])], [detections([], [], [])])
    assert [(size.name, size.targets) for size in ours.by_size] == [("small", 1), ("medium", 2), ("large", 1)]


def test_a_data_set_without_objects_is_refused_with_the_reason():
    with pytest.raises(DataError, match="1 pictures and no objects"):
        measure([record(0, [[0, 0, 9, 9]], [0], [True])], [detections([], [], [])])


def test_progress_counts_every_picture_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]):
    records, found = random_case(0)
    calls: list[tuple[int, int]] = []
    by_path = {r.path: d for r, d in zip(records, found, strict=True)}
    evaluate(lambda r: by_path[r.path], Dataset(tuple(records), NAMES), lambda *call: calls.append(call))
    assert calls == [(n, 25) for n in range(1, 26)]
    assert capfd.readouterr() == ("", "")


def test_the_result_is_one_json_document_and_an_aligned_table():
    ours = measure(*random_case(1))
    document = json.loads(json.dumps(ours.to_dict()))
    assert document["per_class"][0]["name"] == "cat"
    assert "detections" not in document
    lines = ours.to_text().splitlines()
    assert len({len(line) for line in lines[:6]}) == 1
    assert lines[3].split() == ["emu", "0", "-", "-", "-"]
