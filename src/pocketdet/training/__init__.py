"""From pictures to a detector. ``TrainSettings`` needs no torch; ``train`` does and loads when asked for."""

from typing import TYPE_CHECKING, Any

from pocketdet.training.settings import TrainSettings

if TYPE_CHECKING:
    from pocketdet.training.loop import train

__all__ = ["TrainSettings", "train"]


def __getattr__(name: str) -> Any:
    if name == "train":
        from pocketdet.training.loop import train

        return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
