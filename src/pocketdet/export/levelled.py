"""A torch network with the weights that ``equalise`` chose for its ONNX graph, for converters that start from torch."""

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocketdet.export.bytes_to_logits import BytesToLogits
from pocketdet.models.detector import Detector


class LevelledToLogits(BytesToLogits):
    """The detector with channels that one scale a tensor serves, on pixels less a shade of grey.

    Args:
        detector: In evaluation mode.
        graph: Of it, as ``int8.level_channels`` leaves it.
    """

    def __init__(self, detector: Detector, graph: onnx.GraphProto) -> None:
        super().__init__(detector)
        arrays = {array.name: torch.from_numpy(onnx.numpy_helper.to_array(array).copy()) for array in graph.initializer}
        subtraction = next(node for node in graph.node if node.op_type == "Sub")
        self.grey = int(arrays[subtraction.input[1]].flatten()[0])
        nodes = {node.input[1].removesuffix(".weight"): node for node in graph.node if node.op_type == "Conv"}
        readers = {name: node for node in graph.node for name in node.input}
        leaves = [(name, module) for name, module in self.named_modules() if not list(module.children())]
        num_swishes = 0
        for index, (name, module) in enumerate(leaves):
            if not isinstance(module, nn.Conv2d):
                continue
            node = nodes.pop(name)
            after = leaves[index + 1 : index + 3]
            _set_weights(module, after[0][1] if after else None, arrays[node.input[1]], arrays[node.input[2]])
            divide = readers.get(node.output[0])
            if divide is not None and divide.input[-1].endswith("_divisor"):
                multiply = readers[readers[divide.output[0]].output[0]]
                swish = next(place for place, leaf in after if isinstance(leaf, nn.Hardswish))
                self.set_submodule(swish, _ScaledSwish(arrays[divide.input[1]], arrays[multiply.input[1]]))
                num_swishes += 1
        assert not nodes
        assert num_swishes == sum(node.op_type == "HardSwish" for node in graph.node)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """``(B, H, W, 3)`` float, pixels less ``grey``, to the nine raw outputs."""
        return self.from_centred(images.permute(0, 3, 1, 2))


class _ScaledSwish(nn.Module):
    """H-swish of x · divisor, times factor: each ``(1, C, 1, 1)``."""

    divisor: Tensor
    factor: Tensor

    def __init__(self, divisor: Tensor, factor: Tensor) -> None:
        super().__init__()
        self.register_buffer("divisor", divisor)
        self.register_buffer("factor", factor)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)``."""
        return F.hardswish(x * self.divisor) * self.factor


def _set_weights(convolution: nn.Conv2d, following: nn.Module | None, weight: Tensor, bias: Tensor) -> None:
    """Of a convolution whose batch norm, if there is one, lies within the weight and the bias from now on."""
    with torch.no_grad():
        convolution.weight.copy_(weight)
        if isinstance(following, nn.BatchNorm2d):
            assert following.running_mean is not None
            assert following.running_var is not None
            following.running_mean.zero_()
            following.running_var.fill_(1 - following.eps)
            following.weight.fill_(1)
            following.bias.copy_(bias)
        else:
            assert convolution.bias is not None
            convolution.bias.copy_(bias)
