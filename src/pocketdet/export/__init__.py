"""From a checkpoint to a file for a device, through one gate."""

from pocketdet.export.calibration import Calibration
from pocketdet.export.conversion import Conversion, Precision
from pocketdet.export.convert import ExportReport, export
from pocketdet.export.gate import GateReport
from pocketdet.export.table import EXPORTERS

__all__ = ["EXPORTERS", "Calibration", "Conversion", "ExportReport", "GateReport", "Precision", "export"]
