import numpy as np
import pytest
from PIL import Image, ImageFont

from pocketdet.core import drawing
from pocketdet.core.detections import Detections
from pocketdet.core.drawing import PALETTE, Place, _readable_on, class_colour, draw, free_place, save_drawing
from pocketdet.errors import ImageError


def detections(*boxes, image=None, source="", class_ids=None, size=(200, 300)):
    count = len(boxes)
    ids = np.array(class_ids if class_ids is not None else range(count), np.int64)
    scores = np.linspace(0.9, 0.5, count, dtype=np.float32)
    names = tuple(f"class {n}" for n in range(12))
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), scores, ids, names, size, source, image)


def blank(height=200, width=300):
    return np.full((height, width, 3), 128, np.uint8)


def relative_luminance(colour):
    """By the definition of WCAG 2."""
    linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_edge_of_a_box_has_the_colour_of_its_class():
    drawn = draw(detections((50, 60, 250, 180), class_ids=[3]), blank())
    for y, x in ((60, 200), (179, 150), (120, 50), (120, 249)):
        assert tuple(drawn[y, x]) == class_colour(3)
    assert tuple(drawn[120, 150]) == (128, 128, 128)


def test_the_given_picture_is_not_changed():
    picture = blank()
    draw(detections((50, 60, 250, 180)), picture)
    assert (picture == 128).all()


def test_nothing_found_leaves_the_picture_as_it_is():
    np.testing.assert_array_equal(draw(detections(), blank()), blank())


@pytest.mark.parametrize(
    "box", [(0, 0, 300, 200), (-1, -1, 1, 1), (299, 199, 300, 200), (280, 0, 300, 20), (5, 5, 5, 5)]
)
def test_boxes_at_the_border_and_tiny_ones_can_be_drawn(box):
    assert draw(detections(box), blank()).shape == (200, 300, 3)


def test_a_picture_smaller_than_a_label_can_be_drawn():
    assert draw(detections((0, 0, 5, 4), size=(4, 5)), blank(4, 5)).shape == (4, 5, 3)


@pytest.mark.parametrize("box", [(0, 0, 300, 200), (290, 0, 300, 20), (0, 190, 40, 200), (290, 195, 300, 200)])
def test_a_label_stays_inside_the_picture(box):
    place = free_place(np.array(box, np.float32), (80, 16), (300, 200), [])
    assert place.left >= 0
    assert place.top >= 0
    assert place.right <= 300
    assert place.bottom <= 200


def test_labels_of_boxes_in_one_place_do_not_cover_each_other():
    taken: list[Place] = []
    for _ in range(4):
        taken.append(free_place(np.array((50, 60, 250, 160), np.float32), (80, 16), (300, 200), taken))
    assert len(set(taken)) == 4
    assert not any(a.overlaps(b) for a in taken for b in taken if a is not b)


@pytest.mark.parametrize("colour", PALETTE)
def test_text_on_every_colour_has_the_contrast_that_wcag_asks_for(colour):
    low, high = sorted((relative_luminance(colour), relative_luminance(_readable_on(colour))))
    assert (high + 0.05) / (low + 0.05) >= 4.5


@pytest.fixture
def only_dejavu(monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    font = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    monkeypatch.setattr(drawing, "FONTS", (("no-such-font.ttc", 0), (font, 0)))
    drawing._system_font.cache_clear()
    drawing.make_label.cache_clear()
    yield
    drawing._system_font.cache_clear()
    drawing.make_label.cache_clear()


def test_letters_that_pillow_s_font_lacks_come_from_a_font_of_the_system(only_dejavu):
    cat, whale = (drawing.make_label(name, (0, 0, 0), 40) for name in ("кот", "кит"))
    assert cat.tobytes() != whale.tobytes(), "both are the same empty boxes"


def test_names_in_latin_letters_look_alike_on_every_system(monkeypatch):
    monkeypatch.setattr(drawing, "_system_font", lambda: pytest.fail("looked for a font"))
    assert drawing._font_for("ñandú, žirafa", 40).getname() == ImageFont.load_default(40).getname()


def test_without_such_a_font_boxes_are_drawn_all_the_same(only_dejavu, monkeypatch):
    monkeypatch.setattr(drawing, "FONTS", (("no-such-font.ttc", 0),))
    assert drawing.make_label("猫", (0, 0, 0), 40).width > 10


def test_the_picture_is_read_again_from_its_source(tmp_path):
    Image.fromarray(blank()).save(tmp_path / "photo.png")
    target = save_drawing(
        detections((50, 60, 250, 180), source=str(tmp_path / "photo.png")), tmp_path / "new" / "a.png"
    )
    assert target == tmp_path / "new" / "a.png"
    expected = draw(detections((50, 60, 250, 180)), blank())
    np.testing.assert_array_equal(np.asarray(Image.open(target)), expected)


def test_an_unknown_suffix_is_refused(tmp_path):
    with pytest.raises(ImageError, match=r"cannot write '\.doc' pictures; use one of .*\.png"):
        save_drawing(detections(image=blank()), tmp_path / "a.doc")


def test_a_file_in_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(ImageError, match="cannot be written"):
        save_drawing(detections(image=blank()), tmp_path / "taken" / "a.png")


def test_detections_without_a_picture_say_how_to_get_one(tmp_path):
    with pytest.raises(ImageError, match="keep_image=True"):
        save_drawing(detections(), tmp_path / "a.png")


def test_labels_of_the_caller_replace_class_and_score():
    box = detections((50, 60, 250, 180), class_ids=[3])
    assert (draw(box, blank()) == draw(box, blank(), ["class 3 90%"])).all()
    assert (draw(box, blank()) != draw(box, blank(), ["missed"])).any()
