"""How the C library hands out memory during a training."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
LARGEST_BLOCK = 2**30  # bytes


def keep_freed_memory() -> bool:
    """Keep what torch frees on a CPU for its next tensors, in this process and from now on.

    By default glibc asks the kernel for every block above 32 MiB and gives it back at once: each step then spends up
    to half of its time on pages that the kernel clears (``benchmarks/training.py``). The process stays as
    large as it was in its largest step.

    Returns:
        Whether this C library knows how; others than glibc are left as they are.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
