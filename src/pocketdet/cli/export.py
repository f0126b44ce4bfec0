"""From a checkpoint to a file for a device."""

import sys
from pathlib import Path

from pocketdet.cli.app import AsJson, app, examples, print_result
from pocketdet.errors import SettingsError


@app.command(
    help_epilogue=examples(
        "pocketdet export runs/first --output cats.onnx --data my-pictures",
        "pocketdet predict photo.jpg --model cats.onnx",
        "pocketdet export animals --int8 --data my-pictures",
        "pocketdet export animals --nms-in-graph --output boxes.onnx",
    )
)
def export(
    checkpoint: str,
    /,
    *,
    format: str = "onnx",
    output: Path | None = None,
    data: Path | None = None,
    split: str = "val",
    size: int | None = None,
    half: bool = False,
    int8: bool = False,
    calibration: Path | None = None,
    calibration_split: str = "train",
    allow_drift: bool = False,
    decode_in_graph: bool = False,
    nms_in_graph: bool = False,
    dynamic: bool = False,
    as_json: AsJson = False,
) -> None:
    """Write a trained detector as a file that runs without torch.

    The file is run and compared with the checkpoint before it is called good.

    Args:
        checkpoint: A .safetensors checkpoint, the folder of a training run, a float .onnx file or the name of a bundled
            detector.
        format: Of the file: onnx, openvino, tflite, ncnn, executorch, coreml or darknet (.cfg, .weights and .names).
        output: The file; by default beside the checkpoint.
        data: Folder with labelled pictures on which the average precision of both is compared, too; without it their
            boxes are compared on pocketdet's own pictures.
        split: Which part of the data set.
        size: Height and width of the input in pixels, a multiple of 32; by default the checkpoint's.
        half: Store the weights in 16 bits: half the file, the same speed.
        int8: Compute with 8-bit integers: a quarter of the file, and faster where the machine is good at it.
        calibration: Folder of pictures, or a pattern, from which int8 learns how large values become; by default
            those of --data.
        calibration_split: Which part of --data that is.
        allow_drift: Keep an int8 file even if its AP50 is more than a point below the checkpoint's.
        decode_in_graph: Let the file give one output, boxes in pixels and scores of all cells, instead of raw logits
            (onnx, openvino).
        nms_in_graph: Let it also choose among them, by non-maximum suppression: boxes, scores, labels, count (onnx).
        dynamic: Let it take pictures of any size that is a multiple of 32 (onnx, openvino).
    """
    from pocketdet.loading import bundled_models, find_weights, require_packages

    if half and int8:
        raise SettingsError("--half and --int8 are both given; choose one of them")
    path = find_weights(checkpoint)
    require_packages("export")
    from pocketdet.export import EXPORTERS, Calibration, Precision
    from pocketdet.export import export as run_export

    if output is None and checkpoint in bundled_models() and format in EXPORTERS:
        output = Path(f"{checkpoint}{EXPORTERS[format].suffix}")
    precision: Precision = "int8" if int8 else "half" if half else "float32"
    pictures = None
    if calibration is not None:
        pictures = Calibration(calibration)
    elif data is not None:
        pictures = Calibration(data, calibration_split)
    report = run_export(
        path,
        output,
        format=format,
        precision=precision,
        data=data,
        split=split,
        size=None if size is None else (size, size),
        calibration=pictures,
        allow_drift=allow_drift,
        outputs="suppressed" if nms_in_graph else "decoded" if decode_in_graph else "logits",
        is_dynamic=dynamic,
        tell=lambda line: print(line, file=sys.stderr),
    )
    print_result(report, as_json)
