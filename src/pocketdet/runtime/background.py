"""Work beside the network: what a thread reads ahead, and what a thread does behind."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")

DEPTH = 4  # items that wait on either side; a video's frame of 1080p is 3 MB as it is decoded
POLL = 0.1  # seconds after which a waiting thread looks whether it is still wanted


class _End:
    """The last thing in a queue: why there is no more."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Ahead(Generic[T]):
    """Iterates over items that a thread makes, at most ``depth`` ahead; an error of the thread is raised in its turn.

    Args:
        items: Is iterated over, once, by the thread.
        depth: How many items may wait.
    """

    def __init__(self, items: Iterable[T], depth: int = DEPTH) -> None:
        self._items = items
        self._queue: queue.Queue[T | _End] = queue.Queue(depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._make, name="pocketdet-ahead", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[T]:
        while True:
            item = self._queue.get()
            if not isinstance(item, _End):
                yield item
                continue
            if item.error is not None:
                raise item.error
            return

    def close(self) -> None:
        """Stop the thread, whatever is still to be made."""
        self._stopped.set()
        self._thread.join()

    def _make(self) -> None:
        end = _End(None)
        try:
            for item in self._items:
                if not self._offer(item):
                    return
        except BaseException as error:
            end = _End(error)
        self._offer(end)

    def _offer(self, item: T | _End) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=POLL)
            except queue.Full:
                continue
            return True
        return False


class Behind(Generic[T]):
    """Does something with items in a thread, in order; at most ``depth`` wait, then ``put`` waits.

    Args:
        work: Is called by the thread with one item after the other. Its first error is raised by ``put`` or ``close``.
        depth: How many items may wait.
    """

    def __init__(self, work: Callable[[T], None], depth: int = DEPTH) -> None:
        self._work = work
        self._queue: queue.Queue[T | _End] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._do, name="pocketdet-behind", daemon=True)
        self._thread.start()

    def put(self, item: T) -> None:
        """Hand an item over."""
        self._raise_error()
        self._queue.put(item)

    def close(self) -> None:
        """Wait until all items are done."""
        self._queue.put(_End(None))
        self._thread.join()
        self._raise_error()

    def _do(self) -> None:
        while not isinstance(item := self._queue.get(), _End):
            if self._error is None:  # after an error items are only taken away, so that nobody waits for ever
                try:
                    self._work(item)
                except BaseException as error:
                    self._error = error

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
