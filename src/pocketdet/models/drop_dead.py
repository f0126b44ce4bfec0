"""A detector without its dead channels: smaller, and with the same outputs."""

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pocketdet.core.metadata import ModelMetadata
from pocketdet.errors import ExportError, SettingsError
from pocketdet.models.activity import read_input
from pocketdet.models.blocks import ConvBlock
from pocketdet.models.channels import MIN_CHANNELS, Place, convolution_of, cut, find_places, norm_of
from pocketdet.models.checkpoint import load_detector, save_detector
from pocketdet.models.detector import Detector
from pocketdet.models.explain import count_multiply_adds
from pocketdet.models.kernel_health import activated, count_dead

MAX_OUTPUT_DIFFERENCE = 1e-4  # of a raw logit
CONSTANT_BELOW = 1e-6  # range of a channel's output, whatever the picture
UNBOUNDED = 1000.0  # no activation or bottleneck gets so far; batch norm makes values around 1
RANDOM_IMAGES = 2
COMPARED_PICTURES = 16


@dataclasses.dataclass(frozen=True)
class DropReport:
    """What became smaller.

    Args:
        path: The new checkpoint.
        dropped: Channels cut out, by the name of the depthwise convolution.
        dead: Kernels that ``kernel_health`` calls dead, before.
        parameters: Before and after.
        multiply_adds: Before and after, for one image.
        file_bytes: Before and after.
        max_output_difference: Of the raw outputs in float64, logits, over all images compared.
        compared: How many random images and pictures.
    """

    path: Path
    dropped: dict[str, int]
    dead: int
    parameters: tuple[int, int]
    multiply_adds: tuple[int, int]
    file_bytes: tuple[int, int]
    max_output_difference: float
    compared: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self) | {"path": str(self.path)}

    def to_text(self) -> str:
        """A line a figure."""
        pairs = {"parameters": self.parameters, "multiply-adds": self.multiply_adds, "bytes": self.file_bytes}
        return "\n".join(
            [
                f"{self.path}: {sum(self.dropped.values())} channels dropped that are constant on any picture "
                f"({self.dead} kernels are counted as dead)",
                *(f"  {name}: {count} dropped" for name, count in self.dropped.items()),
                *(f"{name}: {a:,} to {b:,} ({b / a - 1:+.2%})" for name, (a, b) in pairs.items()),
                f"largest difference of a raw output: {self.max_output_difference:.1e} on {self.compared} images",
            ]
        )


