"""A detector as ncnn's two files, for phones and boards: made by pnnx from a trace."""

import io
import subprocess
import tempfile
import warnings
from pathlib import Path

import torch

from pocketdet.core.metadata import ModelMetadata
from pocketdet.core.sidecar import write_sidecar
from pocketdet.errors import ExportError
from pocketdet.export.bytes_to_logits import PlanesToLogits
from pocketdet.export.conversion import Conversion
from pocketdet.runtime.backends import INPUT_NAME, output_names
from pocketdet.runtime.backends.ncnn_runtime import weights_path


def write(conversion: Conversion, path: Path) -> None:
    """Write ``model.ncnn.param`` and, beside it, ``model.ncnn.bin``.

    The input blob ``images`` is float RGB ``(3, H, W)``, 0 to 255, as ncnn makes it of pixels; the output blobs are raw
    logits and have the names of the ONNX file's outputs.

    Args:
        conversion: What to write; "half" stores the weights as float16.
        path: The ``.param`` file; its folder exists.

    Raises:
        ExportError: pnnx stops.
    """
    height, width = conversion.metadata.input_size
    network = PlanesToLogits(conversion.detector)
    with tempfile.TemporaryDirectory(dir=path.parent) as name:  # pnnx leaves eight files where it works
        folder = Path(name)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # tracing is what pnnx reads, deprecated or not
            example = torch.zeros(1, 3, height, width)
            traced = torch.jit.trace(network, example, check_trace=False)  # type: ignore[no-untyped-call]
            # By Python's writer: torch's own ends the process where the disk is full.
            content = io.BytesIO()
            torch.jit.save(traced, content)
        (folder / "model.pt").write_bytes(content.getvalue())
        _run_pnnx(folder, f"[1,3,{height},{width}]f32", is_half=conversion.precision == "half")
        text = (folder / "model.ncnn.param").read_text(encoding="utf-8")
        path.write_text(_rename_blobs(text, len(conversion.metadata.strides)), encoding="utf-8")
        weights_path(path).write_bytes((folder / "model.ncnn.bin").read_bytes())
    update_metadata(path, conversion.metadata)


def update_metadata(path: Path, metadata: ModelMetadata) -> None:
    """Into the sidecar: ncnn's files have no room for it."""
    write_sidecar(path, metadata, [path, weights_path(path)])


def _run_pnnx(folder: Path, shape: str, is_half: bool) -> None:
    import pnnx  # present: find_exporter has looked

    command = [pnnx.EXEC_PATH, "model.pt", f"inputshape={shape}", f"fp16={int(is_half)}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode or not (folder / "model.ncnn.bin").is_file():
        last = (done.stderr or done.stdout).strip().rpartition("\n")[2]
        raise ExportError(
            f"pnnx could not convert the network (exit code {done.returncode}: {last}); no file was kept. "
            'Another version of it may: pip install --upgrade "pocketdet[ncnn]"'
        )


def _rename_blobs(param: str, num_levels: int) -> str:
    """``in0`` and ``out0``, ``out1`` and so on to names that say what they are.

    A line is: kind, name, number of inputs, number of outputs, their blobs, settings.
    """
    names = {"in0": INPUT_NAME, **{f"out{n}": name for n, name in enumerate(output_names(num_levels))}}
    return "\n".join(" ".join(names.get(word, word) for word in line.split(" ")) for line in param.split("\n"))
