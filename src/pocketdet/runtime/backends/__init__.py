"""What runs a network: one module a runtime, one table of them by the suffix of the file."""

from pocketdet.runtime.backends.backend import INPUT_NAME, Backend, BoxBackend, output_names
from pocketdet.runtime.backends.onnx_runtime import METADATA_KEY, OnnxBackend
from pocketdet.runtime.backends.table import RUNTIMES, find_runtime, open_backend

__all__ = [
    "INPUT_NAME",
    "METADATA_KEY",
    "RUNTIMES",
    "Backend",
    "BoxBackend",
    "OnnxBackend",
    "find_runtime",
    "open_backend",
    "output_names",
]
