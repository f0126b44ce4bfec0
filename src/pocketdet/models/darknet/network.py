"""The network that a darknet configuration describes."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from pocketdet.models.backbone import check_size
from pocketdet.models.blocks import initialise
from pocketdet.models.darknet.configuration import Section, parse
from pocketdet.models.darknet.layers import Layer, Map, activation_of, build_layer, kernel_of


class Level(NamedTuple):
    """A ``[yolo]`` section and the convolution before it, which gives its raw outputs."""

    layer: int  # number of that convolution, from 0
    kernel: int
    in_channels: int
    stride: int  # input pixels per cell
    num_classes: int
    anchors: tuple[tuple[float, float], ...]  # (width, height) in input pixels
    scale_xy: float


class Darknet(nn.Module):
    """All layers of a darknet configuration but the convolutions before ``[yolo]``, which are the detector's head.

    Args:
        configuration: The text of a ``.cfg`` file.
        file: Its name, for error messages.

    Raises:
        ModelFileError: Something in it is not supported or does not fit; names the line.
    """

    def __init__(self, configuration: str, file: str = "cfg") -> None:
        super().__init__()
        self.configuration, self.file = configuration, file
        net, *self.sections = parse(configuration, file)
        if net.integer("channels", 3) != 3:
            raise net.error(f"reads {net.integer('channels')} channels; only RGB is supported", "channels")
        self.input_size = (net.integer("height", 416), net.integer("width", 416))
        layers, levels = _build(self.sections)
        if not levels:
            raise net.error("has no [yolo] layer behind it; only detectors are supported")
        if len({level.num_classes for level in levels}) > 1:
            raise net.error(f"has [yolo] layers with {', '.join(str(level.num_classes) for level in levels)} classes")
        self.levels = tuple(sorted(levels, key=lambda level: level.stride))  # P3 first
        self.layers = nn.ModuleList(layer.module for layer in layers)
        self.sources = [layer.sources for layer in layers]
        self.out_channels = tuple(level.in_channels for level in self.levels)
        self.strides = tuple(level.stride for level in self.levels)
        self.padding = "symmetric"
        self._read_later = {source for n, sources in enumerate(self.sources) for source in sources if source < n - 1}
        initialise(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """``(B, 3, H, W)`` RGB in 0 to 1 to what the head reads, one map a level, P3 first."""
        check_size(images.shape[2], images.shape[3], self.strides[-1])
        wanted = {level.layer for level in self.levels}
        kept: dict[int, Tensor] = {}
        x = images
        for number, (layer, sources) in enumerate(zip(self.layers, self.sources, strict=True)):
            x = layer(*(x if source == number - 1 else kept[source] for source in sources))
            if number in self._read_later or number in wanted:
                kept[number] = x
        return [kept[level.layer] for level in self.levels]


def read_shape_iou(configuration: str) -> float:
    """The shape IoU above which an anchor learns a target, of a configuration that was read before."""
    yolo = next(section for section in parse(configuration, "cfg") if section.kind == "yolo")
    return yolo.number("iou_thresh", 1.0)


def _build(sections: Sequence[Section]) -> tuple[list[Layer], list[Level]]:
    layers: list[Layer] = []
    maps: list[Map] = []
    levels: list[Level] = []
    outputs: set[int] = set()
    for number, section in enumerate(sections):
        is_output = number + 1 < len(sections) and sections[number + 1].kind == "yolo"
        if section.kind == "yolo" or is_output:
            before = maps[-1] if maps else Map(3, 1)
            layer = Layer(nn.Identity(), (number - 1,), before)
            if is_output:
                levels.append(_level(number, section, sections[number + 1], before))
            elif number - 1 not in outputs:
                raise section.error("must stand behind a convolution")
            outputs.add(number)
        else:
            layer = build_layer(section, maps)
            if read := outputs.intersection(layer.sources):
                raise section.error(f"reads layer {read.pop()}, an output of the network; that is not supported")
        layers.append(layer)
        maps.append(layer.output)
    return layers, levels


def _level(number: int, convolution: Section, yolo: Section, before: Map) -> Level:
    if yolo.integer("new_coords", 0):
        raise yolo.error("with new_coords=1 has another way to make boxes, which is not supported", "new_coords")
    kernel, stride, padding = kernel_of(convolution) if convolution.kind == "convolutional" else (0, 0, 0)
    is_plain = stride == 1 and padding == kernel // 2 and convolution.integer("groups", 1) == 1
    if not is_plain or convolution.integer("batch_normalize", 0):
        raise convolution.error("stands before [yolo]; expected a convolution with stride 1 and without batch norm")
    if not isinstance(activation_of(convolution, "logistic"), nn.Identity):
        raise convolution.error("stands before [yolo]; expected activation=linear", "activation")
    sides = yolo.numbers("anchors")
    pairs = tuple(zip(sides[::2], sides[1::2], strict=False))
    mask = yolo.integers("mask", tuple(range(len(pairs))))
    if len(sides) % 2 or not all(0 <= number < len(pairs) for number in mask):
        raise yolo.error(
            f"has {len(sides) / 2:g} anchors (width, height) and the mask {mask}, which do not fit", "mask"
        )
    num_classes, filters = yolo.integer("classes", 20), convolution.integer("filters", 1)
    if filters != len(mask) * (5 + num_classes):
        raise convolution.error(
            f"has {filters} filters; {len(mask)} anchors and {num_classes} classes in line {yolo.line} "
            f"ask for {len(mask) * (5 + num_classes)}",
            "filters",
        )
    anchors = tuple(pairs[number] for number in mask)
    scale_xy = yolo.number("scale_x_y", 1.0)
    return Level(number, kernel, before.channels, before.stride, num_classes, anchors, scale_xy)
