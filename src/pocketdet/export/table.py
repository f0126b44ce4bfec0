"""Which formats there are, and what each needs."""

import importlib
import importlib.util
from pathlib import Path
from typing import NamedTuple, cast

from pocketdet.core.metadata import ModelMetadata, Outputs
from pocketdet.errors import MissingExtraError, SettingsError
from pocketdet.export.conversion import Conversion, Precision
from pocketdet.runtime.backends import Backend, open_backend


class Exporter(NamedTuple):
    """A file format.

    Args:
        suffix: Of the file that a person names; a key of ``runtime.backends.RUNTIMES``, if there is no ``read_back``.
        module: In this folder, with the functions ``write(conversion, path)`` and ``update_metadata(path, metadata)``.
        precisions: That it can write.
        packages: That have to be installed, as they are imported.
        extra: Of pocketdet, which installs them.
        rounding: Of its precisions those that round so much that the gate judges them by AP50 alone.
        outputs: That its files can give, besides raw logits.
        has_dynamic: A file can take pictures of any size.
        limits: Why it lacks a precision, for people who ask for it.
        not_run: Why nothing here can run it. Such a file is read back by the module's
            ``check_structure(path, metadata)`` alone, and its metadata tell so.
    """

    suffix: str
    module: str
    precisions: tuple[Precision, ...]
    packages: tuple[str, ...]
    extra: str = "export"
    rounding: tuple[Precision, ...] = ("int8",)
    outputs: tuple[Outputs, ...] = ()
    has_dynamic: bool = False
    limits: str = ""
    not_run: str = ""

    def write(self, conversion: Conversion, path: Path) -> None:
        """Write the file, and beside it, in the same folder, what else belongs to the model."""
        importlib.import_module(f"pocketdet.export.{self.module}").write(conversion, path)

    def update_metadata(self, path: Path, metadata: ModelMetadata) -> None:
        """Put other metadata into a file that ``write`` wrote."""
        importlib.import_module(f"pocketdet.export.{self.module}").update_metadata(path, metadata)

    def check_structure(self, path: Path, metadata: ModelMetadata) -> None:
        """Compare what a file that cannot be run says of itself with what it should be.

        Raises:
            ExportError: It is another.
        """
        importlib.import_module(f"pocketdet.export.{self.module}").check_structure(path, metadata)

    def read_back(self, path: Path) -> Backend:
        """Open what ``write`` wrote: by the module's own ``read_back`` if it has one, else by the runtime."""
        module = importlib.import_module(f"pocketdet.export.{self.module}")
        return cast(Backend, getattr(module, "read_back", open_backend)(path))


EXPORTERS = {
    "onnx": Exporter(
        ".onnx",
        "onnx_file",
        ("float32", "half", "int8"),
        ("onnx", "onnxscript"),
        outputs=("decoded", "suppressed"),
        has_dynamic=True,
    ),
    "openvino": Exporter(
        ".xml",
        "openvino_file",
        ("float32", "half", "int8"),
        ("onnx", "onnxscript", "openvino"),
        "openvino",
        rounding=("half", "int8"),
        outputs=("decoded",),
        has_dynamic=True,
    ),
    "darknet": Exporter(".cfg", "darknet_file", ("float32",), ()),
    "ncnn": Exporter(
        ".ncnn.param",
        "ncnn_file",
        ("float32", "half"),
        ("pnnx", "ncnn"),
        "ncnn",
        rounding=("half",),
        limits="its packages bring no int8 tool",
    ),
    "tflite": Exporter(
        ".tflite",
        "tflite_file",
        ("float32", "half", "int8"),
        ("litert_torch", "ai_edge_quantizer", "onnx", "onnxscript"),
        "tflite",
        rounding=("half", "int8"),
    ),
    "coreml": Exporter(
        ".mlpackage",
        "coreml_file",
        ("float32", "half"),
        ("coremltools",),
        "coreml",
        limits="int8 would be of its weights alone",
        not_run="Core ML runs on Apple's systems alone",
    ),
    "executorch": Exporter(".pte", "executorch_file", ("float32",), ("executorch",), "executorch"),
}


def find_exporter(format: str, precision: Precision) -> Exporter:
    """Of a format, once it is known that it can be written here.

    Raises:
        SettingsError: An unknown format, or one that has no such precision.
        MissingExtraError: Its packages are not installed.
    """
    if format not in EXPORTERS:
        raise SettingsError(f'format is "{format}"; it must be one of {", ".join(EXPORTERS)}')
    exporter = EXPORTERS[format]
    if precision not in exporter.precisions:
        raise SettingsError(
            f"format {format} cannot be written as {precision}; it can as {', '.join(exporter.precisions)}"
            + (f" ({exporter.limits})" if exporter.limits else "")
        )
    missing = [name for name in exporter.packages if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"export to {format} needs {', '.join(missing)}, not installed here; "
            f'run: pip install "pocketdet[{exporter.extra}]"'
        )
    return exporter


def check_wishes(format: str, outputs: Outputs, is_dynamic: bool) -> None:
    """Whether files of a format can be what a person wants.

    Raises:
        SettingsError: They cannot; names the formats that can.
    """
    if outputs != "logits" and outputs not in EXPORTERS[format].outputs:
        able = [name for name, exporter in EXPORTERS.items() if outputs in exporter.outputs]
        what = "NMS" if outputs == "suppressed" else "decoding"
        raise SettingsError(f"format {format} has no {what} within its files; these have: {', '.join(able)}")
    if is_dynamic and not EXPORTERS[format].has_dynamic:
        able = [name for name, exporter in EXPORTERS.items() if exporter.has_dynamic]
        raise SettingsError(f"files of the format {format} take one size of pictures; any size: {', '.join(able)}")
