"""One way for all formats: convert, read the file back, compare, and only then give it its name."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from pocketdet.core.metadata import ModelMetadata
from pocketdet.datasets.load import load_dataset
from pocketdet.datasets.records import Dataset
from pocketdet.errors import SettingsError
from pocketdet.export.gate import GateReport, compare
from pocketdet.export.onnx_file import update_onnx_metadata, write_onnx
from pocketdet.models.backbone import check_size
from pocketdet.models.checkpoint import TorchBackend, load_detector
from pocketdet.models.detector import Detector
from pocketdet.runtime.backends import Backend, OnnxBackend

MAX_PICTURES = 200
BUNDLED_PICTURES = Path(__file__).parents[1] / "assets"


class Exporter(NamedTuple):
    """What a file format needs."""

    suffix: str
    write: Callable[[Detector, ModelMetadata, Path, bool], None]  # with half weights or not
    update_metadata: Callable[[Path, ModelMetadata], None]
    backend: Callable[[Path], Backend]  # reads the file back


EXPORTERS = {
    "onnx": Exporter(".onnx", write_onnx, update_onnx_metadata, OnnxBackend),
}


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """An exported file that passed its gate.

    Args:
        path: The file.
        format: A key of ``EXPORTERS``.
        num_bytes: Its size.
        gate: How far it is from the checkpoint.
    """

    path: Path
    format: str
    num_bytes: int
    gate: GateReport

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        gate = {**dataclasses.asdict(self.gate), "ap_difference": self.gate.ap_difference}
        return {"path": str(self.path), "format": self.format, "num_bytes": self.num_bytes, "gate": gate}

    def to_text(self) -> str:
        """A few lines for people."""
        gate = self.gate
        lines = [
            f"{self.path}: {self.format}, {self.num_bytes / 1e6:.1f} MB",
            f"Compared with the checkpoint on {gate.num_pictures} pictures; the largest differences:",
            f"  box    {gate.max_box_difference_px:.2g} pixels",
            f"  score  {gate.max_score_difference:.2g}",
            f"  logit  {gate.max_output_difference:.2g}",
        ]
        if gate.checkpoint_ap is not None and gate.file_ap is not None:
            lines.append(f"  AP     {100 * gate.checkpoint_ap:.2f} % (checkpoint), {100 * gate.file_ap:.2f} % (file)")
        return "\n".join(lines)


def export(
    checkpoint: Path,
    output: Path | None = None,
    *,
    format: str = "onnx",
    data: Path | None = None,
    split: str = "val",
    pictures: Sequence[Path] = (),
    size: tuple[int, int] | None = None,
    half: bool = False,
) -> ExportReport:
    """Convert a checkpoint to a file that runs without torch, and prove that it computes the same.

    The file appears under its name only when it has passed; its metadata tell the differences.

    Args:
        checkpoint: A safetensors file of a detector, as training writes it.
        output: The file; by default beside the checkpoint, with the format's suffix.
        format: Kind of file.
        data: A data set; on up to 200 of its pictures AP is compared too.
        split: Of the data set.
        pictures: Pictures to compare on, where no data set is given; by default two that pocketdet brings along.
        size: (height, width) of the input, multiples of 32; by default the one that the detector was trained at.
        half: Store the weights in 16 bits, which halves the file; it computes in float32 all the same.

    Raises:
        SettingsError: An unknown format, a size that is no multiple of 32.
        ModelFileError: The checkpoint is missing, changed or cut.
        ExportError: The file is too far from the checkpoint.
        MissingExtraError: The format's packages are not installed.
    """
    if format not in EXPORTERS:
        raise SettingsError(f'format is "{format}"; it must be one of {", ".join(EXPORTERS)}')
    exporter = EXPORTERS[format]
    detector, metadata = load_detector(checkpoint)
    if size is not None:
        check_size(*size)
        metadata = dataclasses.replace(metadata, input_size=size)
    dataset = None if data is None else _sample(load_dataset(data, [split], metadata.class_names))
    seen = [record.path for record in dataset.records] if dataset else list(pictures) or _bundled_pictures()
    output = Path(checkpoint).with_suffix(exporter.suffix) if output is None else Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    unproven = output.with_name(f".{output.name}.{os.getpid()}.unproven")
    try:
        exporter.write(detector, metadata, unproven, half)
        gate = compare(TorchBackend(detector, metadata), exporter.backend(unproven), seen, dataset)
        gate.check()
        metrics = {**metadata.metrics, **gate.to_metrics()}
        exporter.update_metadata(unproven, dataclasses.replace(metadata, metrics=metrics))
        os.replace(unproven, output)
    finally:
        unproven.unlink(missing_ok=True)
    return ExportReport(output, format, output.stat().st_size, gate)


def _sample(dataset: Dataset) -> Dataset:
    """At most ``MAX_PICTURES``, evenly spread."""
    step = -(-len(dataset.records) // MAX_PICTURES)
    return dataclasses.replace(dataset, records=dataset.records[::step])


def _bundled_pictures() -> list[Path]:
    return sorted(BUNDLED_PICTURES.glob("*.jpg"))
