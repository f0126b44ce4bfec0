"""A network's table, and the health of its kernels."""

import dataclasses
import sys
from pathlib import Path
from typing import Literal

from pocketdet.cli.app import AsJson, app, examples, print_json, print_result
from pocketdet.cli.demo import DEMO_PICTURES
from pocketdet.errors import SettingsError


@app.command(
    help_epilogue=examples(
        "pocketdet explain mobilenet_v2 --neck-width 0.5 --size 320",
        "pocketdet explain runs/first --data my-pictures",
        "pocketdet explain runs/first --drop-dead smaller.safetensors",
        "pocketdet explain animals-small --page lesson.html --language zh",
    )
)
def explain(
    model: str,
    /,
    *,
    width: float = 1.0,
    neck_width: float = 0.5,
    size: int | None = None,
    num_classes: int = 80,
    neck_activation: Literal["relu6", "mish", "leaky"] | None = None,
    neck_convolution: Literal["separable", "plain"] | None = None,
    data: Path | None = None,
    split: str = "val",
    drop_dead: Path | None = None,
    page: Path | None = None,
    language: Literal["en", "zh"] = "en",
    picture: Path | None = None,
    as_json: AsJson = False,
) -> None:
    """Print a network's table, block by block: operators, channels, parameters, multiply-adds.

    Of a checkpoint also its dead depthwise kernels, layer by layer, why they are dead and what to do.

    Args:
        model: A backbone (mobilenet_v1, mobilenet_v2, mobilenet_v3_large, mobilenet_v3_small, a V3 with _minimalistic,
            cspdarknet53 or cspdarknet53_tiny), a darknet .cfg file, a .safetensors checkpoint, the folder of a training
            run, a float .onnx file or the name of a bundled detector.
        width: Multiplier of the backbone's channels; a checkpoint has its own.
        neck_width: Multiplier of the channels of neck and head; a checkpoint has its own.
        size: Height and width of the input in pixels, a multiple of 32; by default 416, or the checkpoint's.
        num_classes: How many classes the head tells apart; a checkpoint has its own.
        neck_activation: Of neck and head; by default the backbone's usual one.
        neck_convolution: The 3x3 convolutions of neck and head; by default the backbone's usual ones.
        data: Labelled pictures, or any folder of pictures, on which a checkpoint's kernels are watched (up to 200).
        split: Which part of labelled pictures.
        drop_dead: Write the checkpoint without channels that are the same on any picture into this .safetensors file,
            and say what that saves; its outputs are compared and stay within 0.0001.
        page: Write the table, drawings and, of a network with weights, what it does on a picture into this HTML file.
        language: Of the page: English or Chinese.
        picture: For the page; by default the cat that comes with pocketdet.
    """
    from pocketdet.loading import ASSETS, bundled_models, find_weights, require_packages

    is_file = model in bundled_models() or Path(model).exists() or bool(Path(model).suffix)
    path = find_weights(model) if is_file and Path(model).suffix != ".cfg" else None
    require_packages("explain")
    from pocketdet.models import explain as explain_network
    from pocketdet.models import load_detector

    is_exported = path is not None and path.suffix == ".onnx"
    if is_exported and (data is not None or drop_dead is not None):
        raise SettingsError(
            f"{model} is an exported file, whose batch norms, which tell of dead kernels, are folded away; "
            "--data and --drop-dead need the checkpoint"
        )
    trained = None if path is None else load_detector(path)
    if trained is None:
        if data is not None or drop_dead is not None:
            raise SettingsError(f"{model} has no weights; --data and --drop-dead need a checkpoint")
        side = 416 if size is None else size
        explanation = explain_network(
            model, (side, side), width, neck_width, num_classes, neck_activation, neck_convolution
        )
        dropped = None
    else:
        from pocketdet.models.activity import find_constant, find_pictures
        from pocketdet.models.drop_dead import drop_dead as write_without_dead

        pictures = [] if data is None else find_pictures(data, split)
        constant = find_constant(*trained, pictures) if pictures else None
        input_size = trained[1].input_size if size is None else (size, size)
        explanation = explain_network(trained[0], input_size, constant=constant)
        if is_exported:
            explanation = dataclasses.replace(explanation, health=())
        dropped = None if drop_dead is None or path is None else write_without_dead(path, drop_dead, pictures)
    if page is not None:
        from pocketdet.lesson import write_lesson

        backbone = model if trained is None else trained[1].backbone
        shown = picture or ASSETS / DEMO_PICTURES[0]
        write_lesson(page, explanation, backbone, trained=trained, picture=shown, language=language)
        print(f"the page is {page}", file=sys.stderr)
    if dropped is None:
        print_result(explanation, as_json)
    elif as_json:
        print_json(explanation.to_dict() | {"dropped": dropped.to_dict()})
    else:
        print(f"{explanation.to_text()}\n\n{dropped.to_text()}")
