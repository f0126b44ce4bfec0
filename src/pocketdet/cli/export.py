# ruff: noqa: D417 - AsJson has its help text with it
"""From a checkpoint to a file for a device."""

from pathlib import Path

from pocketdet.cli.app import AsJson, app, examples, print_result


@app.command(
    help_epilogue=examples(
        "pocketdet export runs/first --output cats.onnx --data my-pictures",
        "pocketdet predict photo.jpg --model cats.onnx",
    )
)
def export(
    checkpoint: Path,
    /,
    *,
    format: str = "onnx",
    output: Path | None = None,
    data: Path | None = None,
    split: str = "val",
    size: int | None = None,
    half: bool = False,
    as_json: AsJson = False,
) -> None:
    """Write a trained detector as a file that runs without torch.

    The file is run and compared with the checkpoint before it is called good.

    Args:
        checkpoint: A .safetensors checkpoint or the folder of a training run.
        format: Of the file: onnx.
        output: The file; by default beside the checkpoint.
        data: Folder with labelled pictures on which the average precision of both is compared, too; without it their
            boxes are compared on pocketdet's own pictures.
        split: Which part of the data set.
        size: Height and width of the input in pixels, a multiple of 32; by default the checkpoint's.
        half: Store the weights in 16 bits: half the file, the same speed.
    """
    from pocketdet.loading import find_checkpoint, require_packages

    path = find_checkpoint(checkpoint)
    require_packages("export")
    from pocketdet.export import export as run_export

    input_size = None if size is None else (size, size)
    print_result(run_export(path, output, format=format, data=data, split=split, size=input_size, half=half), as_json)
