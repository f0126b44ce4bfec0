"""Detection in very many pictures, on many machines, by Ray."""

from pocketdet.distributed.detect import Summary, detect_pictures

__all__ = ["Summary", "detect_pictures"]
