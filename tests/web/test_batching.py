import asyncio

import numpy as np
import pytest

from pocketdet.errors import ModelFileError
from pocketdet.runtime.backends import OnnxBackend
from pocketdet.runtime.predictor import Predictor
from pocketdet.web.batching import Batcher

THRESHOLDS = (0.3, 0.5)


@pytest.fixture
def predictor(tiny_model):
    return Predictor(OnnxBackend(tiny_model, threads=1))


def cell(row, column):
    """A picture with one red cell."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8, 0] = 255
    return pixels


def run(predictor, work, max_batch=4, latency_budget=0.0):
    """What ``work`` gives with a batcher that runs, and the sizes of the batches."""
    sizes = []

    async def main():
        batcher = Batcher(predictor, max_batch, latency_budget, sizes.append)
        await batcher.start()
        try:
            return await work(batcher)
        finally:
            await batcher.stop()

    return asyncio.run(main()), sizes


def test_every_client_gets_its_own_picture_s_answer_with_its_own_threshold(predictor):
    pictures = [cell(row, 3) for row in range(6)]

    async def work(batcher):
        jobs = [
            batcher.detect(predictor.prepare(picture), (0.3 if n != 2 else 0.99999, 0.5))
            for n, picture in enumerate(pictures)
        ]
        return await asyncio.gather(*jobs)

    found, sizes = run(predictor, work)
    assert sum(sizes) == 6
    assert max(sizes) == 4
    for n, (detections, picture) in enumerate(zip(found, pictures, strict=True)):
        np.testing.assert_array_equal(
            detections.boxes, predictor.predict(picture).boxes if n != 2 else np.zeros((0, 4))
        )


def test_a_lone_client_does_not_wait_for_others(predictor):
    async def work(batcher):
        return await asyncio.wait_for(batcher.detect(predictor.prepare(cell(1, 1)), THRESHOLDS), 30)

    found, sizes = run(predictor, work, latency_budget=3600)
    assert (len(found), sizes) == (1, [1])


def test_a_picture_waits_for_one_that_is_on_its_way(predictor):
    async def work(batcher):
        with batcher.expecting():
            first = asyncio.ensure_future(batcher.detect(predictor.prepare(cell(1, 1)), THRESHOLDS))
            await asyncio.sleep(0.2)
            assert not first.done()
            second = asyncio.ensure_future(batcher.detect(predictor.prepare(cell(2, 2)), THRESHOLDS))
            await asyncio.sleep(0)
        return await asyncio.gather(first, second)

    _, sizes = run(predictor, work, max_batch=2, latency_budget=3600)
    assert sizes == [2]


def test_waiting_ends_with_the_latency_budget(predictor):
    async def work(batcher):
        with batcher.expecting():
            return await asyncio.wait_for(batcher.detect(predictor.prepare(cell(1, 1)), THRESHOLDS), 30)

    found, sizes = run(predictor, work, latency_budget=0.05)
    assert (len(found), sizes) == (1, [1])


def test_whoever_stopped_waiting_is_left_out(predictor):
    async def work(batcher):
        jobs = [asyncio.ensure_future(batcher.detect(predictor.prepare(cell(1, n)), THRESHOLDS)) for n in range(3)]
        await asyncio.sleep(0)
        jobs[1].cancel()
        return await asyncio.gather(*jobs, return_exceptions=True)

    found, sizes = run(predictor, work)
    assert sizes == [2]
    assert isinstance(found[1], asyncio.CancelledError)
    np.testing.assert_array_equal(found[2].boxes, predictor.predict(cell(1, 2)).boxes)


def test_an_error_of_the_network_reaches_all_of_its_batch_and_the_next_one_works(predictor, monkeypatch):
    detect = predictor.detect

    def fail_once(*arguments):
        monkeypatch.setattr(predictor, "detect", detect)
        raise ModelFileError("broken")

    async def work(batcher):
        monkeypatch.setattr(predictor, "detect", fail_once)
        jobs = [batcher.detect(predictor.prepare(cell(1, n)), THRESHOLDS) for n in range(2)]
        failed = await asyncio.gather(*jobs, return_exceptions=True)
        return failed, await batcher.detect(predictor.prepare(cell(1, 1)), THRESHOLDS)

    (failed, found), _ = run(predictor, work)
    assert [str(error) for error in failed] == ["broken", "broken"]
    assert len(found) == 1
