"""Checkpoints of the widely used PyTorch scripts that train YOLOv4 on MobileNet V1, V2 and V3-Large.

Their networks are ours at width and neck width 1 under other names, with one output a level for boxes, objectness and
classes together. In their V3 squeeze-and-excitation comes before the activation, which the metadata say.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from pocketdet.core.metadata import YOLOV4_ANCHORS, Anchors, ModelMetadata
from pocketdet.errors import ModelFileError
from pocketdet.models.backbone import Backbone
from pocketdet.models.detector import NO_MEAN, NO_STD, Detector, build_from_metadata
from pocketdet.models.head import ANCHORS_PER_CELL
from pocketdet.models.import_weights import adjust_eps, read_torch
from pocketdet.models.importing import Imported, check_class_names
from pocketdet.models.roles import find_roles, norm_of

EPS = 1e-5  # of all their batch norms
LETTERBOX_COLOUR = (128, 128, 128)
MARKS = {  # a key that only one of the networks has
    "backbone.model.stage1.1.3.weight": "mobilenet_v1",
    "backbone.model.features.1.conv.0.0.weight": "mobilenet_v2",
    "backbone.model.features.1.conv.0.weight": "mobilenet_v3_large",
}
V1_STAGES = {"stage1": range(0, 6), "stage2": range(6, 12), "stage3": range(12, 14)}  # our numbers of their blocks
# Their number of a layer, by what it is for; a batch norm has the number behind its convolution's.
V1_LAYERS = {"conv": "0", "depthwise": "0", "project": "3"}
V3_LAYERS = {"expand": "0", "depthwise": "3", "squeeze": "5.fc.0", "excite": "5.fc.2", "project": "7"}
V3_LAYERS_WITHOUT_EXPAND = {"depthwise": "0", "project": "4"}
BEHIND_BACKBONE = {
    "conv1": "neck.before_pooling",
    "conv2": "neck.after_pooling",
    "upsample1.upsample.0": "neck.reduce_p5",
    "conv_for_P4": "neck.lateral_p4",
    "make_five_conv1": "neck.top_down_p4",
    "upsample2.upsample.0": "neck.reduce_p4",
    "conv_for_P3": "neck.lateral_p3",
    "make_five_conv2": "neck.top_down_p3",
    "down_sample1": "neck.down_p3",
    "make_five_conv3": "neck.bottom_up_p4",
    "down_sample2": "neck.down_p4",
    "make_five_conv4": "neck.bottom_up_p5",
    "yolo_head3.0": "head.levels.0.separable",
    "yolo_head2.0": "head.levels.1.separable",
    "yolo_head1.0": "head.levels.2.separable",
}
NECK_LAYERS = {"conv": "0", "bn": "1", "0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1"}  # of plain, of separable ones
OUTPUTS = ("yolo_head3.1", "yolo_head2.1", "yolo_head1.1")  # P3, P4, P5


def import_scripts(
    path: str | Path,
    class_names: Sequence[str],
    anchors: Anchors = YOLOV4_ANCHORS,
    input_size: tuple[int, int] = (416, 416),
) -> Imported:
    """Read a ``.pth`` file of the MobileNet-YOLOv4 scripts; no pickled code is executed.

    Args:
        path: A state dict.
        class_names: In the order that the network was trained with; the file does not have them.
        anchors: Per level, P3 first: (width, height) in input pixels; the file does not have them.
        input_size: (height, width) in pixels that the network was trained at.

    Raises:
        ModelFileError: Missing, cut, or of another network.
        SettingsError: Too few or too many class names.
    """
    from pocketdet import __version__

    tensors = {key.removeprefix("module."): tensor for key, tensor in read_torch(path).items()}
    backbone = _check(tensors, class_names, path)
    metadata = ModelMetadata(
        backbone=backbone,
        width=1.0,
        neck_width=1.0,
        padding="symmetric",
        class_names=tuple(class_names),
        input_size=input_size,
        anchors=anchors,
        scale_xy=(1.0, 1.0, 1.0),
        mean=NO_MEAN,
        std=NO_STD,
        padding_colour=LETTERBOX_COLOUR,
        stretch=True,
        se_before_activation=backbone == "mobilenet_v3_large",
        licence="",
        pocketdet_version=__version__,
    )
    detector = build_from_metadata(metadata)
    ours, unused = _to_ours(tensors, detector, backbone)
    _fill(detector, ours, path)
    return Imported(detector.eval(), metadata, unused)


def _check(tensors: Mapping[str, Tensor], class_names: Sequence[str], path: str | Path) -> str:
    """The name of the backbone, once the file is known to be such a detector with so many classes."""
    backbone = next((name for mark, name in MARKS.items() if mark in tensors), None)
    if backbone is None or any(f"{output}.{kind}" not in tensors for output in OUTPUTS for kind in ("weight", "bias")):
        raise ModelFileError(
            f"{path}: no YOLOv4 on MobileNet V1, V2 or V3-Large of the PyTorch scripts: its first keys are "
            f"{', '.join(list(tensors)[:3])}; expected such as {next(iter(MARKS))} and {OUTPUTS[0]}.weight. "
            "Weights of a classification network are start weights: pocketdet train --start-weights"
        )
    channels = [len(tensors[f"{output}.weight"]) for output in OUTPUTS]
    num_classes = channels[0] // ANCHORS_PER_CELL - 5
    if num_classes < 1 or set(channels) != {ANCHORS_PER_CELL * (5 + num_classes)}:
        raise ModelFileError(
            f"{path}: its three outputs have {', '.join(map(str, channels))} channels; expected 3 x (5 + classes) each"
        )
    check_class_names(class_names, num_classes, str(path))
    return backbone


def _to_ours(
    tensors: Mapping[str, Tensor], detector: Detector, backbone: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Tensors under our names, and the keys that no part of the detector needs."""
    own = detector.state_dict()
    in_backbone = dict(_backbone_layers(detector, backbone))
    ours, unused = {}, []
    for key, tensor in tensors.items():
        layer, _, kind = key.rpartition(".")
        name = f"{in_backbone.get(layer) or _behind_backbone(layer)}.{kind}"
        if name in own:
            ours[name] = tensor
        elif layer not in OUTPUTS:
            unused.append(key)
    for level, output in enumerate(OUTPUTS):
        for kind in ("weight", "bias"):
            ours |= {f"head.levels.{level}.{part}.{kind}": v for part, v in _split(tensors[f"{output}.{kind}"]).items()}
    return ours, tuple(unused)


