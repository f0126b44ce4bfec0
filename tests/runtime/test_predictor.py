import os
import weakref

import numpy as np
import pytest
from PIL import Image

from pocketdet.core.letterbox import Letterbox
from pocketdet.datasets.records import Record
from pocketdet.errors import ImageError, SettingsError
from pocketdet.runtime.backends import OnnxBackend
from pocketdet.runtime.predictor import Predictor
from pocketdet.runtime.stream import AHEAD

RED_BOX = [[16, 24, 24, 32]]


@pytest.fixture(scope="module")
def predictor(tiny_model):
    return Predictor(OnnxBackend(tiny_model, threads=1))


@pytest.fixture
def picture(tmp_path, red_cell):
    path = tmp_path / "red.png"
    Image.fromarray(red_cell).save(path)
    return path


def test_an_array_gives_the_box_and_score_worked_by_hand(predictor, red_cell):
    found = predictor.predict(red_cell)
    np.testing.assert_allclose(found.boxes, RED_BOX, atol=1e-3)
    assert found.scores[0] == pytest.approx(1 / (1 + np.exp(-10)), abs=1e-4)
    assert found.class_names == ["red"]
    assert found.boxes.dtype == np.float32
    assert found.class_ids.dtype == np.int64


def test_path_bytes_and_array_give_the_same(predictor, picture, red_cell):
    boxes = [predictor.predict(s).boxes for s in (picture, str(picture), picture.read_bytes(), red_cell)]
    for other in boxes:
        np.testing.assert_array_equal(other, boxes[0])
    assert len(boxes[0]) == 1


def test_boxes_are_in_pixels_of_the_full_picture(predictor, red_cell):
    wide = np.zeros((256, 512, 3), np.uint8)  # eight times smaller in the input, between bars of 16 grey rows
    wide[64:128, 128:192, 0] = 255
    grey_bars_found = predictor.predict(wide)
    red = grey_bars_found.boxes[grey_bars_found.class_ids == 0]
    assert [128, 64, 192, 128] in np.round(red).astype(int).tolist()


def test_a_jpeg_decoded_at_a_reduced_scale_gives_boxes_of_the_full_picture(predictor, tmp_path):
    large = np.zeros((1024, 1024, 3), np.uint8)
    large[384:512, 256:384, 0] = 255
    Image.fromarray(large).save(tmp_path / "large.jpg", quality=95)
    found = predictor.predict(tmp_path / "large.jpg")
    np.testing.assert_allclose(found.boxes, np.array(RED_BOX) * 16, atol=0.01)
    assert found.image_size == (1024, 1024)


@pytest.mark.parametrize(("side", "decoded"), [(64, 64), (191, 191), (192, 96), (383, 192), (384, 96), (1024, 128)])
def test_a_jpeg_is_decoded_half_as_large_again_as_the_network_sees_it(predictor, tmp_path, monkeypatch, side, decoded):
    Image.new("RGB", (side, side)).save(tmp_path / "picture.jpg")
    seen = []
    apply = Letterbox.apply
    monkeypatch.setattr(
        Letterbox, "apply", lambda box, image, *more: (seen.append(image.size), apply(box, image, *more))[1]
    )
    predictor.predict(tmp_path / "picture.jpg")
    assert seen == [(decoded, decoded)]


def test_a_sideways_photo_is_looked_at_upright(predictor, tmp_path, red_cell):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(np.rot90(red_cell).copy()).save(tmp_path / "sideways.png", exif=exif)
    np.testing.assert_allclose(predictor.predict(tmp_path / "sideways.png").boxes, RED_BOX, atol=1e-3)


def test_a_batch_gives_what_each_picture_gives_alone_with_its_own_thresholds(predictor, picture, red_cell):
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[16:32, 16:32, 2] = 255
    thresholds = [(0.3, 0.5), (0.005, 0.5), (0.3, 0.5)]
    together = predictor.detect([predictor.prepare(s) for s in (picture, red_cell, wide)], thresholds)
    for found, source, (score, iou) in zip(together, (picture, red_cell, wide), thresholds, strict=True):
        alone = predictor.predict(source, score, iou)
        np.testing.assert_array_equal(found.boxes, alone.boxes)
        np.testing.assert_array_equal(found.class_ids, alone.class_ids)
        assert found.image_size == alone.image_size
    assert [len(found) for found in together[:2]] == [1, 2]


def test_lists_folders_and_patterns_give_lists(predictor, picture, red_cell):
    assert [d.source for d in predictor.predict([picture, red_cell])] == [str(picture), ""]
    for source in (picture.parent, f"{picture.parent}/*.png"):
        assert [d.source for d in predictor.predict(source)] == [str(picture)]


def test_iter_predict_raises_an_error_in_its_turn(predictor, picture, tmp_path):
    found = predictor.iter_predict([picture, tmp_path / "absent.png"])
    assert len(next(found)) == 1
    with pytest.raises(ImageError, match="absent"):
        next(found)


def test_what_cannot_be_read_is_told_in_order_and_left_out(predictor, picture, tmp_path, red_cell):
    (tmp_path / "text.png").write_text("no picture")
    sources = [tmp_path / "no-folder", picture, tmp_path / "text.png", b"", red_cell, f"{tmp_path}/*.gif"]
    told = []
    found = list(predictor.iter_predict(sources, on_error=lambda source, error: told.append((source, str(error)))))
    assert [d.source for d in found] == [str(picture), ""]
    assert [source for source, _ in told] == [sources[0], sources[2], sources[3], sources[5]]
    assert all(str(source) in message for source, message in told[:2])


