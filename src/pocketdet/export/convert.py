"""One way for all formats: convert, read the file back, compare, and only then give it its name."""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pocketdet.core.metadata import Outputs
from pocketdet.datasets.load import load_dataset
from pocketdet.datasets.records import Dataset, spread
from pocketdet.errors import ExportError, ModelFileError, PocketdetError, SettingsError
from pocketdet.export.calibration import Calibration, read_calibration
from pocketdet.export.conversion import Conversion, Precision
from pocketdet.export.gate import OBJECT_SCORE, GateReport, compare
from pocketdet.export.table import Exporter, check_wishes, find_exporter
from pocketdet.models.backbone import check_size
from pocketdet.models.checkpoint import TorchBackend, load_detector
from pocketdet.runtime.backends import Backend

MAX_PICTURES = 200
OTHER_SIZE_PICTURES = 8  # that a file for any size is compared on at another one
BUNDLED_PICTURES = Path(__file__).parents[1] / "assets"


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """An exported file that passed its gate.

    Args:
        path: The file.
        format: A key of ``EXPORTERS``.
        precision: Of the file.
        num_bytes: Of all files of the model.
        gate: How far it is from the checkpoint; ``None`` where nothing here can run it.
        files: All files of the model, ``path`` among them.
        not_run: Why it was not run.
    """

    path: Path
    format: str
    precision: Precision
    num_bytes: int
    gate: GateReport | None
    files: tuple[Path, ...]
    not_run: str = ""

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        gate = self.gate and {**dataclasses.asdict(self.gate), "ap_difference": self.gate.ap_difference}
        return {
            "path": str(self.path),
            "files": [str(file) for file in self.files],
            "format": self.format,
            "precision": self.precision,
            "num_bytes": self.num_bytes,
            "gate": gate,
            "not_run": self.not_run,
        }

    def to_text(self) -> str:
        """A few lines for people."""
        gate = self.gate
        lines = [
            f"{self.path}: {self.format}, {self.precision}, {self.num_bytes / 1e6:.1f} MB",
            *(f"  with {file.name}" for file in self.files if file != self.path),
        ]
        if gate is None:
            return "\n".join([*lines, f"Not run, only its structure was checked: {self.not_run}"])
        lines += [
            f"Compared with the checkpoint on {gate.num_pictures} pictures; the largest differences:",
            f"  box    {gate.max_box_difference_px:.2g} pixels",
            f"  score  {gate.max_score_difference:.2g}",
            f"  output {gate.max_output_difference:.2g}",
            f"Of {gate.num_objects} objects with a score above {OBJECT_SCORE} that both find: box "
            f"{gate.max_object_box_difference_px:.2g} pixels, score {gate.max_object_score_difference:.2g}; "
            f"{gate.num_unmatched} only one of them finds",
        ]
        if gate.checkpoint_ap is not None and gate.file_ap is not None:
            lines.append(f"  AP     {100 * gate.checkpoint_ap:.2f} % (checkpoint), {100 * gate.file_ap:.2f} % (file)")
        if gate.checkpoint_ap50 is not None and gate.file_ap50 is not None:
            lines.append(
                f"  AP50   {100 * gate.checkpoint_ap50:.2f} % (checkpoint), {100 * gate.file_ap50:.2f} % (file)"
            )
        return "\n".join(lines)


def export(
    checkpoint: Path,
    output: Path | None = None,
    *,
    format: str = "onnx",
    precision: Precision = "float32",
    data: Path | None = None,
    split: str = "val",
    pictures: Sequence[Path] = (),
    size: tuple[int, int] | None = None,
    calibration: Calibration | None = None,
    allow_drift: bool = False,
    outputs: Outputs = "logits",
    is_dynamic: bool = False,
    tell: Callable[[str], None] = print,
) -> ExportReport:
    """Convert a checkpoint to a file that runs without torch, and prove that it computes the same.

    The file appears under its name only when it has passed; its metadata tell the differences.

    Args:
        checkpoint: A safetensors file of a detector, as training writes it, or a float ONNX file made of one.
        output: The file; by default beside the checkpoint, with the format's suffix.
        format: Kind of file, a key of ``EXPORTERS``.
        precision: "half" stores the weights in 16 bits; "int8" also computes with 8-bit integers.
        data: A data set; on up to 200 of its pictures AP is compared too.
        split: Of the data set.
        pictures: Pictures to compare on, where no data set is given; by default two that pocketdet brings along.
        size: (height, width) of the input, multiples of 32; by default the one that the detector was trained at.
        calibration: The pictures that int8 learns its scales from.
        allow_drift: Keep an int8 file whose AP50 is more than a point off.
        outputs: "decoded" boxes of all cells, or what the file's own NMS leaves ("suppressed"), instead of raw logits.
        is_dynamic: The file takes any size that is a multiple of 32; ``size`` is the one that pocketdet runs it at.
        tell: Takes lines on what is done, such as which layers stay in float.

    Raises:
        SettingsError: An unknown format, a precision or another wish that it cannot fulfil, a size that is no
            multiple of 32, no calibration.
        ModelFileError: The checkpoint is missing, changed or cut.
        ExportError: The file is too far from the checkpoint, or cannot be written.
        MissingExtraError: The format's packages are not installed.
    """
    exporter = find_exporter(format, precision)
    check_wishes(format, outputs, is_dynamic)
    if output is not None and not output.name.endswith(exporter.suffix):
        raise SettingsError(f"{output}: the name of a file in the format {format} must end in {exporter.suffix}")
    detector, metadata = load_detector(checkpoint)
    if size is not None:
        check_size(*size)
        metadata = dataclasses.replace(metadata, input_size=size)
    metadata = dataclasses.replace(metadata, precision=precision, gate="")
    dataset = None if data is None else load_gate_pictures(data, split, metadata.class_names)
    seen = [record.path for record in dataset.records] if dataset else list(pictures) or _bundled_pictures()
    in_file = dataclasses.replace(metadata, outputs=outputs)
    conversion = Conversion(detector, in_file, precision, is_dynamic=is_dynamic, tell=tell)
    if precision == "int8":
        conversion = dataclasses.replace(conversion, calibration=read_calibration(calibration, metadata, tell))
    output = Path(checkpoint).with_suffix(exporter.suffix) if output is None else Path(output)
    with _proving_folder(output) as folder:
        unproven = folder / output.name
        _write(exporter, conversion, unproven)
        if exporter.not_run:
            gate = None
            exporter.check_structure(unproven, in_file)
            in_file = dataclasses.replace(in_file, gate=f"not run, structure checked only: {exporter.not_run}")
        else:
            gate = _prove(conversion, exporter.read_back(unproven), seen, dataset)
            _judge(gate, exporter, conversion, allow_drift)
            in_file = dataclasses.replace(in_file, metrics={**metadata.metrics, **gate.to_metrics()})
        exporter.update_metadata(unproven, in_file)
        files = _move_all(folder, output.parent)
    return ExportReport(output, format, precision, sum(map(_num_bytes, files)), gate, files, exporter.not_run)


