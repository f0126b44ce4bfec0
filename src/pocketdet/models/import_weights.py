"""Start weights: files of this project, of torchvision, timm, Keras and TF-slim, into the networks of this project."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import safetensors
import torch
from torch import Tensor, nn

from pocketdet.core.metadata import ModelMetadata
from pocketdet.errors import ModelFileError
from pocketdet.models.checkpoint import CHECKSUM_KEY, METADATA_KEY, read_safetensors, verify
from pocketdet.models.detector import HALF, IMAGENET_MEAN, IMAGENET_STD, Detector, PerChannel
from pocketdet.models.from_onnx import load_onnx_detector
from pocketdet.models.import_tensorflow import EPS as TENSORFLOW_EPS
from pocketdet.models.import_tensorflow import SUFFIXES as TENSORFLOW_SUFFIXES
from pocketdet.models.import_tensorflow import from_tensorflow, is_tensorflow, read_tensorflow
from pocketdet.models.import_timm import MARK as TIMM_MARK
from pocketdet.models.import_timm import from_timm, read_timm_info
from pocketdet.runtime.backends import OnnxBackend

TORCH_SUFFIXES = (".pth", ".pt", ".bin")
SCRIPTS_MARK = "yolo_head1.1.weight"  # see import_scripts
EXPORTED_SUFFIX = ".onnx"
FOREIGN_SUFFIXES = (*TORCH_SUFFIXES, *TENSORFLOW_SUFFIXES)


class StartWeightsInfo(NamedTuple):
    """What a network must be built with to use a file of start weights."""

    padding: str  # "same" or "symmetric"
    mean: PerChannel  # of RGB in 0 to 1
    std: PerChannel
    detector: ModelMetadata | None = None  # where the file holds a detector of ours


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of a file of start weights, key by key; keys are the network's.

    Args:
        loaded: Taken from the file.
        missing: In the network, not in the file: they keep their values.
        unexpected: In the file, not in the network.
        mismatched: In both with different shapes: the network keeps its values.
        padding: The backbone's padding that the weights were trained with.
        mean: The normalisation that the weights were trained with.
        std: Likewise.
        detector: Of the file, where it holds a detector of ours.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]
    padding: str
    mean: PerChannel
    std: PerChannel
    detector: ModelMetadata | None

    def to_text(self) -> str:
        """A line a kind, every key named; a part of a detector of which the file has nothing is named as a whole."""
        lines = [f"loaded {len(self.loaded)} tensors"]
        absent = {_part(key) for key in self.missing} - {_part(key) for key in self.loaded}
        kinds = {
            "not in the file": [*(f"all of {part}" for part in sorted(absent))]
            + [key for key in self.missing if _part(key) not in absent],
            "not in the network": list(self.unexpected),
            "of another shape": list(self.mismatched),
        }
        lines += [f"{kind}: {', '.join(keys)}" for kind, keys in kinds.items() if keys]
        return "\n".join(lines)


class _Source(NamedTuple):
    tensors: dict[str, Tensor]  # under our names, as far as they are of a backbone
    info: StartWeightsInfo
    eps: float | None  # of its batch norms; None: as the network's


def read_start_weights_info(path: str | Path) -> StartWeightsInfo:
    """Padding and normalisation that the weights in a file were trained with.

    Of a safetensors file only the header is read.

    Raises:
        ModelFileError: Missing, cut or of another kind.
    """
    if Path(path).suffix in FOREIGN_SUFFIXES:
        return _info({}, _read_tensors(path)[0], path)
    if Path(path).suffix == EXPORTED_SUFFIX:
        return _of_detector(OnnxBackend(path, threads=1).metadata)
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return _info(file.metadata() or {}, file.keys(), path)
    except (safetensors.SafetensorError, OSError):
        return _info({}, _read_tensors(path)[0], path)  # which says what is wrong


def shared_channels(theirs: ModelMetadata | None, network: ModelMetadata) -> dict[str, int]:
    """Channels left in a detector whose dead ones were dropped, as far as its parts are those of a network.

    Args:
        theirs: Of the detector that gives its weights, if it is one.
        network: To be filled; its backbone's or its neck's width may be another.
    """
    if theirs is None:
        return {}
    has_backbone = (theirs.backbone, theirs.width) == (network.backbone, network.width)
    fits = {"backbone": has_backbone, "neck": theirs.neck_width == network.neck_width}
    return {name: count for name, count in theirs.channels.items() if fits.get(_part(name), False)}


def load_start_weights(network: nn.Module, path: str | Path) -> Report:
    """Fill a network with the weights of a file, as far as names and shapes agree.

    The file may hold a backbone, a classification network or a whole detector of ours, or a MobileNet of torchvision,
    timm, Keras or TF-slim. Where its batch norms were trained with another eps, their scales are adjusted such that
    the network computes the same.

    Args:
        network: A ``Detector``, ``Backbone`` or ``Classifier``.
        path: ``.safetensors``; a float ``.onnx`` file that pocketdet exported, whose batch norms change nothing
            (``estimate_norms`` makes them anew); a state dict as ``.pth``, ``.pt`` or ``.bin``; an ``.h5`` file of
            Keras; a checkpoint of TensorFlow, by its ``.index`` file; or an ``.npz`` file of its variables by name.
            Nothing in it is executed.

    Raises:
        ModelFileError: Missing, cut, of another kind, or nothing in it fits.
        MissingExtraError: An ``.h5`` file needs h5py, an ``.onnx`` file onnx.
    """
    source = _read(path, network)
    tensors = _renamed(source.tensors, network)
    own = network.state_dict()
    loaded = [key for key in own if key in tensors and tensors[key].shape == own[key].shape]
    if not any(own[key].dim() == 4 for key in loaded):
        if SCRIPTS_MARK in tensors:
            raise ModelFileError(
                f"{path}: a detector of the MobileNet-YOLOv4 scripts; make a checkpoint of it first: pocketdet import"
            )
        raise ModelFileError(
            f"{path}: no convolution in it fits the network; the file starts with {', '.join(list(tensors)[:3])}, "
            f"the network with {', '.join(list(own)[:3])}: choose start weights of the same backbone and width"
        )
    network.load_state_dict({key: tensors[key] for key in loaded}, strict=False)
    if source.eps is not None:
        adjust_eps(network, set(loaded), source.eps)
    return Report(
        loaded=tuple(loaded),
        missing=tuple(k for k in own if k not in tensors and not k.endswith("num_batches_tracked")),
        unexpected=tuple(key for key in tensors if key not in own),
        mismatched=tuple(key for key in own if key in tensors and tensors[key].shape != own[key].shape),
        **source.info._asdict(),
    )


def _read(path: str | Path, network: nn.Module) -> _Source:
    tensors, header = _read_tensors(path)
    info = _info(header, tensors, path)
    features = getattr(network.backbone if isinstance(network, Detector) else network, "features", nn.Sequential())
    if is_tensorflow(tensors):
        return _Source(from_tensorflow(tensors, features), info, TENSORFLOW_EPS)
    if TIMM_MARK in tensors:
        return _Source(from_timm(tensors, features), info, read_timm_info(path, tensors).eps)
    return _Source(tensors, info, float(header["bn_eps"]) if "bn_eps" in header else None)


def _read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """As the file names them, and the header of a safetensors file."""
    if Path(path).suffix in TORCH_SUFFIXES:
        return read_torch(path), {}
    if Path(path).suffix in TENSORFLOW_SUFFIXES:
        return read_tensorflow(path), {}
    if Path(path).suffix == EXPORTED_SUFFIX:
        detector, metadata = load_onnx_detector(Path(path))
        return detector.state_dict(), {METADATA_KEY: metadata.to_json()}
    tensors, header = read_safetensors(path)
    if CHECKSUM_KEY in header and METADATA_KEY in header:
        verify(tensors, header, path)
    return tensors, header


def read_torch(path: str | Path) -> dict[str, Tensor]:
    """A state dict, by itself or under the key ``state_dict``; no pickled code is executed.

    Raises:
        ModelFileError: Missing, cut, or anything in it is no tensor.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelFileError(f"{path}: there is no such file") from error
    except Exception as error:  # torch.load raises whatever the damaged bytes lead to
        raise ModelFileError(
            f"{path}: not a whole state dict of tensors ({type(error).__name__}); "
            "it is cut, or a pickle of something else, which is never executed: save the network's state_dict()"
        ) from error
    tensors = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ModelFileError(f"{path}: holds no state dict (names and tensors); save the network's state_dict()")
    return tensors


