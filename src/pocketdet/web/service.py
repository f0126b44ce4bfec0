"""The detectors behind the API: how many requests are let in, where pictures are read, when an answer is late."""

import asyncio
import contextlib
import dataclasses
import os
from collections.abc import Awaitable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from fastapi import HTTPException, Request
from starlette.concurrency import run_in_threadpool

from pocketdet.core.detections import Detections
from pocketdet.errors import ImageError
from pocketdet.runtime.predictor import Predictor, Prepared
from pocketdet.web.batching import Batcher
from pocketdet.web.limits import RETRY_AFTER
from pocketdet.web.metrics import Metrics
from pocketdet.web.requests import Upload, check_picture, read_upload
from pocketdet.web.settings import ServeSettings

T = TypeVar("T")


class Service:
    """Detectors that answer many clients at once.

    Args:
        predictors: By the name that clients give; the first one is the default.
        settings: Its bounds.
    """

    def __init__(self, predictors: Mapping[str, Predictor], settings: ServeSettings) -> None:
        self.predictors = dict(predictors)
        self.is_ready = False
        self.metrics = Metrics(lambda: self._in_house)
        self._settings = settings
        self._in_house = 0
        self._batchers = {
            name: Batcher(predictor, settings.max_batch, settings.latency_budget, partial(self.metrics.batch, name))
            for name, predictor in predictors.items()
        }
        self._readers = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="reader")

    async def start(self) -> None:
        """Prepare all detectors."""
        for batcher in self._batchers.values():
            await batcher.start()
        self.is_ready = True

    async def stop(self) -> None:
        """End all threads, once the last request was answered."""
        self.is_ready = False
        for batcher in self._batchers.values():
            await batcher.stop()
        await run_in_threadpool(self._readers.shutdown)

    async def detect(
        self, request: Request, model: str, thresholds: tuple[float, float], classes: list[str]
    ) -> Detections:
        """Answer one request.

        Args:
            request: Its body has the picture.
            model: One of the names.
            thresholds: Score and IoU.
            classes: Keep only these; all where there are none.

        Raises:
            HTTPException: 400, 413, 415 or 422 for a bad request, 503 when there is too much to do.
        """
        batcher = self._batchers[model]
        with self._let_in():
            with batcher.expecting():
                upload = await read_upload(request)
                end = asyncio.get_running_loop().time() + self._settings.time_limit
                prepared = await self._in_time(self._prepare(batcher.predictor, upload), end)
            found = await self._in_time(batcher.detect(prepared, thresholds), end)
        found = dataclasses.replace(found, source=upload.name)
        if classes:
            found = found.of_classes(classes)
        self.metrics.objects(model, found.class_names)
        return found

    @contextlib.contextmanager
    def _let_in(self) -> Iterator[None]:
        """One of the places for requests, before anything of its body is read: this bounds the memory."""
        if self._in_house >= self._settings.max_requests:
            raise HTTPException(
                503,
                f"{self._in_house} requests are being worked on, as many as this server takes; try again",
                {"retry-after": RETRY_AFTER},
            )
        self._in_house += 1
        try:
            yield
        finally:
            self._in_house -= 1

    async def _in_time(self, work: Awaitable[T], end: float) -> T:
        try:
            async with asyncio.timeout_at(end):
                return await work
        except TimeoutError as error:
            message = f"no answer within {self._settings.time_limit:g} s, there is too much to do; try again"
            raise HTTPException(503, message, {"retry-after": RETRY_AFTER}) from error

    async def _prepare(self, predictor: Predictor, upload: Upload) -> Prepared:
        """Read and letterbox, in another thread; only so many pictures are decoded at once as there are cores."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, predictor, upload.content)

    def _read(self, predictor: Predictor, content: bytes) -> Prepared:
        check_picture(content, self._settings)
        try:
            return predictor.prepare(content)
        except ImageError as error:
            raise HTTPException(422, str(error)) from error