def _backbone_layers(detector: Detector, backbone: str) -> Iterator[tuple[str, str]]:
    """Their path of every layer that has weights, and ours."""
    assert isinstance(detector.backbone, Backbone)
    roles = find_roles(detector.backbone.features)
    for (block, role), ours in roles.items():
        theirs = ours.removeprefix("features.")
        if backbone == "mobilenet_v1":
            stage, blocks = next((stage, blocks) for stage, blocks in V1_STAGES.items() if block in blocks)
            theirs = f"{stage}.{blocks.index(block)}.{V1_LAYERS[role]}"
        elif role != "conv" and backbone == "mobilenet_v3_large":
            numbers = V3_LAYERS if (block, "expand") in roles else V3_LAYERS_WITHOUT_EXPAND
            theirs = f"{block}.conv.{numbers[role]}"
        prefix = "backbone.model" if backbone == "mobilenet_v1" else "backbone.model.features"
        yield f"{prefix}.{theirs}", f"backbone.{ours}"
        if role not in ("squeeze", "excite"):
            yield norm_of(f"{prefix}.{theirs}"), norm_of(f"backbone.{ours}")


def _behind_backbone(layer: str) -> str | None:
    for theirs, ours in BEHIND_BACKBONE.items():
        if layer.startswith(f"{theirs}."):
            *numbers, last = layer.removeprefix(f"{theirs}.").split(".")
            return ".".join((ours, *numbers, NECK_LAYERS.get(last, last)))
    return None


def _split(output: Tensor) -> dict[str, Tensor]:
    """A weight or bias of 3 x (5 + K) channels, anchor by anchor: of each anchor x, y, w, h, objectness, classes."""
    anchors = output.reshape(ANCHORS_PER_CELL, -1, *output.shape[1:])
    parts = {"boxes": anchors[:, :4], "objectness": anchors[:, 4:5], "classes": anchors[:, 5:]}
    return {part: channels.flatten(0, 1) for part, channels in parts.items()}


def _fill(detector: Detector, ours: Mapping[str, Tensor], path: str | Path) -> None:
    """Load all weights; one that is missing or of another shape is an error, as nothing replaces it."""
    own = detector.state_dict()
    # Linear layers of squeeze-and-excitation are 1x1 convolutions here.
    state = {name: tensor[:, :, None, None] if tensor.dim() == 2 else tensor for name, tensor in ours.items()}
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    if missing:
        raise ModelFileError(f"{path}: incomplete; our names of what is missing: {', '.join(missing)}")
    odd = [f"{name} {tuple(t.shape)} for {tuple(own[name].shape)}" for name, t in state.items()
           if t.shape != own[name].shape]  # fmt: skip
    if odd:
        raise ModelFileError(
            f"{path}: of another width than MobileNet-YOLOv4's 1.0; by our names: {', '.join(odd)}; only the "
            "networks of width 1 can be imported"
        )
    detector.load_state_dict(state, strict=False)
    adjust_eps(detector, set(state), EPS)
