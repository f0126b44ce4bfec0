"""One function over many things, on threads: results in order, and only a few things at hand at any time."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2  # things a thread that are taken before the oldest result is asked for


def map_in_order(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None
) -> Iterator[tuple[Item, Callable[[], Result]]]:
    """Apply a function to things as they are asked for, a few of them ahead.

    Args:
        function: May be called by several threads at once.
        items: Taken one by one, never all.
        threads: That work at once, by default as many as the machine has cores; with 1 nothing is done ahead.

    Yields:
        Each thing, and what gives its result or raises its error.
    """
    threads = threads or os.cpu_count() or 1
    if threads == 1:
        for item in items:
            yield item, partial(function, item)
        return
    remaining = iter(items)
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="pocketdet")
    try:
        while True:
            for item in islice(remaining, threads * AHEAD - len(waiting)):
                waiting.append((item, pool.submit(function, item)))
            if not waiting:
                return
            item, future = waiting.popleft()
            yield item, future.result
            del item, future  # else the last result stays while the next one is waited for
    finally:
        pool.shutdown(cancel_futures=True)
