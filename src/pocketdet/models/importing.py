"""Detectors of other projects: what every way of importing one gives, and the file that it becomes."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pocketdet.core.metadata import Anchors, ModelMetadata
from pocketdet.errors import ModelFileError, SettingsError
from pocketdet.models.checkpoint import save_detector
from pocketdet.models.detector import Detector


@dataclasses.dataclass(frozen=True)
class Imported:
    """A detector of another project as one of ours.

    Args:
        detector: With its weights, in evaluation mode.
        metadata: Its class names, and how its boxes are decoded.
        unused: What the source has and the network has not.
        missing: What the network has and the source has not; it keeps random values.
    """

    detector: Detector
    metadata: ModelMetadata
    unused: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "parameters": self._num_parameters(),
            "class_names": list(self.metadata.class_names),
            "input_size": list(self.metadata.input_size),
            "unused": list(self.unused),
            "missing": list(self.missing),
            "stretch": self.metadata.stretch,
        }

    def to_text(self) -> str:
        """A few lines for people."""
        height, width = self.metadata.input_size
        num_classes = len(self.metadata.class_names)
        lines = [f"{self._num_parameters():,} parameters, {num_classes} classes, {height} x {width} pixels"]
        fit = "stretched, as their origin does by default; letterboxed by --letterbox"
        lines.append(f"pictures are {fit if self.metadata.stretch else 'letterboxed'}")
        if self.unused:
            lines.append(f"in the source, but not used: {', '.join(self.unused)}")
        if self.missing:
            lines.append(f"not in the source, so random until it is trained: {', '.join(self.missing)}")
        return "\n".join(lines)

    def _num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.detector.parameters())


def read_class_names(path: Path) -> tuple[str, ...]:
    """One name a line, as darknet's ``.names`` files have them.

    Raises:
        ModelFileError: The file cannot be read.
    """
    try:
        return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{path}: no list of class names, one a line, can be read ({error})") from error


def check_class_names(class_names: Sequence[str], num_classes: int, file: str) -> None:
    """Ask for the names that most files of other projects do not hold.

    Raises:
        SettingsError: Too few or too many of them.
    """
    if len(class_names) != num_classes:
        raise SettingsError(
            f"{file}: the network tells {num_classes} classes apart, and {len(class_names)} names were given; "
            "name them all in the order of its training: --classes cat dog, or --names coco.names (one a line)"
        )


def read_anchors(path: Path) -> Anchors:
    """Nine anchors, width and height in input pixels, P3's first: "12,16, 19,36, ...", as the scripts' files have them.

    Raises:
        ModelFileError: The file cannot be read, or does not hold 18 numbers above 0.
    """
    try:
        numbers = [float(number) for number in path.read_text(encoding="utf-8").replace(",", " ").split()]
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path}: no list of anchors, numbers between commas, can be read ({error})") from error
    if len(numbers) != 18 or min(numbers) <= 0:
        raise ModelFileError(
            f"{path}: holds {len(numbers)} numbers; expected 18 above 0: width and height of nine anchors, P3's first"
        )
    pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
    return tuple(tuple(pairs[first : first + 3]) for first in (0, 3, 6))


def save_imported(imported: Imported, output: Path) -> None:
    """Write the detector as one of ours.

    Raises:
        SettingsError: ``output`` is no ``.safetensors`` file.
    """
    if output.suffix != ".safetensors":
        raise SettingsError(f"output is {output}; expected the name of a .safetensors file")
    output.parent.mkdir(parents=True, exist_ok=True)
    save_detector(output, imported.detector, imported.metadata)
