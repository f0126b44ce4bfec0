"""DropBlock: whole regions of a feature map are left out in training (1810.12890)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK_SIZE = 7  # cells, 1810.12890 §4.1


class DropBlock(nn.Module):
    """Leave square blocks out, in each channel other ones, and scale the rest up: 1810.12890, algorithm 1.

    Only in training, and only with a ``probability`` above 0; otherwise the input itself comes back. There are no
    parameters and no state, so that no file and no exported graph knows of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.probability = 0.0  # that a cell is left out; the training raises it from step to step

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)``, with blocks of zeros in training."""
        if not self.training or self.probability == 0:
            return x
        height, width = x.shape[2:]
        rows, columns = min(BLOCK_SIZE, height), min(BLOCK_SIZE, width)
        places = (height - rows + 1) * (width - columns + 1)
        rate = self.probability * height * width / (rows * columns * places)  # eq. 1, gamma
        starts = torch.rand(*x.shape[:2], height - rows + 1, width - columns + 1, device=x.device) < rate
        padded = F.pad(starts.float(), (columns - 1, columns - 1, rows - 1, rows - 1))
        kept = 1 - F.max_pool2d(padded, (rows, columns), stride=1)
        return x * (kept * (kept.numel() / kept.sum().clamp(min=1))).to(x.dtype)
