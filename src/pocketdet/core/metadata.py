"""What a model file says about itself: enough to run it and to judge it."""

import dataclasses
import json
from typing import Any, Literal

from pocketdet.core.letterbox import Letterbox
from pocketdet.errors import ModelFileError

# What a file gives: raw logits; boxes and scores of all cells; or the objects that non-maximum suppression leaves.
Outputs = Literal["logits", "decoded", "suppressed"]
Anchors = tuple[tuple[tuple[float, float], ...], ...]

# YOLOv4's anchors for 416 x 416 input (width, height), P3 first: darknet's yolov4.cfg order at stride 8, 16, 32.
YOLOV4_ANCHORS: Anchors = (
    ((12, 16), (19, 36), (40, 28)),
    ((36, 75), (76, 55), (72, 146)),
    ((142, 110), (192, 243), (459, 401)),
)

DARKNET = "darknet"  # the backbone of networks that a darknet configuration describes

# YOLOv4-tiny's, P4 first. Its published configuration gives P4 the second to fourth of them; here each has its own.
YOLOV4_TINY_ANCHORS: Anchors = (((10, 14), (23, 27), (37, 58)), ((81, 82), (135, 169), (344, 319)))
YOLOV4_TINY_SCALE_XY = (1.05, 1.05)

YOLOV4_SCALE_XY = (1.2, 1.1, 1.05)  # P3 first, of the same file


@dataclasses.dataclass(frozen=True)
class ModelMetadata:
    """The facts that travel with every checkpoint and every exported file.

    Args:
        backbone: A name from ``pocketdet.models.BACKBONES``, or ``DARKNET``.
        width: Multiplier of the backbone's channels.
        neck_width: Multiplier of the channels of neck and head.
        padding: ``"same"`` (TensorFlow's) or ``"symmetric"`` (PyTorch's), of the backbone.
        class_names: In the order of the class ids, from 0.
        input_size: (height, width) in pixels, multiples of 32.
        anchors: Per level, P3 first: (width, height) in input pixels.
        strides: Input pixels per cell, one per level.
        scale_xy: Grid sensitivity per level, YOLOv4 §3.4; 1 is none.
        mean: Per channel, subtracted from RGB in 0 to 1.
        std: Per channel, divides after the subtraction.
        padding_colour: RGB of the letterbox's bars, 0 to 255.
        stretch: Pictures fill the input and lose their proportions, as in darknet and in the MobileNet-YOLOv4 scripts.
        neck_activation: Of neck and head, ``"relu6"``, ``"mish"`` or ``"leaky"``.
        neck_convolution: Of neck and head, ``"separable"`` or ``"plain"``.
        se_before_activation: Of a MobileNet V3: squeeze-and-excitation before the activation of the depthwise
            convolution, as in the MobileNet-YOLOv4 scripts, and not after it, as in the paper.
        licence: Of the weights.
        training_data: What the detector learned from.
        metrics: Measured values, such as ``{"AP50": 0.71, "AP": 0.43}``.
        pocketdet_version: That wrote the file.
        precision: "float32", "half" or "int8", of an exported file; empty for a checkpoint.
        outputs: What an exported file gives, see ``Outputs``.
        gate: Of an exported file: empty, or why it was not run when it was made.
        channels: Left in depthwise convolutions, by name, where dead ones were dropped.
        configuration: The text of a darknet configuration, where ``backbone`` is ``DARKNET``. Its numbers of classes,
            its anchors and its input size are those that the network came with; what counts stands here.
    """

    backbone: str
    width: float
    neck_width: float
    padding: str
    class_names: tuple[str, ...]
    input_size: tuple[int, int]
    anchors: Anchors = YOLOV4_ANCHORS
    strides: tuple[int, ...] = (8, 16, 32)
    scale_xy: tuple[float, ...] = YOLOV4_SCALE_XY
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    padding_colour: tuple[int, int, int] = (114, 114, 114)
    stretch: bool = False
    neck_activation: str = "relu6"
    neck_convolution: str = "separable"
    se_before_activation: bool = False
    licence: str = "MIT"
    training_data: str = ""
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    pocketdet_version: str = ""
    precision: str = ""
    outputs: Outputs = "logits"
    gate: str = ""
    channels: dict[str, int] = dataclasses.field(default_factory=dict)
    configuration: str = ""

    def letterbox(self, image_size: tuple[int, int]) -> Letterbox:
        """How a picture of (height, width) lies in the input."""
        return Letterbox(image_size, self.input_size, self.stretch)

    def to_json(self) -> str:
        """One JSON object, keys as the attributes."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str, where: str) -> "ModelMetadata":
        """Read what ``to_json`` wrote.

        Args:
            text: The JSON object.
            where: The file, for the error message.

        Raises:
            ModelFileError: Not JSON, or keys are missing or unknown.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            known = {key: _frozen(values[key]) for key in cls.__dataclass_fields__ if key in values}
            metadata = cls(**known)
        except (TypeError, ValueError, AttributeError) as error:
            raise ModelFileError(
                f"{where}: its metadata is not pocketdet's ({error}); export it again with this version"
            ) from error
        if unknown := values.keys() - known.keys():
            raise ModelFileError(
                f"{where}: written by another version of pocketdet ({metadata.pocketdet_version or 'not named'}), "
                f"whose metadata have what this one does not know: {', '.join(sorted(unknown))}; update pocketdet"
            )
        return metadata


def _frozen(value: Any) -> Any:
    """Lists, as JSON knows them, become tuples again."""
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
