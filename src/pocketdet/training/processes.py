"""One detector, trained by the processes that torchrun started: who is there, and what they tell each other.

Without torchrun there is one process, and nothing here talks to anybody.
"""

import atexit
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Literal, TypeVar, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, distributed, nn

from pocketdet.errors import PocketdetError, SettingsError

STARTED_BY_TORCHRUN = "TORCHELASTIC_RUN_ID"  # a variable of the environment

# How long a process waits for another one, such as for the first while it evaluates. A process that dies is noticed
# by torchrun and by the broken connection, not by this.
WAIT = timedelta(days=7)

Result = TypeVar("Result")


def num_processes() -> int:
    """Over all machines."""
    return int(os.environ["WORLD_SIZE"]) if STARTED_BY_TORCHRUN in os.environ else 1


def rank() -> int:
    """Our number among them, from 0."""
    return int(os.environ["RANK"]) if STARTED_BY_TORCHRUN in os.environ else 0


def join_processes() -> None:
    """Connect the processes until they end: by gloo for what is on CPUs, by nccl for what is on GPUs."""
    if num_processes() == 1 or distributed.is_initialized():
        return
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=WAIT)
    atexit.register(distributed.destroy_process_group)


def open_fabric(use_bf16: bool, has_frozen_epochs: bool) -> Fabric:
    """Fabric on one device, or on one a process.

    Args:
        use_bf16: Compute in bfloat16 where that is accurate enough.
        has_frozen_epochs: In some epochs a part of the network gets no gradient, which DDP has to look out for.

    Raises:
        SettingsError: More processes on this machine than GPUs.
    """
    precision: Literal["bf16-mixed", "32-true"] = "bf16-mixed" if use_bf16 else "32-true"
    if num_processes() == 1:
        return Fabric(accelerator="auto", devices=1, precision=precision)
    here, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if 0 < gpus < here:
        raise SettingsError(
            f"torchrun started {here} processes on a machine with {gpus} GPUs; start one a GPU "
            f"(--nproc-per-node {gpus}), or set CUDA_VISIBLE_DEVICES to nothing to train on the CPU"
        )
    fabric = Fabric(
        accelerator="cuda" if gpus else "cpu",
        devices=here,
        num_nodes=num_processes() // here,
        strategy=DDPStrategy(find_unused_parameters=has_frozen_epochs, timeout=WAIT),
        precision=precision,
    )
    fabric.launch()
    return fabric


def on_first(work: Callable[[], Result]) -> Result:
    """Let the first process do something; every process returns its result, or raises its error."""
    if num_processes() == 1:
        return work()
    outcome: list[object] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = work()
        except PocketdetError as error:
            outcome[1] = error
    distributed.broadcast_object_list(outcome, src=0)
    if isinstance(outcome[1], PocketdetError):
        raise outcome[1]
    return cast(Result, outcome[0])


def sum_over_processes(values: Tensor) -> Tensor:
    """The same sum on every process."""
    if num_processes() == 1:
        return values
    total = values.clone()
    distributed.all_reduce(total)
    return total


def synchronise_batch_norm(network: nn.Module, device: torch.device) -> None:
    """Let batch norm see the pictures of all processes.

    Raises:
        SettingsError: Not on a GPU.
    """
    if device.type != "cuda":
        raise SettingsError(
            f"sync_batch_norm is on and this training runs on {device.type}; torch synchronises batch norm between "
            "GPUs only: leave it off, or train on GPUs"
        )
    nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]


def seed_batch(seed: int, epoch: int, batch: int) -> None:
    """Set torch's random numbers for one batch of the training, so that they depend on the place in the run alone.

    That makes them survive an interruption, on any number of processes and devices.
    """
    words = np.random.SeedSequence((seed, epoch, batch, rank())).generate_state(2)
    torch.manual_seed(int(words[0]) << 32 | int(words[1]))
