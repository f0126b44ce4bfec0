"""One safetensors file for a detector: tensors, metadata and a SHA-256 over both."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocketdet.core.decode import LevelLogits
from pocketdet.core.metadata import ModelMetadata
from pocketdet.errors import ModelFileError, SettingsError
from pocketdet.models.detector import Detector, build_from_metadata
from pocketdet.models.from_onnx import load_onnx_detector

METADATA_KEY = "pocketdet"
CHECKSUM_KEY = "sha256"


def save_detector(path: str | Path, detector: Detector, metadata: ModelMetadata, *, half: bool = False) -> None:
    """Write a detector; whoever reads meanwhile sees the old file or the new one, never a part.

    Args:
        path: The file; its folder exists.
        detector: Its weights.
        metadata: What ``load_detector`` builds the network from.
        half: Store convolution weights as float16. Batch norms stay float32: their variances leave float16's range.
    """
    tensors = {key: _stored(tensor, half) for key, tensor in detector.state_dict().items()}
    header = {METADATA_KEY: metadata.to_json()}
    header[CHECKSUM_KEY] = _checksum(tensors, header[METADATA_KEY])
    _write_atomically(Path(path), _serialise(tensors, header))


def load_detector(path: str | Path) -> tuple[Detector, ModelMetadata]:
    """Read what ``save_detector`` wrote, or a float ``.onnx`` file that was exported from it.

    Returns:
        The detector in evaluation mode, float32, and its metadata.

    Raises:
        ModelFileError: Missing, changed, cut, or not pocketdet's.
        MissingExtraError: An ``.onnx`` file, and onnx is not installed.
    """
    if Path(path).suffix.lower() == ".onnx":
        return load_onnx_detector(Path(path))
    tensors, header = read_safetensors(path)
    metadata = verify(tensors, header, path)
    try:
        detector = build_from_metadata(metadata)
        detector.load_state_dict(tensors)
    except (RuntimeError, SettingsError) as error:
        raise ModelFileError(f"{path}: its tensors and its metadata are of two networks: {error}") from error
    return detector.eval(), metadata


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the header's metadata; nothing in the file is executed.

    Raises:
        ModelFileError: Missing, cut, or no safetensors file.
    """
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError as error:
        raise ModelFileError(f"{path}: there is no such file") from error
    except (safetensors.SafetensorError, OSError) as error:
        raise ModelFileError(
            f"{path}: not a whole safetensors file ({error}); it is cut, damaged or of another kind: get it again"
        ) from error


def verify(tensors: Mapping[str, Tensor], header: Mapping[str, str], path: str | Path) -> ModelMetadata:
    """Compare a file's checksum with its content.

    Raises:
        ModelFileError: They differ, or the file has none.
    """
    if METADATA_KEY not in header or CHECKSUM_KEY not in header:
        raise ModelFileError(
            f"{path}: holds no pocketdet detector: its header lacks {METADATA_KEY} or {CHECKSUM_KEY}; "
            "weights of a backbone alone are start weights for training"
        )
    if _checksum(tensors, header[METADATA_KEY]) != header[CHECKSUM_KEY]:
        raise ModelFileError(f"{path}: was changed after it was saved: its SHA-256 differs; get it again")
    return ModelMetadata.from_json(header[METADATA_KEY], str(path))


class TorchBackend:
    """A detector as evaluation and the export gate want it: pictures in, raw logits out, in numpy.

    Args:
        detector: Runs in evaluation mode, on the device where it lies; ``run`` leaves it in that mode.
        metadata: Of the detector.
    """

    def __init__(self, detector: Detector, metadata: ModelMetadata) -> None:
        self.detector = detector.to(memory_format=torch.channels_last)
        self.metadata = metadata

    def run(self, images: NDArray[np.uint8]) -> list[LevelLogits]:
        """``(B, H, W, 3)`` RGB to the raw logits of P3, P4, P5, float32."""
        self.detector.eval()
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self.detector.mean.device)
        with torch.inference_mode():
            outputs = self.detector(pixels.permute(0, 3, 1, 2).float() / 255)
        return [LevelLogits(*(tensor.float().cpu().contiguous().numpy() for tensor in level)) for level in outputs]


def _stored(tensor: Tensor, half: bool) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    return tensor.half() if half and tensor.dim() == 4 else tensor


def _serialise(tensors: dict[str, Tensor], header: dict[str, str]) -> bytes:
    """The same tensors give the same bytes: safetensors writes a header of several keys in random order."""
    content = safetensors.torch.save(tensors, header)
    end = 8 + int.from_bytes(content[:8], "little")
    entries = json.loads(content[8:end])
    entries["__metadata__"] = header
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format asks for aligned tensors
    return len(text).to_bytes(8, "little") + text + content[end:]


def _checksum(tensors: Mapping[str, Tensor], metadata: str) -> str:
    digest = hashlib.sha256(metadata.encode())
    for key in sorted(tensors):
        tensor = tensors[key]
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _write_atomically(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
