"""Requests that come together run through the network together."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from pocketdet.core.detections import Detections
from pocketdet.runtime.predictor import Predictor, Prepared


class _Job(NamedTuple):
    prepared: Prepared
    thresholds: tuple[float, float]
    answer: asyncio.Future[Detections]


class Batcher:
    """Runs one detector over batches: whoever comes within the latency budget of a batch's first picture joins it.

    A picture waits for others only while a request is on its way (`expecting`), so a lone client never waits.

    Args:
        predictor: The detector.
        max_batch: Pictures in one run, at most.
        latency_budget: Seconds that the first picture of a batch waits for others, at most.
        observe: Told the size of every batch.
    """

    def __init__(
        self, predictor: Predictor, max_batch: int, latency_budget: float, observe: Callable[[int], None]
    ) -> None:
        self.predictor = predictor
        self._max_batch = max_batch
        self._latency_budget = latency_budget
        self._observe = observe
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()
        self._expected = 0
        self._runner = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Run the network once, which prepares its buffers, and begin to serve."""
        height, width = self.predictor.metadata.input_size
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._runner, self._warm_up, height, width)
        self._task = loop.create_task(self._serve())

    async def stop(self) -> None:
        """End the work; what is still queued is not answered."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._runner.shutdown()

    @contextlib.contextmanager
    def expecting(self) -> Iterator[None]:
        """A request is being read: a batch may wait for its picture."""
        self._expected += 1
        try:
            yield
        finally:
            self._expected -= 1

    async def detect(self, prepared: Prepared, thresholds: tuple[float, float]) -> Detections:
        """One picture's detections, from the batch that it got into.

        Args:
            prepared: The picture.
            thresholds: Score and IoU.
        """
        answer: asyncio.Future[Detections] = asyncio.get_running_loop().create_future()
        self._jobs.put_nowait(_Job(prepared, thresholds, answer))
        return await answer

    def _warm_up(self, height: int, width: int) -> None:
        import numpy as np

        self.predictor.predict(np.zeros((height, width, 3), np.uint8))

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            # Whoever stopped waiting, because of the time limit, is left out.
            batch = [job for job in await self._next_batch() if not job.answer.done()]
            if not batch:
                continue
            self._observe(len(batch))
            try:
                found = await loop.run_in_executor(self._runner, self._run, batch)
            except Exception as error:
                for job in batch:
                    if not job.answer.done():
                        job.answer.set_exception(error)
                continue
            for job, detections in zip(batch, found, strict=True):
                if not job.answer.done():
                    job.answer.set_result(detections)

    async def _next_batch(self) -> list[_Job]:
        batch = [await self._jobs.get()]
        loop = asyncio.get_running_loop()
        end = loop.time() + self._latency_budget
        while len(batch) < self._max_batch:
            if not self._jobs.empty():
                batch.append(self._jobs.get_nowait())
                continue
            if not self._expected or loop.time() >= end:
                break
            with contextlib.suppress(TimeoutError):
                batch.append(await asyncio.wait_for(self._jobs.get(), end - loop.time()))
        return batch

    def _run(self, batch: list[_Job]) -> list[Detections]:
        return self.predictor.detect([job.prepared for job in batch], [job.thresholds for job in batch])
