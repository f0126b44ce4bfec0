"""The networks: backbones, neck, head, detector, and their files."""

from pocketdet.models.backbones import BACKBONES, build_backbone, build_classifier
from pocketdet.models.checkpoint import TorchBackend, load_detector, save_detector
from pocketdet.models.detector import Detector, build_detector, build_from_metadata
from pocketdet.models.explain import count_multiply_adds, explain
from pocketdet.models.head import HeadOutput
from pocketdet.models.import_weights import load_start_weights, read_start_weights_info

__all__ = [
    "BACKBONES",
    "Detector",
    "HeadOutput",
    "TorchBackend",
    "build_backbone",
    "build_classifier",
    "build_detector",
    "build_from_metadata",
    "count_multiply_adds",
    "explain",
    "load_detector",
    "load_start_weights",
    "read_start_weights_info",
    "save_detector",
]
