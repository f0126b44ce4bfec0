"""Figures for Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCH_SIZES = (1, 2, 4, 8, 16, 32)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Figures of one server.

    Args:
        in_house: Counts the requests that are being worked on.
    """

    def __init__(self, in_house: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "pocketdet_requests", "Answered requests.", ("path", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "pocketdet_request_seconds", "From request to answer.", ("path",), buckets=SECONDS, registry=self._registry
        )
        self._batches = Histogram(
            "pocketdet_batch_size",
            "Pictures in one run of the network.",
            ("model",),
            buckets=BATCH_SIZES,
            registry=self._registry,
        )
        self._objects = Counter("pocketdet_objects", "Objects found.", ("model", "name"), registry=self._registry)
        waiting = Gauge("pocketdet_requests_in_progress", "Pictures being worked on.", registry=self._registry)
        waiting.set_function(in_house)

    def request(self, path: str, status: int, seconds: float) -> None:
        """One request was answered."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def batch(self, model: str, size: int) -> None:
        """The network ran."""
        self._batches.labels(model).observe(size)

    def objects(self, model: str, class_names: list[str]) -> None:
        """A picture's objects."""
        for name in class_names:
            self._objects.labels(model, name).inc()

    def text(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self._registry)
