"""Take over a detector of another project."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from pocketdet.cli.app import AsJson, app, examples, print_json
from pocketdet.errors import SettingsError

if TYPE_CHECKING:
    from pocketdet.models.importing import Imported

DARKNET_SUFFIXES = {".cfg", ".weights"}
TORCH_SUFFIXES = {".pth", ".pt"}
SCRIPTS_SIZE = 416


@app.command(
    name="import",
    help_epilogue=examples(
        "pocketdet import yolov4.cfg yolov4.weights --names coco.names -o yolov4.safetensors",
        "pocketdet import best_epoch_weights.pth --names voc_classes.txt -o mine.safetensors",
        "pocketdet predict photo.jpg --model yolov4.safetensors",
    ),
)
def import_model(
    source: list[Path],
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    classes: tuple[str, ...] = (),
    names: Path | None = None,
    anchors: Path | None = None,
    size: int | None = None,
    letterbox: bool = False,
    as_json: AsJson = False,
) -> None:
    """Make a pocketdet checkpoint of another project's detector: evaluate, fine-tune and export it like one of ours.

    Nothing in the source is executed. What of the source was not used and what it lacks is listed.

    Args:
        source: Darknet's .cfg and .weights files, or a .pth file of the PyTorch MobileNet-YOLOv4 scripts.
        output: The new .safetensors file.
        classes: Names of the classes, in the order of the network's training.
        names: A file with these names, one a line, instead.
        anchors: Of a .pth file that has others than YOLOv4's: a text file with nine times width, height.
        size: Height and width of a .pth file's input in pixels, a multiple of 32; by default 416.
        letterbox: Pictures keep their proportions, as with -letter_box or letterbox_image=True there; by default they
            are stretched, as there.
    """
    from pocketdet.loading import require_packages

    require_packages("import")
    from pocketdet.models.importing import read_class_names, save_imported

    if classes and names is not None:
        raise SettingsError("--classes and --names both name the classes; give one of them")
    imported = _read(source, read_class_names(names) if names is not None else classes, anchors, size)
    if letterbox:
        imported = dataclasses.replace(imported, metadata=dataclasses.replace(imported.metadata, stretch=False))
    save_imported(imported, output)
    if as_json:
        print_json({"path": str(output)} | imported.to_dict())
    else:
        print(f"{output}: {imported.to_text()}")


def _read(source: list[Path], class_names: tuple[str, ...], anchors: Path | None, size: int | None) -> "Imported":
    """The kind of source follows from the suffixes."""
    by_suffix = {path.suffix.lower(): path for path in source}
    if by_suffix.keys() == DARKNET_SUFFIXES and len(source) == 2:
        from pocketdet.models.darknet.importing import import_darknet

        if anchors is not None or size is not None:
            raise SettingsError(f"--anchors and --size belong to a .pth file; {by_suffix['.cfg']} has its own")
        return import_darknet(by_suffix[".cfg"], by_suffix[".weights"], class_names)
    if len(source) == 1 and by_suffix.keys() <= TORCH_SUFFIXES:
        from pocketdet.core.metadata import YOLOV4_ANCHORS
        from pocketdet.models.backbone import check_size
        from pocketdet.models.import_scripts import import_scripts
        from pocketdet.models.importing import read_anchors

        input_size = (size or SCRIPTS_SIZE, size or SCRIPTS_SIZE)
        check_size(*input_size)
        return import_scripts(
            source[0], class_names, YOLOV4_ANCHORS if anchors is None else read_anchors(anchors), input_size
        )
    raise SettingsError(
        f"source is {' '.join(map(str, source))}; expected the two files of a darknet network, NAME.cfg NAME.weights, "
        "or a .pth file of the PyTorch MobileNet-YOLOv4 scripts"
    )
