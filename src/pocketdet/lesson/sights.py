"""What a detector sees on one picture: its gates, its features, where it expects objects."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pocketdet.core.decode import LevelLogits, sigmoid
from pocketdet.core.metadata import ModelMetadata
from pocketdet.models.activity import read_input
from pocketdet.models.blocks import SqueezeExcitation
from pocketdet.models.checkpoint import TorchBackend
from pocketdet.models.detector import Detector

Pixels = NDArray[np.uint8]


class Sights(NamedTuple):
    """What was seen on a picture."""

    pixels: Pixels  # (H, W, 3), as the network got it
    gates: dict[str, NDArray[np.float32]]  # of each squeeze-and-excitation (C,) factors, 0 to 1
    features: list[NDArray[np.float32]]  # of the backbone's levels (H, W), mean absolute value
    scores: list[NDArray[np.float32]]  # of each level (K, H, W), best objectness x class probability of the anchors


def look(detector: Detector, metadata: ModelMetadata, picture: Path) -> Sights:
    """Run a detector on a picture and keep what passes.

    Raises:
        ImageError: The picture cannot be read.
    """
    gates: dict[str, NDArray[np.float32]] = {}
    features: list[NDArray[np.float32]] = []

    def note_gate(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def note(_: nn.Module, __: object, output: Tensor) -> None:
            gates[name] = output.flatten().float().cpu().numpy().copy()

        return module.register_forward_hook(note)

    def note_features(_: nn.Module, __: object, output: Sequence[Tensor]) -> None:
        features.extend(level[0].float().abs().mean(dim=0).cpu().numpy() for level in output)

    handles = [
        note_gate(name, module.gate)
        for name, module in detector.named_modules()
        if isinstance(module, SqueezeExcitation)
    ]
    handles.append(detector.backbone.register_forward_hook(note_features))
    images = read_input(picture, metadata)
    try:
        levels = TorchBackend(detector, metadata).run(images)
    finally:
        for handle in handles:
            handle.remove()
    return Sights(images[0], gates, features, [_best_scores(level) for level in levels])


def overlay(pixels: Pixels, heat: NDArray[np.float32], highest: float) -> Pixels:
    """A picture with a map over it: grey where the map is 0, orange where it is ``highest``.

    Args:
        pixels: ``(H, W, 3)``.
        heat: ``(h, w)``; each of its cells covers a rectangle of the picture.
        highest: Of the scale.
    """
    height, width = pixels.shape[:2]
    rows, columns = (np.arange(n) * m // n for n, m in zip((height, width), heat.shape, strict=True))
    share = np.clip(heat[rows][:, columns] / max(highest, 1e-6), 0, 1)[..., None]
    grey = pixels.mean(axis=2, keepdims=True) * 0.6 + 60
    colour = np.array([255.0, 120.0, 0.0])
    return np.asarray((1 - 0.8 * share) * grey + 0.8 * share * colour).round().clip(0, 255).astype(np.uint8)


def _best_scores(level: LevelLogits) -> NDArray[np.float32]:
    _, num_anchors, height, width = level.objectness.shape
    classes = level.classes[0].reshape(num_anchors, -1, height, width)
    scores = sigmoid(level.objectness[0])[:, None] * sigmoid(classes)
    return np.asarray(scores.max(axis=0), dtype=np.float32)
