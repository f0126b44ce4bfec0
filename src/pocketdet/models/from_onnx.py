"""An exported ONNX file becomes a detector again, so that a file can be exported to another format, or learn on."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pocketdet.core.metadata import ModelMetadata
from pocketdet.errors import MissingExtraError, ModelFileError
from pocketdet.models.detector import Detector, build_from_metadata
from pocketdet.runtime.backends import OnnxBackend

PICTURES_AT_ONCE = 8


def load_onnx_detector(path: Path) -> tuple[Detector, ModelMetadata]:
    """Read the weights of a float file that ``pocketdet export`` wrote.

    Batch norms are in the convolutions there; here they change nothing: mean 0, variance 1, the bias is the file's.

    Returns:
        The detector in evaluation mode, float32, and its metadata.

    Raises:
        ModelFileError: Missing, changed, cut, or a file whose weights are 8-bit integers.
        MissingExtraError: onnx is missing.
    """
    metadata = dataclasses.replace(OnnxBackend(path, threads=1).metadata, outputs="logits")
    detector = build_from_metadata(metadata).eval()
    norms = _norms_behind(detector)
    try:
        convolutions = _read_convolutions(path)
        with torch.no_grad():
            for name, layer in detector.named_modules():
                if isinstance(layer, nn.Conv2d):
                    weight, bias = convolutions[f"{name}.weight"]
                    layer.weight.copy_(weight)
                    if layer.bias is not None:
                        layer.bias.copy_(bias)
                    else:
                        _make_bias_of(norms[layer], bias)
            stem = next(layer for layer in detector.backbone.modules() if isinstance(layer, nn.Conv2d))
            stem.weight *= 255 * detector.std
    except (KeyError, RuntimeError) as error:
        raise ModelFileError(
            f"{path}: its weights are not those of its network in float ({error}); give the checkpoint, or a file "
            "exported without --int8"
        ) from error
    return detector, metadata


@torch.no_grad()
def estimate_norms(detector: Detector, images: Tensor) -> None:
    """Give batch norms the statistics of real pictures, and change nothing of what the detector computes.

    With those that ``load_onnx_detector`` leaves, mean 0 and variance 1, a detector learns badly on: a batch's own
    statistics are far from them.

    Args:
        detector: As ``load_onnx_detector`` leaves it; in evaluation mode afterwards.
        images: ``(N, 3, H, W)`` bytes, letterboxed RGB.
    """
    norms = _norms_behind(detector.eval())
    sums = {norm: torch.zeros(3, norm.num_features, dtype=torch.float64) for norm in norms.values()}

    def add(layer: nn.Conv2d, _: object, output: Tensor) -> None:
        values = output.double().transpose(0, 1).flatten(1)
        sums[norms[layer]] += torch.stack([torch.ones_like(values).sum(1), values.sum(1), values.square().sum(1)])

    hooks = [layer.register_forward_hook(add) for layer in norms]
    for batch in torch.split(images, PICTURES_AT_ONCE):
        detector(batch.float() / 255)
    for hook in hooks:
        hook.remove()
    for norm, (count, total, squares) in sums.items():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        bias = norm.bias - norm.running_mean * scale
        norm.running_mean.copy_(total / count)
        norm.running_var.copy_((squares / count - (total / count).square()).clamp(min=0))
        norm.weight.copy_(scale * (norm.running_var + norm.eps).sqrt())
        norm.bias.copy_(bias + norm.running_mean * scale)


def _read_convolutions(path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Weight and bias by the weight's name; equal biases share one tensor in a file, whatever it is called.

    Weights that ``--half`` stores as 16-bit integers with a scale become float again.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError(f'{path}: to read its weights install onnx: pip install "pocketdet[export]"') from error
    graph = onnx.load(path).graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for name in [name for name in arrays if name.endswith("_int16")]:
        whole = name.removesuffix("_int16")
        arrays[whole] = arrays[name].astype(np.float32) * arrays[f"{whole}_scale"]
    found = {}
    for node in graph.node:
        if node.op_type == "Conv":
            weight = torch.tensor(arrays[node.input[1]])
            has_bias = len(node.input) > 2  # a bias of zeros is left out
            bias = torch.tensor(arrays[node.input[2]]) if has_bias else weight.new_zeros(len(weight))
            found[node.input[1]] = (weight, bias)
    return found


def _norms_behind(detector: nn.Module) -> dict[nn.Conv2d, nn.BatchNorm2d]:
    """Of each convolution without a bias the batch norm behind it."""
    layers = [layer for layer in detector.modules() if isinstance(layer, nn.Conv2d | nn.BatchNorm2d)]
    return {
        layer: norm
        for layer, norm in itertools.pairwise(layers)
        if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    }


def _make_bias_of(norm: nn.BatchNorm2d, bias: Tensor) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.zero_()
    norm.running_var.fill_(1)
    norm.weight.fill_((1 + norm.eps) ** 0.5)
    norm.bias.copy_(bias)
