"""What bounds the server."""

import dataclasses

from pocketdet.errors import SettingsError


@dataclasses.dataclass(frozen=True)
class ServeSettings:
    """Bounds of the server.

    Args:
        max_batch: Pictures in one run of the network, at most.
        latency_budget: Seconds that a picture may wait for others, to run in one batch with them.
        max_requests: Requests in the house at once; the next one is answered with 503.
        max_body: Bytes of one request.
        max_pixels: Of one picture, decoded.
        max_side: Pixels of the longer side of one picture.
        time_limit: Seconds that the body of a request may take to arrive, and then again its answer.
    """

    max_batch: int = 8
    latency_budget: float = 0.005
    max_requests: int = 64
    max_body: int = 10_000_000
    max_pixels: int = 50_000_000
    max_side: int = 16_384
    time_limit: float = 10.0

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_requests", "max_body", "max_pixels", "max_side"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if self.latency_budget < 0:
            raise SettingsError(f"latency_budget is {self.latency_budget}; it must be 0 seconds or more")
        if self.time_limit <= 0:
            raise SettingsError(f"time_limit is {self.time_limit}; it must be more than 0 seconds")
