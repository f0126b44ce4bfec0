"""What a training picture goes through, as a plan: which pictures lie where, mirrored, turned, in which colours.

A plan knows geometry and targets and holds no pixels, so that ``render`` (OpenCV, on a CPU) and ``gpu`` (torch, a batch
at once) draw the same one.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pocketdet.training.settings import TrainSettings

Boxes = NDArray[np.float32]
ClassIds = NDArray[np.int64]
Window = tuple[int, int, int, int]  # left, top, right, bottom on the canvas

SCALE = (0.6, 1.5)  # of the size at which the picture just fits
ASPECT = 1.2  # at most so much wider or taller
COLOUR = (0.015, 0.6, 0.4)  # hue, saturation, value: largest relative change
MIN_VISIBLE = 0.25  # a box of which less is left is no target
MIN_SIDE = 2.0  # input pixels
BLEND = 8.0  # mixup: both shapes of the beta distribution from which the share of the first scene comes
CUT_AREA = (0.1, 0.4)  # CutMix: share of the canvas
MAX_COPIES = 3  # copy-paste: objects a picture
COPY_SCALE = (0.5, 1.25)  # copy-paste: of the size that an object has where its picture just fits
MAX_COVERED = 0.2  # copy-paste: an object lands where it covers at most so much of any other


class Source(NamedTuple):
    """What a plan has to know of a picture."""

    height: int
    width: int
    boxes: Boxes  # (T, 4) xyxy, pixels of the picture
    class_ids: ClassIds  # (T,)


class Placement(NamedTuple):
    """Where a picture goes on the canvas: its corner, and its scale in x and y."""

    left: float
    top: float
    scale_x: float
    scale_y: float


class Patch(NamedTuple):
    """A picture, seen through a window of the canvas."""

    number: int
    window: Window
    at: Placement


class Scene(NamedTuple):
    """Patches, later ones above earlier ones, and the targets that can be seen in them."""

    patches: tuple[Patch, ...]
    boxes: Boxes
    class_ids: ClassIds


class Plan(NamedTuple):
    """How a training picture is made."""

    layers: tuple[tuple[Patch, ...], ...]  # one, or two that are blended
    blend: float  # share of the first layer
    flips: bool
    turns: int  # by 90 degrees, counter-clockwise, after the flip
    colour: tuple[float, float, float]  # gains of hue, saturation and value
    boxes: Boxes  # (T, 4) xyxy, input pixels
    class_ids: ClassIds  # (T,)


class Planner:
    """Draws plans; each depends on seed, epoch and picture alone.

    Args:
        settings: Size, seed, probabilities.
        num_pictures: That others are chosen from.
        look: Gives a picture's measures and targets by its number.
    """

    def __init__(self, settings: TrainSettings, num_pictures: int, look: Callable[[int], Source]) -> None:
        self.settings = settings
        self.num_pictures = num_pictures
        self.look = look

    def draw(self, epoch: int, number: int) -> Plan:
        """The plan for a picture in an epoch."""
        settings = self.settings
        rng = np.random.default_rng((settings.seed, epoch, number))
        is_plain = epoch >= round(settings.epochs * (1 - settings.plain_epochs))

        def chance(probability: float) -> bool:
            return bool(rng.random() < probability) and not is_plain

        scene = self._scene(number, chance(settings.mosaic), rng)
        if chance(settings.copy_paste):
            scene = self._copy_paste(scene, rng)
        if chance(settings.cutmix):
            scene = self._cut_mix(scene, rng)
        layers: tuple[tuple[Patch, ...], ...] = (scene.patches,)
        blend = 1.0
        if chance(settings.mixup):
            second = self._scene(self._any(rng), chance(settings.mosaic), rng)
            layers, blend = (scene.patches, second.patches), float(rng.beta(BLEND, BLEND))
            scene = _join((scene, second))
        flips = bool(rng.random() < settings.flip)
        boxes = _mirror(scene.boxes, settings.size) if flips else scene.boxes
        hue, saturation, value = 1 + rng.uniform(-1, 1, 3) * COLOUR
        turns = int(rng.integers(1, 4)) if rng.random() < settings.turn else 0
        boxes = _turn(boxes, turns, settings.size)
        colour = (float(hue), float(saturation), float(value))
        return Plan(layers, blend, flips, turns, colour, boxes, scene.class_ids)

    def _any(self, rng: np.random.Generator) -> int:
        return int(rng.integers(self.num_pictures))

    def _scene(self, number: int, is_mosaic: bool, rng: np.random.Generator) -> Scene:
        if is_mosaic:
            return self._mosaic((number, self._any(rng), self._any(rng), self._any(rng)), rng)
        source, size = self.look(number), self.settings.size
        scale_x, scale_y = _random_scale(source, size, rng)
        left = rng.random() * (size - source.width * scale_x)
        top = rng.random() * (size - source.height * scale_y)
        return _see(source, Patch(number, (0, 0, size, size), Placement(left, top, scale_x, scale_y)))

    def _mosaic(self, numbers: tuple[int, int, int, int], rng: np.random.Generator) -> Scene:
        """Four pictures around one point, YOLOv4 §3.3; each is cut where its quarter ends."""
        size = self.settings.size
        centre_x, centre_y = (int(rng.uniform(0.3, 0.7) * size) for _ in range(2))
        quarters = []
        for place, number in enumerate(numbers):
            is_right, is_lower = place % 2, place // 2
            source = self.look(number)
            scale_x, scale_y = (0.75 * scale for scale in _random_scale(source, size, rng))
            left = centre_x if is_right else centre_x - source.width * scale_x
            top = centre_y if is_lower else centre_y - source.height * scale_y
            window = (
                centre_x if is_right else 0,
                centre_y if is_lower else 0,
                size if is_right else centre_x,
                size if is_lower else centre_y,
            )
            quarters.append(_see(source, Patch(number, window, Placement(left, top, scale_x, scale_y))))
        return _join(quarters)

    def _cut_mix(self, scene: Scene, rng: np.random.Generator) -> Scene:
        """A rectangle of another picture lies over the scene: CutMix (1905.04899) with boxes for labels."""
        size, number = self.settings.size, self._any(rng)
        source = self.look(number)
        area, aspect = rng.uniform(*CUT_AREA), np.exp(rng.uniform(-0.5, 0.5))
        width, height = (round(size * min(1.0, np.sqrt(area * ratio))) for ratio in (aspect, 1 / aspect))
        left, top = int(rng.integers(size - width + 1)), int(rng.integers(size - height + 1))
        scale = max(width / source.width, height / source.height) * np.exp(rng.uniform(0, np.log(2)))
        at = Placement(
            left - rng.uniform(0, source.width * scale - width),
            top - rng.uniform(0, source.height * scale - height),
            scale,
            scale,
        )
        return _cover(scene, _see(source, Patch(number, (left, top, left + width, top + height), at)))

    def _copy_paste(self, scene: Scene, rng: np.random.Generator) -> Scene:
        """Objects of other pictures, as rectangles (there are no masks), where they hide little: after 2012.07177."""
        size = self.settings.size
        for _ in range(int(rng.integers(1, MAX_COPIES + 1))):
            number = self._any(rng)
            source = self.look(number)
            if not len(source.boxes):
                continue
            box = source.boxes[rng.integers(len(source.boxes))]
            scale = size / max(source.height, source.width) * np.exp(rng.uniform(*np.log(COPY_SCALE)))
            width, height = (max(1, round(float(side) * scale)) for side in box[2:] - box[:2])
            if max(width, height) > size or min(width, height) < MIN_SIDE:
                continue
            left, top = int(rng.integers(size - width + 1)), int(rng.integers(size - height + 1))
            window = (left, top, left + width, top + height)
            if _covered(scene.boxes, window).max(initial=0) > MAX_COVERED:
                continue
            scale_x, scale_y = width / max(1e-6, float(box[2] - box[0])), height / max(1e-6, float(box[3] - box[1]))
            at = Placement(left - float(box[0]) * scale_x, top - float(box[1]) * scale_y, scale_x, scale_y)
            scene = _cover(scene, _see(source, Patch(number, window, at)))
        return scene


def _random_scale(source: Source, size: int, rng: np.random.Generator) -> tuple[float, float]:
    fit = size / max(source.height, source.width)
    scale = fit * np.exp(rng.uniform(*np.log(SCALE)))
    stretch = np.exp(rng.uniform(-1, 1) * np.log(ASPECT) / 2)
    return float(scale * stretch), float(scale / stretch)


def _see(source: Source, patch: Patch) -> Scene:
    """One patch and those of its targets of which enough can be seen in its window."""
    at, (left, top, right, bottom) = patch.at, patch.window
    moved = source.boxes * np.array([at.scale_x, at.scale_y] * 2) + np.array([at.left, at.top] * 2)
    clipped = np.clip(moved, (left, top, left, top), (right, bottom, right, bottom))
    before, after = (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (moved, clipped))
    smallest = (clipped[:, 2:] - clipped[:, :2]).min(axis=1, initial=np.inf)
    is_seen = (after >= MIN_VISIBLE * before) & (smallest >= MIN_SIDE)
    return Scene((patch,), clipped[is_seen].astype(np.float32), source.class_ids[is_seen])


def _join(scenes: tuple[Scene, ...] | list[Scene]) -> Scene:
    patches = tuple(patch for scene in scenes for patch in scene.patches)
    boxes, class_ids = (np.concatenate(parts) for parts in zip(*((s.boxes, s.class_ids) for s in scenes), strict=True))
    return Scene(patches, boxes, class_ids)


def _cover(scene: Scene, above: Scene) -> Scene:
    """Lay a patch over the scene; targets that it hides too much of are none any more."""
    stays = _covered(scene.boxes, above.patches[0].window) <= 1 - MIN_VISIBLE
    return _join((Scene(scene.patches, scene.boxes[stays], scene.class_ids[stays]), above))


def _covered(boxes: Boxes, window: Window) -> NDArray[np.float64]:
    """``(T,)`` the share of each box that lies in the window."""
    low = np.maximum(boxes[:, :2], window[:2])
    high = np.minimum(boxes[:, 2:], window[2:])
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return np.asarray(np.prod(np.clip(high - low, 0, None), axis=1) / np.maximum(area, 1e-9), np.float64)


def _mirror(boxes: Boxes, size: int) -> Boxes:
    mirrored = boxes.copy()
    mirrored[:, [0, 2]] = size - boxes[:, [2, 0]]
    return mirrored


def _turn(boxes: Boxes, turns: int, size: int) -> Boxes:
    """As ``np.rot90`` turns the picture: what was at x is at y = size - x."""
    for _ in range(turns):
        left, top, right, bottom = boxes.T
        boxes = np.stack((top, size - right, bottom, size - left), axis=1)
    return boxes
