"""From plans to a batch of pixels, on a GPU: all pictures lie decoded in its memory, and a batch is one gather a layer.

A few CPU cores then only draw plans (numbers), and no longer starve the GPU of pictures.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pocketdet.datasets.records import Record
from pocketdet.training.augment import Plan, Source
from pocketdet.training.pictures import as_sample, cached_side, read_scaled

MEMORY_SHARE = 0.4  # of what is free on the GPU, at most, for decoded pictures
BYTES_A_PIXEL = 4  # red, green, blue and one unused


class PlanBatch(NamedTuple):
    """Plans as tensors; L layers of at most K patches, absent ones with an empty window."""

    numbers: Tensor  # (B, L, K) int64
    windows: Tensor  # (B, L, K, 4) float32
    places: Tensor  # (B, L, K, 4) float32: left, top, 1 / scale_x, 1 / scale_y
    blend: Tensor  # (B,)
    flips: Tensor  # (B,) bool
    turns: Tensor  # (B,) int64
    colour: Tensor  # (B, 3)


def stack_plans(plans: Sequence[Plan]) -> PlanBatch:
    """Plans of one batch, padded to the fullest one."""
    layers = max(len(plan.layers) for plan in plans)
    patches = max(len(layer) for plan in plans for layer in plan.layers)
    shape = (len(plans), layers, patches)
    numbers = np.zeros(shape, np.int64)
    windows, places = np.zeros((*shape, 4), np.float32), np.ones((*shape, 4), np.float32)
    for b, plan in enumerate(plans):
        for n, layer in enumerate(plan.layers):
            for k, (number, window, at) in enumerate(layer):
                numbers[b, n, k] = number
                windows[b, n, k] = window
                places[b, n, k] = (at.left, at.top, 1 / at.scale_x, 1 / at.scale_y)
    return PlanBatch(
        torch.from_numpy(numbers),
        torch.from_numpy(windows),
        torch.from_numpy(places),
        torch.tensor([plan.blend for plan in plans], dtype=torch.float32),
        torch.tensor([plan.flips for plan in plans]),
        torch.tensor([plan.turns for plan in plans]),
        torch.tensor([plan.colour for plan in plans], dtype=torch.float32),
    )


def fits(num_pictures: int, size: int, device: torch.device) -> bool:
    """Whether the pictures of a run may lie in the memory of its device; never for a CPU."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return num_pictures * cached_side(size) ** 2 * BYTES_A_PIXEL <= MEMORY_SHARE * free


class GpuPictures:
    """All training pictures in the memory of a device, and the drawing of plans from them.

    Args:
        records: The pictures; decoded here, once, on all cores.
        size: Height and width of the network's input.
        colour: RGB where no picture reaches.
        device: Where they lie.
    """

    def __init__(
        self, records: Sequence[Record], size: int, colour: tuple[int, int, int], device: torch.device
    ) -> None:
        self.size = size
        self.side = cached_side(size)
        self.colour = torch.tensor(colour, dtype=torch.float32, device=device).reshape(3, 1, 1, 1)
        self.packed = torch.zeros(len(records), self.side, self.side, dtype=torch.int32, device=device)
        self.sources: list[Source] = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for number, read in enumerate(pool.map(lambda record: read_scaled(record, size), records)):
                pixels, boxes, class_ids = as_sample(records[number], *read)
                height, width = pixels.shape[:2]
                words = np.pad(pixels, ((0, 0), (0, 0), (0, 1))).view(np.int32)[..., 0]
                self.packed[number, :height, :width] = torch.from_numpy(words).to(device)
                self.sources.append(Source(height, width, boxes, class_ids))
        self.extents = torch.tensor([(s.height, s.width) for s in self.sources], device=device)

    def render(self, plans: PlanBatch) -> Tensor:
        """``(B, 3, size, size)`` RGB in 0 to 1, channels last in memory."""
        plans = PlanBatch(*(part.to(self.packed.device, non_blocking=True) for part in plans))
        layers = [self._layer(plans, index) for index in range(plans.numbers.shape[1])]
        rgb = layers[0]
        for other in layers[1:]:
            blend = plans.blend[None, :, None, None]
            rgb = torch.where(blend < 1, blend * rgb + (1 - blend) * other, rgb)
        rgb = torch.where(plans.flips[None, :, None, None], rgb.flip(3), rgb)
        for turns in range(1, 4):
            rgb = torch.where(plans.turns[None, :, None, None] == turns, rgb.rot90(turns, (2, 3)), rgb)
        coloured = _change_colour(rgb / 255, plans.colour)
        return coloured.transpose(0, 1).contiguous(memory_format=torch.channels_last)

    def _layer(self, plans: PlanBatch, index: int) -> Tensor:
        """``(3, B, size, size)``, 0 to 255, each pixel from the uppermost patch there, bilinear between its pixels."""
        at = torch.arange(self.size, device=self.packed.device, dtype=torch.float32) + 0.5
        y, x = at[:, None], at[None, :]
        uppermost = torch.full((len(plans.numbers), self.size, self.size), -1, device=self.packed.device)
        for k in range(plans.numbers.shape[2]):
            left, top, right, bottom = plans.windows[:, index, k, :, None, None].unbind(1)
            inside = (x > left) & (x < right) & (y > top) & (y < bottom)
            uppermost = torch.where(inside, k, uppermost)
        picture = torch.arange(len(plans.numbers), device=self.packed.device)[:, None, None]
        chosen = uppermost.clamp(min=0)
        number = plans.numbers[:, index][picture, chosen]
        left, top, step_x, step_y = plans.places[:, index][picture, chosen].unbind(-1)
        height, width = self.extents[number].unbind(-1)
        u, v = (x - left) * step_x - 0.5, (y - top) * step_y - 0.5
        column, row = u.floor(), v.floor()
        share_x, share_y = u - column, v - row
        column, row = column.long(), row.long()
        total = torch.zeros(3, *uppermost.shape, device=self.packed.device)
        for down in range(2):
            for right_of in range(2):
                weight = (share_y if down else 1 - share_y) * (share_x if right_of else 1 - share_x)
                r, c = row + down, column + right_of
                is_inside = (r >= 0) & (r < height) & (c >= 0) & (c < width) & (uppermost >= 0)
                words = self.packed[number, r.clamp(0, self.side - 1), c.clamp(0, self.side - 1)]
                rgb = torch.stack([(words >> shift) & 255 for shift in (0, 8, 16)]).float()
                total += weight * torch.where(is_inside, rgb, self.colour)
        return total


def _change_colour(rgb: Tensor, gains: Tensor) -> Tensor:
    """``(3, B, H, W)`` in 0 to 1 and ``(B, 3)`` gains of hue, saturation and value, as ``render.change_colour``."""
    hue_gain, saturation_gain, value_gain = gains.T[:, :, None, None]
    red, green, blue = rgb
    value, lowest = rgb.amax(0), rgb.amin(0)
    chroma = value - lowest
    divisor = chroma.clamp(min=1e-6)
    hue = torch.where(
        value == red,
        (green - blue) / divisor % 6,
        torch.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    saturation = chroma / value.clamp(min=1e-6)
    hue = hue * hue_gain % 6
    saturation = (saturation * saturation_gain).clamp(max=1)
    value = (value * value_gain).clamp(max=1)
    sector = (torch.tensor((5.0, 3.0, 1.0), device=rgb.device)[:, None, None, None] + hue) % 6
    lacking = torch.minimum(sector, 4 - sector).clamp(0, 1)  # of the value, in red, green and blue
    coloured: Tensor = value * (1 - saturation * lacking)
    return coloured
