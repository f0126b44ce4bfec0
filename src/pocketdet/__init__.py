"""Object detectors that fit in a pocket: YOLOv4 on MobileNet V1, V2 and V3."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pocketdet.core.detections import Detections
    from pocketdet.errors import (
        AnnotationError,
        DataError,
        ExportError,
        ImageError,
        MissingExtraError,
        ModelFileError,
        PocketdetError,
        SettingsError,
        VideoError,
    )
    from pocketdet.loading import load
    from pocketdet.runtime.predictor import Predictor

__version__ = "0.1.0"
__all__ = [
    "AnnotationError",
    "DataError",
    "Detections",
    "ExportError",
    "ImageError",
    "MissingExtraError",
    "ModelFileError",
    "PocketdetError",
    "Predictor",
    "SettingsError",
    "VideoError",
    "__version__",
    "load",
]

_HOMES = {"Detections": "core.detections", "Predictor": "runtime.predictor", "load": "loading"}


def __getattr__(name: str) -> object:
    """Public names load when first used, so that ``import pocketdet`` takes no time."""
    if name not in __all__:
        raise AttributeError(f"module 'pocketdet' has no attribute '{name}'")
    return getattr(importlib.import_module(f"pocketdet.{_HOMES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return __all__
