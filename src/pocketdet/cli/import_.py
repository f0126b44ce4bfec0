# ruff: noqa: D417 - AsJson has its help text with it
"""Take over a detector of another project."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from pocketdet.cli.app import AsJson, app, examples, print_json
from pocketdet.errors import SettingsError

if TYPE_CHECKING:
    from pocketdet.models.importing import Imported

DARKNET_SUFFIXES = {".cfg", ".weights"}


@app.command(
    name="import",
    help_epilogue=examples(
        "pocketdet import yolov4.cfg yolov4.weights --names coco.names -o yolov4.safetensors",
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
    as_json: AsJson = False,
) -> None:
    """Make a pocketdet checkpoint of another project's detector: evaluate, fine-tune and export it like one of ours.

    Nothing in the source is executed. What of the source was not used and what it lacks is listed.

    Args:
        source: Darknet's .cfg and .weights files.
        output: The new .safetensors file.
        classes: Names of the classes, in the order of the network's training.
        names: A file with these names, one a line, instead.
    """
    from pocketdet.loading import require_packages

    require_packages("import")
    from pocketdet.models.importing import read_class_names, save_imported

    if classes and names is not None:
        raise SettingsError("--classes and --names both name the classes; give one of them")
    imported = _read(source, read_class_names(names) if names is not None else classes)
    save_imported(imported, output)
    if as_json:
        print_json({"path": str(output)} | imported.to_dict())
    else:
        print(f"{output}: {imported.to_text()}")


def _read(source: list[Path], class_names: tuple[str, ...]) -> "Imported":
    """The kind of source follows from the suffixes."""
    by_suffix = {path.suffix.lower(): path for path in source}
    if by_suffix.keys() == DARKNET_SUFFIXES and len(source) == 2:
        from pocketdet.models.darknet.importing import import_darknet

        return import_darknet(by_suffix[".cfg"], by_suffix[".weights"], class_names)
    raise SettingsError(
        f"source is {' '.join(map(str, source))}; expected the two files of a darknet network, NAME.cfg NAME.weights"
    )