def load_gate_pictures(data: Path, split: str, class_names: tuple[str, ...]) -> Dataset:
    """The labelled pictures that a file is judged on: 200 of a split, evenly spread, or all if it has fewer."""
    dataset = load_dataset(data, [split], class_names)
    return dataclasses.replace(dataset, records=spread(dataset.records, MAX_PICTURES))


def _judge(gate: GateReport, exporter: Exporter, conversion: Conversion, allow_drift: bool) -> None:
    precision = conversion.precision
    is_rounded = precision in exporter.rounding
    if is_rounded and gate.file_ap50 is None:
        conversion.tell(f"{precision} weights are judged by AP50; without --data nobody has measured it")
    gate.check("int8" if is_rounded else "float32", allow_drift)


def _write(exporter: Exporter, conversion: Conversion, path: Path) -> None:
    """Run the converter.

    Raises:
        ExportError: It stops; packages that are not ours raise what they like.
    """
    try:
        exporter.write(conversion, path)
    except (PocketdetError, OSError):
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0][:300]
        raise ExportError(
            f"{path.name}: the converter stopped ({type(error).__name__}: {reason}); nothing was kept. There are "
            f"{shutil.disk_usage(path.parent).free / 1e6:.0f} MB free in {path.parents[1]}; if that is not too little, "
            "please report the model and the versions of torch and of the format's packages"
        ) from error


def _prove(conversion: Conversion, file: Backend, pictures: Sequence[Path], dataset: Dataset | None) -> GateReport:
    """Compare a file with its checkpoint; one for any size also at another size, on a few pictures."""
    detector, metadata = conversion.detector, dataclasses.replace(conversion.metadata, outputs="logits")
    gate = compare(TorchBackend(detector, metadata), file, pictures, dataset)
    if conversion.is_dynamic:
        height, width = metadata.input_size
        larger = dataclasses.replace(metadata, input_size=(height + 32, width + 64))
        try:
            other = compare(TorchBackend(detector, larger), file, pictures[:OTHER_SIZE_PICTURES])
        except ModelFileError as error:
            raise ExportError(f"the file does not take pictures of any size: at {larger.input_size} {error}") from error
        gate = gate.with_larger(other)
    return gate


@contextlib.contextmanager
def _proving_folder(output: Path) -> Iterator[Path]:
    """A folder beside the output for files that are not proven yet; gone in any case afterwards.

    Raises:
        ExportError: There is no writing there, or no room.
    """
    folder = output.parent / f".{output.name}.{os.getpid()}.unproven"
    try:
        folder.mkdir(parents=True)
        yield folder
    except OSError as error:
        raise ExportError(
            f"{output}: cannot be written ({error.strerror or error}); nothing was kept. Make room, or choose another "
            "--output"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move_all(folder: Path, target: Path) -> tuple[Path, ...]:
    """The sidecar last, so that it never vouches for files that are not there yet. An older model gives way."""
    files = sorted(folder.iterdir(), key=lambda file: (file.suffix == ".json", file.name))
    for file in files:
        if file.is_dir() and (target / file.name).is_dir():  # a package, which the system does not replace
            (target / file.name).rename(folder / f"old_{file.name}")
        os.replace(file, target / file.name)
    return tuple(target / file.name for file in files)


def _num_bytes(path: Path) -> int:
    """Of a file, or of all within a package."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _bundled_pictures() -> list[Path]:
    return sorted(BUNDLED_PICTURES.glob("*.jpg"))