def test_many_pictures_are_taken_from_a_generator_and_not_kept(predictor, red_cell):
    alive = []

    def pictures():
        for _ in range(60):
            pixels = red_cell.copy()
            alive.append(weakref.ref(pixels))
            yield pixels

    found = predictor.iter_predict(pictures(), keep_image=False)
    for _ in range(60):
        assert len(next(found)) == 1
        assert sum(ref() is not None for ref in list(alive)) <= 2 * AHEAD * (os.cpu_count() or 1) + 2
    assert next(found, None) is None


def test_pictures_on_threads_give_what_one_after_the_other_gives(tiny_model, picture, red_cell):
    one, three = (Predictor(OnnxBackend(tiny_model, threads=1), threads=n) for n in (1, 3))
    sources = [picture, np.roll(red_cell, 8, axis=1), np.roll(red_cell, 16, axis=0), picture.read_bytes()] * 5
    for a, b in zip(one.predict(sources), three.predict(sources), strict=True):
        np.testing.assert_array_equal(a.boxes, b.boxes)
        np.testing.assert_array_equal(a.scores, b.scores)
        assert a.source == b.source


def test_several_pictures_or_tiles_share_the_threads_and_a_single_one_has_them_all(tiny_model, red_cell):
    opened = []

    def open_shared(streams):
        opened.append(OnnxBackend(tiny_model, threads=2, streams=streams))
        return opened[-1]

    predictor = Predictor(OnnxBackend(tiny_model, threads=2), threads=2, open_shared=open_shared)
    alone = predictor.predict(red_cell)
    assert [len(d) for d in predictor.predict([red_cell])] == [1]
    assert opened == []
    for found in predictor.predict([red_cell] * 5):
        np.testing.assert_array_equal(found.boxes, alone.boxes)
        np.testing.assert_array_equal(found.scores, alone.scores)
    assert len(predictor.predict(np.tile(red_cell, (2, 2, 1)), tiles=64)) == 4
    assert len(opened) == 1


@pytest.mark.parametrize("kind", ["array", "file"])
def test_tiles_find_what_is_too_small_in_the_whole_picture(predictor, red_cell, tmp_path, kind):
    large = np.zeros((112, 112, 3), np.uint8)
    large[48:, 48:] = red_cell  # where the last of 2 x 2 tiles lies
    source = large
    if kind == "file":
        source = tmp_path / "large.png"
        Image.fromarray(large).save(source)
    assert len(predictor.predict(source)) == 0
    found = predictor.predict(source, tiles=64)
    np.testing.assert_allclose(found.boxes, np.array(RED_BOX) + 48, atol=1e-3)
    assert found.image_size == (112, 112)
    assert [len(d) for d in predictor.predict([source, red_cell], tiles=64)] == [1, 1]


def test_a_picture_that_is_one_tile_is_looked_at_once(predictor, red_cell, monkeypatch):
    runs = []
    run = OnnxBackend.run
    monkeypatch.setattr(OnnxBackend, "run", lambda backend, images: (runs.append(len(images)), run(backend, images))[1])
    np.testing.assert_allclose(predictor.predict(red_cell, tiles=640).boxes, RED_BOX, atol=1e-3)
    assert runs == [1]


def test_tiles_that_are_too_small_are_an_error(predictor, red_cell):
    with pytest.raises(SettingsError, match="tiles is 8; it is the side of a tile in pixels and must be at least 32"):
        predictor.predict(red_cell, tiles=8)


def test_a_picture_with_a_path_is_drawn_at_full_size_without_being_kept(predictor, picture, tmp_path):
    found = predictor.predict(picture)
    assert found.image is None
    with Image.open(found.save(tmp_path / "out" / "drawn.png")) as drawn:
        assert drawn.size == (64, 64)


def test_arrays_are_kept_for_drawing_unless_told_otherwise(predictor, red_cell, tmp_path):
    predictor.predict(red_cell).save(tmp_path / "drawn.png")
    with pytest.raises(ImageError, match="keep_image=True"):
        predictor.predict(red_cell, keep_image=False).save(tmp_path / "drawn.png")


def test_the_thresholds_bound_what_is_found(predictor, red_cell):
    assert len(predictor.predict(red_cell, score_threshold=0.99999)) == 0
    # sigmoid(-5) of P4 and sigmoid(-8.75) of P5 pass the threshold of an evaluation or do not.
    assert len(predictor.predict(red_cell, score_threshold=0.005)) == 2


def test_evaluation_keeps_low_scores(predictor, picture):
    none = np.empty(0)
    record = Record(picture, none.reshape(0, 4), none, none)
    assert len(predictor.predict_record(record)) == 2


@pytest.mark.parametrize("name", ["score_threshold", "iou_threshold"])
def test_a_threshold_out_of_range_is_an_error(predictor, red_cell, name):
    with pytest.raises(SettingsError, match=f"{name} is 30; it must be between 0 and 1"):
        predictor.predict(red_cell, **{name: 30})


def test_diou_keeps_more_of_two_boxes_aside(tiny_model, red_cell):
    """The red cell's boxes of P3 and P4: 8 x 8 in 16 x 16 has an IoU of 0.25, less by DIoU's distance."""
    red_cell[16:32, 16:32, 0] = 255
    found = {
        nms: Predictor(OnnxBackend(tiny_model, threads=1), nms).predict(red_cell, iou_threshold=0.24)
        for nms in ("iou", "diou")
    }
    assert len(found["diou"]) > len(found["iou"])


def test_an_unknown_nms_is_an_error(tiny_model):
    with pytest.raises(SettingsError, match="nms is 'soft'; it must be one of iou, diou"):
        Predictor(OnnxBackend(tiny_model, threads=1), "soft")


def test_class_names_and_metadata_are_those_of_the_file(predictor, tiny_metadata):
    assert predictor.class_names == ("red", "blue")
    assert predictor.metadata == tiny_metadata
