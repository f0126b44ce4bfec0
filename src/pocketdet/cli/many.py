"""Detection on many machines: the part of ``pocketdet predict`` that runs on Ray."""

from collections.abc import Sequence
from pathlib import Path

from pocketdet.cli.app import BAD_INPUT, GOOD, print_result, progress
from pocketdet.errors import SettingsError


def predict_many(
    sources: Sequence[str],
    output: Path | None,
    address: str,
    *,
    model: str,
    thresholds: tuple[float, float],
    as_json: bool,
) -> int:
    """See ``distributed.detect_pictures``.

    Returns:
        Exit code: that of bad input when some pictures could not be read.
    """
    from pocketdet.distributed import detect_pictures

    if len(sources) != 1 or output is None:
        raise SettingsError("--ray takes one source and needs --output: a folder, or a .json file for COCO's format")
    score_threshold, iou_threshold = thresholds
    with progress("pictures") as move:
        summary = detect_pictures(
            sources[0], output, address, model=model, score_threshold=score_threshold, iou_threshold=iou_threshold,
            progress=move,
        )  # fmt: skip
    print_result(summary, as_json)
    return BAD_INPUT if summary.failures else GOOD
