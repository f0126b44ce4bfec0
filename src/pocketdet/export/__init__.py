"""From a checkpoint to a file for a device, through one gate."""

from pocketdet.export.convert import EXPORTERS, ExportReport, export
from pocketdet.export.gate import GateReport
from pocketdet.export.onnx_file import write_onnx

__all__ = ["EXPORTERS", "ExportReport", "GateReport", "export", "write_onnx"]
