"""What a run chooses by itself: the batch size by the memory, and the learning rate by the batch size."""

import copy
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor

from pocketdet.datasets.records import Dataset
from pocketdet.models.detector import Detector
from pocketdet.training.assigner import Targets
from pocketdet.training.chance import possible_sizes
from pocketdet.training.loss import DetectionLoss
from pocketdet.training.processes import num_processes, on_first
from pocketdet.training.settings import TrainSettings

LARGEST = 64  # pictures a batch
# Of a CPU's free memory, for the pass through the network; the rest is for decoded pictures and whatever else runs.
SHARE = 0.5
# A pass needs so many times what it keeps for the way back: gradients of some maps live beside them. Measured by the
# peak of resident memory: 1.04 to 1.13 (V2 at 416, V3-Large and V3-Small at 320; float32 and bfloat16).
PASS_BYTES = 1.25
CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def settle(
    settings: TrainSettings,
    detector: Detector,
    loss: DetectionLoss,
    fabric: Fabric,
    training: Dataset,
    console: Console,
) -> TrainSettings:
    """Settings with numbers where the person left the choice to us, and a line that tells them."""
    if settings.batch_size == 0:
        objects = 4 * max(len(record.boxes) for record in training.records)  # of a mosaic
        size = max(possible_sizes(settings))
        chosen = on_first(lambda: choose_batch_size(detector, loss, fabric, size, objects))
        settings = dataclasses.replace(settings, batch_size=chosen)
        console.print(f"batch size {chosen}, by the memory of the {fabric.device.type}")
    if settings.learning_rate is None:
        settings = dataclasses.replace(settings, learning_rate=settings.peak_learning_rate)
        pictures = settings.batch_size * settings.accumulate
        console.print(f"learning rate {settings.learning_rate:.3g}, by {pictures} pictures a step")
    return settings


def choose_batch_size(detector: Detector, loss: DetectionLoss, fabric: Fabric, size: int, objects: int) -> int:
    """The largest power of two, up to 64, whose forward and backward pass fits the memory; at least 1.

    A GPU tries them, with an eighth of pictures more; a CPU, which would begin to swap, compares what a picture needs
    with a half of its free memory. Each process holds its part of a batch.

    Args:
        detector: A copy of it computes; it stays as it is.
        loss: Of the run.
        fabric: Device and precision.
        size: Height and width of the input.
        objects: Targets on a picture.
    """
    trial = copy.deepcopy(detector).train()

    def pass_through(pictures: int) -> None:
        images = torch.zeros(pictures, 3, size, size, device=fabric.device).to(memory_format=torch.channels_last)
        targets = _made_up_targets(pictures, objects, size, fabric.device)
        with fabric.autocast():
            outputs = trial(images)
        loss(outputs, targets).total.backward()

    def part(batch: int) -> int:
        return -(-batch // num_processes())

    if fabric.device.type == "cuda":
        return _largest(lambda batch: _fits_gpu(lambda: pass_through(part(batch) + part(batch) // 8 + 1)))
    needed = PASS_BYTES * _kept_bytes(lambda: pass_through(2), trial) / 2
    room = SHARE * available_memory() / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return _largest(lambda batch: part(batch) * needed <= room)


def available_memory() -> int:
    """Bytes that a CPU's processes can still take, or that their container allows, whichever is less."""
    limits = [int(text) for path in CONTAINER_LIMITS if Path(path).exists() and (text := _read(path)).isdigit()]
    used = psutil.Process().memory_info().rss
    return min([int(psutil.virtual_memory().available), *(max(0, limit - used) for limit in limits)])


def _read(path: str) -> str:
    return Path(path).read_text().strip()


def _largest(fits: Callable[[int], bool]) -> int:
    batch = LARGEST
    while batch > 1 and not fits(batch):
        batch //= 2
    return batch


def _fits_gpu(work: Callable[[], None]) -> bool:
    try:
        work()
    except torch.OutOfMemoryError:
        return False
    finally:
        torch.cuda.empty_cache()
    return True


def _kept_bytes(work: Callable[[], None], network: torch.nn.Module) -> int:
    """Bytes of all tensors that a pass keeps for its way back, without the network's own."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), *network.buffers())}
    kept: dict[int, tuple[Tensor, int]] = {}  # holds the tensors, so that no address is used twice

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = tensor.detach(), storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        work()
    return sum(size for _, size in kept.values())


def _made_up_targets(pictures: int, objects: int, size: int, device: torch.device) -> Targets:
    """Many boxes of half the input's size, as many on each picture."""
    boxes = torch.tensor([[size / 4, size / 4, size * 3 / 4, size * 3 / 4]], device=device)
    number = torch.arange(pictures, device=device).repeat_interleave(objects)
    return Targets(boxes.repeat(len(number), 1), torch.zeros_like(number), number)