def drop_dead(checkpoint: Path, output: Path, pictures: Sequence[Path] = ()) -> DropReport:
    """Write a checkpoint without the channels that are the same on any picture.

    Args:
        checkpoint: A detector's file.
        output: The new ``.safetensors`` file.
        pictures: Besides random images, up to 16 of these are compared.

    Raises:
        SettingsError: ``output`` is the checkpoint itself, or no ``.safetensors``.
        ModelFileError: The checkpoint cannot be read.
        ImageError: A picture cannot be read.
        ExportError: An output would change; nothing is written.
    """
    if output.suffix != ".safetensors" or (output.exists() and output.samefile(checkpoint)):
        raise SettingsError(f"--drop-dead {output}: expected the name of another file that ends in .safetensors")
    detector, metadata = load_detector(checkpoint)
    small = copy.deepcopy(detector)
    dropped = drop_constant_channels(small)
    compared = pictures[:: -(-len(pictures) // COMPARED_PICTURES)] if pictures else ()
    difference = largest_difference(detector, small, metadata, compared)
    if not difference <= MAX_OUTPUT_DIFFERENCE:
        raise ExportError(
            f"without its dead channels {checkpoint} would compute something else: a raw output is off by "
            f"{difference:.2g} (limit {MAX_OUTPUT_DIFFERENCE}); nothing was written. Please report the checkpoint"
        )
    left = {p.name: convolution_of(p.depthwise).out_channels for p in find_places(small) if p.name in dropped}
    output.parent.mkdir(parents=True, exist_ok=True)
    save_detector(output, small, dataclasses.replace(metadata, channels=metadata.channels | left))
    both = (detector, small)
    return DropReport(
        output,
        dropped,
        count_dead(detector),
        _pair(sum(parameter.numel() for parameter in network.parameters()) for network in both),
        _pair(count_multiply_adds(network, metadata.input_size) for network in both),
        _pair(path.stat().st_size for path in (checkpoint, output)),
        difference,
        RANDOM_IMAGES + len(compared),
    )


@torch.no_grad()
def drop_constant_channels(network: nn.Module) -> dict[str, int]:
    """Cut the channels whose output behind the depthwise convolution is constant.

    What they gave to the pointwise convolution behind them goes into its batch norm's running mean. With
    squeeze-and-excitation between the two only channels that are constantly zero can go: any other constant is
    multiplied by a gate that looks at the picture.

    Args:
        network: Changed in place, float32.

    Returns:
        How many were cut, by the name of the depthwise convolution.
    """
    dropped = {}
    for place in find_places(network):
        low, high = _output_range(place)
        value = (low + high) / 2
        is_constant = high - low < CONSTANT_BELOW
        if place.excite is not None:
            is_constant &= value.abs() < CONSTANT_BELOW
        is_constant[is_constant.logical_not().sum() + is_constant.cumsum(0) <= MIN_CHANNELS] = False
        if is_constant.any():
            value = torch.where(is_constant, value, 0.0)
            share = place.consumer.weight.double().flatten(1) @ value  # (out_channels,)
            assert place.norm.running_mean is not None
            place.norm.running_mean.copy_(place.norm.running_mean.double() - share)
            cut(place, is_constant.logical_not().nonzero().flatten())
            dropped[place.name] = int(is_constant.sum())
    return dropped


@torch.inference_mode()
def largest_difference(
    ours: Detector, theirs: Detector, metadata: ModelMetadata, pictures: Sequence[Path] = ()
) -> float:
    """Of the raw outputs, in float64, so that the order of sums does not count.

    Args:
        ours: Stays as it is.
        theirs: Likewise.
        metadata: Gives the input.
        pictures: Looked at besides random images.
    """
    both = [copy.deepcopy(network).double().eval() for network in (ours, theirs)]
    generator = torch.Generator().manual_seed(0)
    random = (torch.rand(1, 3, *metadata.input_size, generator=generator) for _ in range(RANDOM_IMAGES))
    read = (torch.from_numpy(read_input(path, metadata)).permute(0, 3, 1, 2) / 255 for path in pictures)
    largest = 0.0
    for images in (*random, *read):
        outputs = [[tensor for level in network(images.double()) for tensor in level] for network in both]
        largest = max([largest, *(float((a - b).abs().max()) for a, b in zip(*outputs, strict=True))])
    return largest


def _output_range(place: Place) -> tuple[Tensor, Tensor]:
    """``(C,)`` bounds of the depthwise block's output on any picture."""
    low, high = (
        torch.full((convolution_of(place.producer).in_channels,), bound).double() for bound in _range_of(place.before)
    )
    low, high = _bound(place.producer, low, high)
    # What the depthwise convolution pads with is an input, too.
    return _bound(place.depthwise, low.clamp(max=0), high.clamp(min=0))


def _range_of(block: ConvBlock | None) -> tuple[float, float]:
    activation = block[2] if block is not None and len(block) > 2 else None
    if isinstance(activation, nn.ReLU6):
        return 0.0, 6.0
    return (0.0, UNBOUNDED) if isinstance(activation, nn.ReLU) else (-UNBOUNDED, UNBOUNDED)


def _bound(block: ConvBlock, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Interval arithmetic: what a block can give where each input channel is between ``low`` and ``high``."""
    layer, norm = convolution_of(block), norm_of(block)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.double() - gain * norm.running_mean.double()
    weights = layer.weight.double() * gain[:, None, None, None]  # (out, in / groups, k, k)
    rising, falling = (part.sum(dim=(2, 3)) for part in (weights.clamp(min=0), weights.clamp(max=0)))
    below, above = ((v[:, None] if layer.groups > 1 else v[None]) for v in (low, high))
    bottom = shift + (rising * below + falling * above).sum(dim=1)
    top = shift + (rising * above + falling * below).sum(dim=1)
    return activated(block, bottom, top)


def _pair(values: Any) -> tuple[int, int]:
    before, after = values
    return before, after
