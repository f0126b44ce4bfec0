"""The rows of the papers' tables as they are printed there, one for every block of a backbone."""

from pocketdet.models import mobilenet_v1, mobilenet_v2, mobilenet_v3

STEM = "conv2d 3x3 s2"


def paper_rows(backbone: str) -> tuple[str, list[str]]:
    """Where a network comes from, and its table.

    Args:
        backbone: A key of ``BACKBONES``.

    Returns:
        Paper and table; of each block what its row says, the stem first. Empty for networks without such a table.
    """
    if backbone == "mobilenet_v1":
        rows = [
            f"conv dw s{pair.stride}, conv 1x1: {pair.in_channels} > {pair.out_channels}" for pair in mobilenet_v1.PAIRS
        ]
        return "arXiv 1704.04861, Table 1", [STEM, *rows]
    if backbone == "mobilenet_v2":
        rows = [
            f"bottleneck t={stage.expansion} c={stage.channels} n={stage.repeats} s={stage.stride} "
            f"({repeat + 1}/{stage.repeats})"
            for stage in mobilenet_v2.STAGES
            for repeat in range(stage.repeats)
        ]
        return "arXiv 1801.04381, Table 2", [STEM, *rows]
    if backbone.startswith("mobilenet_v3"):
        is_large = "large" in backbone
        table = mobilenet_v3.LARGE if is_large else mobilenet_v3.SMALL
        rows = [
            f"{row.size}²x{row.in_channels} bneck {row.kernel}x{row.kernel} exp {row.expanded} out {row.out_channels}"
            f"{' SE' if row.has_se else ''} {row.activation} s{row.stride}"
            for row in table.rows
        ]
        return f"arXiv 1905.02244, Table {1 if is_large else 2}", [STEM, *rows]
    return "", []
