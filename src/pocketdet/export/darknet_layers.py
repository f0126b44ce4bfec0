"""The graph of a detector as sections of a darknet configuration."""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Node

from pocketdet.core.metadata import ModelMetadata
from pocketdet.errors import ExportError
from pocketdet.models.darknet.configuration import Section
from pocketdet.models.darknet.weights import tensors_of
from pocketdet.models.detector import NO_MEAN, NO_STD, Detector
from pocketdet.models.head import LevelHead

EPS = 1e-5  # of darknet's batch norm
ACTIVATIONS = {"relu": "relu", "mish": "mish", "leaky_relu": "leaky", "silu": "swish", "sigmoid": "logistic"}


class Layers:
    """Sections that grow one by one, and the weights of those that have some.

    A node is a ``torch.fx.Node``, whose arguments have no narrower type than ``Any``.

    Args:
        constants: Weights and statistics by the names of their nodes.
    """

    def __init__(self, constants: Mapping[str, Tensor]) -> None:
        self.sections: list[Section] = []
        self.tensors: list[list[Tensor]] = []  # of each convolution, in the order of darknet's weight files
        self._constants = constants
        self._places: dict[Node, int] = {}  # the layer that gives a node's value
        self._pads: dict[Node, tuple[int, ...]] = {}  # left, right, top, bottom of zeros around a node's value

    def add(self, kind: str, **options: object) -> int:
        """A layer behind the last one; gives its number."""
        self.sections.append(Section(kind, 0, "", {name: str(value) for name, value in options.items()}))
        return self._last

    def add_convolution(self, weight: Tensor, bias: Tensor, groups: int = 1, **options: object) -> int:
        """A convolution with a bias and without batch norm, of the last layer."""
        self.tensors.append([bias, weight])
        return self.add(
            "convolutional", filters=len(weight), size=weight.shape[2], **({"groups": groups} if groups > 1 else {}),
            **{"stride": 1, "padding": 0, "activation": "linear"} | options,
        )  # fmt: skip

    def start(self, image: Any) -> None:
        """Let the graph's input be what is there so far."""
        self._places[image] = self._last

    def follow(self, node: Any) -> int:
        """Make a node's value that of the last layer."""
        place = self._places[node]
        return place if place == self._last else self.add("route", layers=place)

    def translate(self, node: Any) -> None:
        """Add what a node of the graph computes.

        Raises:
            ExportError: Darknet has no such layer.
        """
        name = node.target.__name__ if node.target is operator.getitem else str(node.target).split(".")[1].rstrip("_")
        if node.target is operator.getitem:
            self._group(node)
        elif name in ACTIVATIONS or name == "hardtanh":
            self._activation(node, name)
        elif name in OPERATIONS:
            OPERATIONS[name](self, node)
        else:
            raise _unknown(name)

    @property
    def _last(self) -> int:
        return len(self.sections) - 1

    def _convolution(self, node: Any) -> None:
        source, weight_node, bias_node, stride, padding, dilation, groups = _arguments(
            node, (None, [1, 1], [0, 0], [1, 1], 1), 2
        )
        weight = self._constants[weight_node.name]
        bias = weight.new_zeros(len(weight)) if bias_node is None else self._constants[bias_node.name]
        self.follow(source)
        zeros = padding[0]
        if source in self._pads:
            weight, zeros = _pad_kernel(weight, self._pads[source])
        if dilation[0] != 1:
            raise _unknown("dilation")
        self._places[node] = self.add_convolution(weight, bias, groups, stride=stride[0], padding=zeros)

    def _batch_norm(self, node: Any) -> None:
        _, *names, _, _, eps, _ = node.args
        scale, shift, mean, variance = (self._constants[name.name] for name in names)
        section = self._change(node, "convolutional")
        bias, weight = self.tensors[-1]
        # Darknet adds its own eps to the variance.
        scale = scale * ((variance + EPS) / (variance + eps)).sqrt()
        self.tensors[-1] = [shift, scale, mean - bias, variance, weight]
        self.sections[-1] = _with(section, batch_normalize="1")

    def _activation(self, node: Any, name: str) -> None:
        if name == "hardtanh" and tuple(node.args[1:]) == (0.0, 6.0):
            activation = "relu6"
        elif name == "leaky_relu" and tuple(node.args[1:]) != (0.1,):
            raise _unknown("leaky ReLU with another slope than 0.1")
        elif name in ACTIVATIONS:
            activation = ACTIVATIONS[name]
        else:
            raise _unknown(name)
        section = self._change(node, "convolutional", "shortcut", "scale_channels")
        if section.options["activation"] != "linear":
            raise _unknown("two activations in a row")
        self.sections[-1] = _with(section, activation=activation)

    def _change(self, node: Any, *kinds: str) -> Section:
        """The last layer, which the node alone reads, and whose value it replaces."""
        source = node.args[0]
        section = self.sections[-1]
        if self._places[source] != self._last or section.kind not in kinds or len(source.users) > 1:
            raise _unknown(f"{node.name} behind {source.name}")
        self._places[node] = self._last
        return section

    def _pad(self, node: Any) -> None:
        source, pads, *_ = node.args
        self._places[node] = self._places[source]
        self._pads[node] = tuple(pads)

    def _pool(self, node: Any) -> None:
        source, kernel, stride, padding, *_ = _arguments(node, ([0, 0],), 3)
        self.follow(source)
        self._places[node] = self.add("maxpool", size=kernel[0], stride=stride[0], padding=2 * padding[0])

    def _average(self, node: Any) -> None:
        self.follow(node.args[0])
        self._places[node] = self.add("avgpool")

    def _upsample(self, node: Any) -> None:
        self.follow(node.args[0])
        self._places[node] = self.add("upsample", stride=_shape(node)[2] // _shape(node.args[0])[2])

    def _join(self, node: Any) -> None:
        sources = node.args[0]
        self._places[node] = self.add("route", layers=",".join(str(self._places[source]) for source in sources))

    def _sum(self, node: Any) -> None:
        first, second = node.args
        if self._places[second] == self._last:
            first, second = second, first
        self.follow(first)
        self._places[node] = self.add("shortcut", **{"from": self._places[second], "activation": "linear"})

    def _weigh(self, node: Any) -> None:
        scaled, weights = sorted(node.args, key=lambda source: _shape(source)[2], reverse=True)
        if _shape(weights)[2:] != (1, 1):
            raise _unknown("a product of two maps")
        self.follow(weights)
        self._places[node] = self.add("scale_channels", **{"from": self._places[scaled], "activation": "linear"})

    def _chunk(self, node: Any) -> None:
        """A layer only where a part is taken."""

    def _group(self, node: Any) -> None:
        chunk, number = node.args
        source, groups, *_ = chunk.args
        self._places[node] = self.add("route", layers=self._places[source], groups=groups, group_id=number)


OPERATIONS: dict[str, Callable[[Layers, Any], None]] = {
    "conv2d": Layers._convolution,
    "batch_norm": Layers._batch_norm,
    "pad": Layers._pad,
    "max_pool2d": Layers._pool,
    "mean": Layers._average,
    "upsample_nearest2d": Layers._upsample,
    "cat": Layers._join,
    "add": Layers._sum,
    "mul": Layers._weigh,
    "chunk": Layers._chunk,
}


def to_layers(detector: Detector, metadata: ModelMetadata) -> Layers:
    """Sections for the whole of a detector, its normalisation as the first of them.

    TensorFlow's padding, which darknet has not, becomes a kernel larger by one, with zeros where it looks further.

    Args:
        detector: In evaluation mode; stays as it is.
        metadata: Gives input size, anchors, classes and grid sensitivity.

    Raises:
        ExportError: Darknet has no layer for something in it.
    """
    images = torch.zeros(1, 3, *metadata.input_size)
    with torch.no_grad():
        program = torch.export.export(_UpToOutputs(detector), (images,))
    signature = program.graph_signature
    stored = {**program.state_dict, **program.constants}
    owners = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    layers = Layers({name: stored[owner].detach() for name, owner in owners.items()})
    if (metadata.mean, metadata.std) != (NO_MEAN, NO_STD):
        mean, std = (torch.tensor(value) for value in (metadata.mean, metadata.std))
        layers.add_convolution((1 / std)[:, None, None, None], -mean / std, groups=3)
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in signature.user_inputs:
            layers.start(node)
        elif node.op == "call_function" and node.users:
            layers.translate(node)
    levels = next(iter(program.graph.find_nodes(op="output"))).args[0]
    for number, (node, head) in enumerate(zip(levels, detector.head.levels, strict=True)):
        assert isinstance(head, LevelHead)
        layers.follow(node)
        _add_head(layers, head)
        layers.add("yolo", **yolo_options(metadata, number))
    return layers


def yolo_options(metadata: ModelMetadata, level: int) -> dict[str, str]:
    """Of a level's ``[yolo]`` section, what says how its boxes are decoded."""
    anchors = [anchor for anchors in metadata.anchors for anchor in anchors]
    first = sum(len(anchors) for anchors in metadata.anchors[:level])
    mask = range(first, first + len(metadata.anchors[level]))
    return {
        "mask": ",".join(map(str, mask)),
        "anchors": ", ".join(f"{width:g},{height:g}" for width, height in anchors),
        "classes": str(len(metadata.class_names)),
        "num": str(len(anchors)),
        "scale_x_y": f"{metadata.scale_xy[level]:g}",
    }


class _UpToOutputs(nn.Module):
    """A detector on normalised images, without its last convolutions."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.backbone, self.neck, self.head = detector.backbone, detector.neck, detector.head

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """``(B, 3, H, W)`` to a map a level."""
        return tuple(self.head.features(self.neck(self.backbone(images))))


def _add_head(layers: Layers, head: LevelHead) -> None:
    """One convolution for a level's three outputs."""
    outputs = (head.boxes, head.objectness, head.classes)
    kernel = head.boxes.kernel_size[0]
    layers.tensors.append(tensors_of(head))
    filters = sum(output.out_channels for output in outputs)
    layers.add("convolutional", filters=filters, size=kernel, stride=1, padding=kernel // 2, activation="linear")


def _pad_kernel(weight: Tensor, pads: Sequence[int]) -> tuple[Tensor, int]:
    """A kernel and its padding on each side, for other zeros on the left and top than on the right and bottom."""
    left, right, top, bottom = pads
    if (left, right) != (top, bottom) or right - left not in (0, 1):
        raise _unknown(f"padding by {left}, {right}, {top}, {bottom} pixels")
    return (weight, left) if left == right else (F.pad(weight, (1, 0, 1, 0)), right)


def _arguments(node: Any, defaults: Sequence[Any], required: int) -> list[Any]:
    """All arguments; the graph leaves out those at the end that have their default."""
    return [*node.args, *defaults[len(node.args) - required :]]


def _with(section: Section, **options: str) -> Section:
    return Section(section.kind, 0, "", {**section.options, **options})


def _shape(node: Any) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def _unknown(what: str) -> ExportError:
    return ExportError(
        f"darknet has no layer for {what}; what can be written are YOLOv4's own networks and those on MobileNet V1, V2 "
        "and V3 minimalistic, with relu6, mish or leaky"
    )
