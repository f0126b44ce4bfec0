"""Weights of MobileNet V1, V2 and V3 that TensorFlow trained: Keras' files, and TF-slim's variables by name.

TensorFlow pads asymmetrically ("SAME"), has eps 1e-3 in all these batch norms, and takes pixels from -1 to 1.
"""

import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pocketdet.errors import MissingExtraError, ModelFileError
from pocketdet.models.roles import Role, find_roles, norm_of
from pocketdet.models.tensorflow_checkpoint import SUFFIXES as CHECKPOINT_SUFFIXES
from pocketdet.models.tensorflow_checkpoint import read_checkpoint

EPS = 1e-3
H5_SUFFIXES = (".h5", ".hdf5")
SUFFIXES = (*H5_SUFFIXES, *CHECKPOINT_SUFFIXES, ".npz")
OF_CONVOLUTION = {
    "kernel": "weight",
    "weights": "weight",
    "depthwise_kernel": "weight",
    "depthwise_weights": "weight",
    "bias": "bias",
    "biases": "bias",
}
OF_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
ROLES = {
    "dw": "depthwise",
    "pw": "project",
    "pointwise": "project",
    "squeeze_excite_conv": "squeeze",
    "squeeze_excite_conv_1": "excite",
}
# Layers in lower case with _ for /, without what says that they are a batch norm.
V1_LAYER = re.compile(r"conv_(?P<role>dw|pw)_(?P<block>\d+)|conv2d_(?P<slim>\d+)_(?P<slim_role>depthwise|pointwise)")
BLOCK_LAYER = re.compile(
    r"(expanded_conv|block)(_(?P<block>\d+))?_(?P<role>expand|depthwise|project|squeeze_excite_conv(_1)?)"
)
FIRST_LAYERS = ("conv1", "conv", "conv2d_0")
LAST_LAYER = "conv_1"
AVERAGE = "/ExponentialMovingAverage"  # of TF-slim; better than the variable itself


def is_tensorflow(names: Iterable[str]) -> bool:
    """Whether names are those of TensorFlow's variables: no others have slashes."""
    return any("/" in name for name in names)


def read_tensorflow(path: str | Path) -> dict[str, Tensor]:
    """Variables by name, as ``layer/kind``; nothing in the file is executed.

    Args:
        path: An ``.h5`` file of Keras, weights or whole model, the ``.index`` file of a checkpoint (or its name without
            that, if it ends with ``.ckpt``), or an ``.npz`` file of variables by name.

    Raises:
        ModelFileError: Missing, cut, of another kind, or something in it is no array of numbers.
        MissingExtraError: An ``.h5`` file needs h5py.
    """
    if Path(path).suffix in CHECKPOINT_SUFFIXES:
        arrays: Mapping[str, Any] = read_checkpoint(Path(path))
    elif not Path(path).exists():
        raise ModelFileError(f"{path}: there is no such file")
    else:
        arrays = _read_h5(path) if Path(path).suffix in H5_SUFFIXES else _read_npz(path)
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu":
            raise ModelFileError(f"{path}: {name} is no array of numbers but of {array.dtype}; expected weights alone")
    return {name: torch.from_numpy(np.asarray(array, order="C")) for name, array in arrays.items()}


def from_tensorflow(variables: Mapping[str, Tensor], features: nn.Sequential) -> dict[str, Tensor]:
    """The same weights under our names and in our layout; what is not of a backbone keeps its name.

    Args:
        variables: By name.
        features: Of the backbone or classification network that they shall fill.
    """
    roles = find_roles(features)
    ours = {}
    for name, tensor in variables.items():
        if f"{name}{AVERAGE}" in variables:
            continue
        layer, _, kind = name.removesuffix(AVERAGE).removesuffix(":0").rpartition("/")
        role = _role(layer, len(features) - 1)
        place = roles.get(role) if role is not None else None
        if place is not None and kind in OF_NORM and role is not None and role[1] not in ("squeeze", "excite"):
            ours[f"{norm_of(place)}.{OF_NORM[kind]}"] = tensor
        elif place is not None and kind in OF_CONVOLUTION:
            ours[f"{place}.{OF_CONVOLUTION[kind]}"] = _our_layout(tensor, role)
        else:
            ours[name] = tensor
    return ours


def _role(layer: str, last: int) -> Role | None:
    """Which convolution a name means, or its batch norm."""
    name = re.sub(r"^.*mobilenet[^/]*/", "", layer.lower()).replace("/", "_").replace("batchnorm", "bn")
    name = name.removesuffix("_bn").removeprefix("bn_")
    if name in FIRST_LAYERS:
        return 0, "conv"
    if name == LAST_LAYER:
        return last, "conv"
    if found := V1_LAYER.fullmatch(name):
        role = found["role"] or found["slim_role"]
        return int(found["block"] or found["slim"]), ROLES.get(role, role)
    if found := BLOCK_LAYER.fullmatch(name):
        return int(found["block"] or 0) + 1, ROLES.get(found["role"], found["role"])
    return None


def _our_layout(tensor: Tensor, role: Role | None) -> Tensor:
    """``(kh, kw, in, out)`` to ``(out, in, kh, kw)``; of depthwise kernels ``(kh, kw, C, 1)`` to ``(C, 1, kh, kw)``."""
    if tensor.dim() != 4:
        return tensor
    order = (2, 3, 0, 1) if role is not None and role[1] == "depthwise" else (3, 2, 0, 1)
    return tensor.permute(order).contiguous()


def _read_npz(path: str | Path) -> dict[str, Any]:
    try:
        with Path(path).open("rb") as content, np.load(content, allow_pickle=False) as file:
            return {name: file[name] for name in file}
    except (ValueError, OSError, zipfile.BadZipFile, EOFError, AttributeError, TypeError) as error:
        raise ModelFileError(
            f"{path}: not a whole .npz file of arrays of numbers ({error}); objects in it are never executed: "
            "write it by numpy.savez, a name and an array for each variable"
        ) from error


def _read_h5(path: str | Path) -> dict[str, Any]:
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError(f'{path}: .h5 files need h5py: pip install "pocketdet[keras]"') from error
    arrays: dict[str, Any] = {}
    try:
        with h5py.File(path) as file:
            root = file.get("model_weights", file)  # a whole model, or its weights alone
            for layer in _listed(root, "layer_names"):
                arrays |= {name: root[layer][name][()] for name in _listed(root[layer], "weight_names")}
    except (OSError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise ModelFileError(f"{path}: not a whole .h5 file of Keras ({error}); get it again") from error
    if not arrays:
        raise ModelFileError(
            f"{path}: names no layers, as the .weights.h5 files of Keras 3 do not; "
            'expected what model.save("model.h5") writes'
        )
    return arrays


def _listed(group: Any, attribute: str) -> list[str]:
    """Keras cuts a long list into several attributes."""
    keys = [attribute, *(f"{attribute}{number}" for number in range(len(group.attrs)))]
    names = [name for key in keys if key in group.attrs for name in group.attrs[key]]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]