def _info(header: Mapping[str, str], keys: Iterable[str], path: str | Path) -> StartWeightsInfo:
    if METADATA_KEY in header:
        return _of_detector(ModelMetadata.from_json(header[METADATA_KEY], str(path)))
    keys = set(keys)
    if is_tensorflow(keys):
        return StartWeightsInfo("same", HALF, HALF)
    if TIMM_MARK in keys:
        return StartWeightsInfo(*read_timm_info(path, keys)[:3])
    padding = "same" if "same" in header.get("padding", "") else "symmetric"
    if "127.5" in header.get("normalisation", ""):
        return StartWeightsInfo(padding, HALF, HALF)
    return StartWeightsInfo(padding, IMAGENET_MEAN, IMAGENET_STD)


def _of_detector(metadata: ModelMetadata) -> StartWeightsInfo:
    return StartWeightsInfo(metadata.padding, metadata.mean, metadata.std, metadata)


def _renamed(tensors: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """A detector's backbone has a prefix that a backbone alone has not."""
    from_detector = any(key.startswith("backbone.") for key in tensors)
    if isinstance(network, Detector) and not from_detector:
        return {f"backbone.{key}" if key.startswith("features.") else key: t for key, t in tensors.items()}
    if from_detector and not isinstance(network, Detector):
        return {key.removeprefix("backbone."): tensor for key, tensor in tensors.items()}
    return dict(tensors)


def adjust_eps(network: nn.Module, loaded: set[str], eps: float) -> None:
    """Scale the batch norms such that a network computes the same as with another eps.

    Args:
        network: Changed in place: weight / sqrt(variance + eps) becomes what it was under the other eps.
        loaded: Names of the weights that come from there.
        eps: The other one.
    """
    for name, layer in network.named_modules():
        if isinstance(layer, nn.BatchNorm2d) and f"{name}.weight" in loaded and layer.eps != eps:
            assert layer.running_var is not None
            with torch.no_grad():
                layer.weight.mul_(((layer.running_var + layer.eps) / (layer.running_var + eps)).sqrt())


def _part(key: str) -> str:
    return key.partition(".")[0]
