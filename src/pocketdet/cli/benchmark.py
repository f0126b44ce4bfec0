"""Measure several models against each other."""

from pathlib import Path

from pocketdet.cli.app import AsJson, app, examples, print_result, progress


@app.command(
    help_epilogue=examples(
        "pocketdet benchmark animals animals-small --threads 1 2",
        "pocketdet benchmark mine.onnx mine.ncnn.param --data my-pictures --plot speed.svg",
    )
)
def benchmark(
    *models: str,
    threads: tuple[int, ...] = (1,),
    rounds: int = 30,
    data: Path | None = None,
    split: str = "val",
    plot: Path | None = None,
    as_json: AsJson = False,
) -> None:
    """Compare models: time a picture, loading, memory, size and, with labelled pictures, average precision.

    Their runs take turns, so the ratios hold on a busy machine, too; the milliseconds are those of this machine today.

    Args:
        models: Names of bundled detectors, exported files, .safetensors checkpoints or folders of training runs.
        threads: Threads of the network; each model is measured on each of these numbers.
        rounds: Timed runs of each.
        data: Folder with labelled pictures on which average precision is measured.
        split: Which part of the data set.
        plot: Draw average precision over time into this file, .png or .svg.
    """
    from pocketdet.benchmark import plot as draw
    from pocketdet.benchmark import run_benchmark
    from pocketdet.datasets.load import load_dataset
    from pocketdet.errors import SettingsError

    if plot is not None and data is None:
        raise SettingsError("a picture of AP over latency needs labelled pictures: name a data set by --data")
    with progress("measuring") as move_bar:
        dataset = None if data is None else lambda names: load_dataset(data, (split,), names)
        result = run_benchmark(models, threads, rounds, dataset, move_bar=move_bar)
    print_result(result, as_json)
    if plot is not None:
        draw(result, plot)
