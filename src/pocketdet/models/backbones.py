"""The backbones by name."""

from collections.abc import Callable
from functools import partial

from pocketdet.errors import SettingsError
from pocketdet.models.backbone import Backbone, Classifier
from pocketdet.models.cspdarknet53 import (
    cspdarknet53,
    cspdarknet53_classifier,
    cspdarknet53_tiny,
    cspdarknet53_tiny_classifier,
)
from pocketdet.models.mobilenet_v1 import mobilenet_v1, mobilenet_v1_classifier
from pocketdet.models.mobilenet_v2 import mobilenet_v2, mobilenet_v2_classifier
from pocketdet.models.mobilenet_v3 import (
    LARGE,
    SMALL,
    mobilenet_v3_classifier,
    mobilenet_v3_large,
    mobilenet_v3_large_minimalistic,
    mobilenet_v3_small,
    mobilenet_v3_small_minimalistic,
)

BACKBONES: dict[str, Callable[[float, str], Backbone]] = {
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v3_large": mobilenet_v3_large,
    "mobilenet_v3_small": mobilenet_v3_small,
    "mobilenet_v3_large_minimalistic": mobilenet_v3_large_minimalistic,
    "mobilenet_v3_small_minimalistic": mobilenet_v3_small_minimalistic,
    "cspdarknet53": cspdarknet53,
    "cspdarknet53_tiny": cspdarknet53_tiny,
}

CLASSIFIERS: dict[str, Callable[[float, str, int], Classifier]] = {
    "mobilenet_v1": mobilenet_v1_classifier,
    "mobilenet_v2": mobilenet_v2_classifier,
    "mobilenet_v3_large": partial(mobilenet_v3_classifier, LARGE),
    "mobilenet_v3_small": partial(mobilenet_v3_classifier, SMALL),
    "mobilenet_v3_large_minimalistic": partial(mobilenet_v3_classifier, LARGE, minimalistic=True),
    "mobilenet_v3_small_minimalistic": partial(mobilenet_v3_classifier, SMALL, minimalistic=True),
    "cspdarknet53": cspdarknet53_classifier,
    "cspdarknet53_tiny": cspdarknet53_tiny_classifier,
}


def build_backbone(name: str, width: float = 1.0, padding: str = "symmetric") -> Backbone:
    """A backbone with random weights.

    Args:
        name: A key of ``BACKBONES``.
        width: Multiplies the channels, which stay divisible by 8; the papers use 0.25 to 1.4.
        padding: ``"same"`` (TensorFlow's) or ``"symmetric"`` (PyTorch's).

    Raises:
        SettingsError: An unknown name or padding, or a width that is not positive.
    """
    _check(name, width)
    return BACKBONES[name](width, padding)


def build_classifier(name: str, width: float = 1.0, padding: str = "symmetric", num_classes: int = 1000) -> Classifier:
    """The whole network of the paper, for classification; arguments and errors as ``build_backbone``."""
    _check(name, width)
    return CLASSIFIERS[name](width, padding, num_classes)


def _check(name: str, width: float) -> None:
    if name not in BACKBONES:
        raise SettingsError(f'there is no backbone "{name}"; choose one of: {", ".join(BACKBONES)}')
    if not 0 < width <= 4:
        raise SettingsError(f"width is {width}; it must be above 0 and at most 4 (the papers use 0.25 to 1.4)")
