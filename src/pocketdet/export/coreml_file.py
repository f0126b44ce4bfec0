"""A detector as a Core ML package, ``model.mlpackage``, for Apple's devices; only these can run it."""

import contextlib
import io
import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pocketdet.core.metadata import ModelMetadata
from pocketdet.errors import ExportError
from pocketdet.export.bytes_to_logits import PlanesToLogits
from pocketdet.export.conversion import Conversion
from pocketdet.runtime.backends import INPUT_NAME, METADATA_KEY, output_names
from pocketdet.runtime.backends.backend import expected_channels

CLASSES_KEY = "classes"  # a JSON list, for programs that want no more of the metadata
DESCRIPTION = "YOLOv4 on MobileNet: raw logits of {levels}, decoded as pocketdet's docs/outputs.md says"


def write(conversion: Conversion, path: Path) -> None:
    """Write a detector as an ML program (iOS 15, macOS 12 and newer).

    The input ``images`` is an RGB picture of the network's size, as Vision and ``CVPixelBuffer`` have it; the outputs
    are float32 raw logits ``(1, C, h, w)`` by the names of ``output_names``.

    Args:
        conversion: What to write; "half" stores and computes in float16.
        path: The package, a folder; it does not exist yet, but the folder around it does.
    """
    with _quiet_converter():
        model = _convert(conversion)
        _describe(model, conversion.metadata)
        model.save(str(path))


def update_metadata(path: Path, metadata: ModelMetadata) -> None:
    """Put other metadata into a package."""
    with _quiet_converter():
        import coremltools

        model = coremltools.models.MLModel(str(path), skip_model_load=True)
        _describe(model, metadata)
        renewed = path.with_name(f"renewed_{path.name}")
        model.save(str(renewed))  # not over the package that it copies from
        shutil.rmtree(path)
        renewed.rename(path)


def check_structure(path: Path, metadata: ModelMetadata) -> None:
    """Read a package back and compare what it says of itself with what it should be, as nothing here can run it.

    Raises:
        ExportError: Input, outputs or metadata are others.
    """
    with _quiet_converter():
        import coremltools

        spec = coremltools.models.MLModel(str(path), skip_model_load=True).get_spec()
    height, width = metadata.input_size
    cells = [(height // stride, width // stride) for stride in metadata.strides for _ in range(3)]
    [picture], outputs, noted = spec.description.input, spec.description.output, spec.description.metadata.userDefined
    image = picture.type.imageType
    colours = image.ColorSpace.Value("RGB")
    facts = {
        "input": (
            (picture.name, image.height, image.width, image.colorSpace),
            (INPUT_NAME, height, width, colours),
        ),
        "outputs": (
            {
                output.name: (output.type.multiArrayType.dataType, *output.type.multiArrayType.shape)
                for output in outputs
            },
            {
                name: (coremltools.proto.FeatureTypes_pb2.ArrayFeatureType.FLOAT32, 1, channels, *size)
                for name, channels, size in zip(
                    output_names(len(metadata.strides)), expected_channels(metadata), cells, strict=True
                )
            },
        ),
        "metadata": (noted[METADATA_KEY], metadata.to_json()),
        "classes": (noted[CLASSES_KEY], json.dumps(metadata.class_names)),
    }
    for what, (found, expected) in facts.items():
        if found != expected:
            raise ExportError(
                f"{path.name}: the {what} of the package are {found}, not {expected}; no file was kept; please report "
                "the model and the versions of torch and coremltools"
            )


def _convert(conversion: Conversion) -> Any:
    import coremltools

    half = conversion.precision == "half"
    shape = (1, 3, *conversion.metadata.input_size)
    program = torch.export.export(PlanesToLogits(conversion.detector), (torch.zeros(shape),)).run_decompositions({})
    return coremltools.convert(
        program,
        inputs=[coremltools.ImageType(INPUT_NAME, shape, color_layout=coremltools.colorlayout.RGB)],
        outputs=[coremltools.TensorType(name) for name in output_names(len(conversion.metadata.strides))],
        compute_precision=coremltools.precision.FLOAT16 if half else coremltools.precision.FLOAT32,
        minimum_deployment_target=coremltools.target.iOS15,
        skip_model_load=True,
    )


def _describe(model: Any, metadata: ModelMetadata) -> None:
    model.short_description = DESCRIPTION.format(levels=", ".join(f"stride {stride}" for stride in metadata.strides))
    model.license, model.version = metadata.licence, metadata.pocketdet_version
    model.user_defined_metadata[METADATA_KEY] = metadata.to_json()
    model.user_defined_metadata[CLASSES_KEY] = json.dumps(metadata.class_names)


@contextlib.contextmanager
def _quiet_converter() -> Iterator[None]:
    """Without bars of progress and the notes that coremltools cannot run a model here."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
