"""One self-contained HTML page about a detector and how it came to be. Free of torch."""

from pocketdet.reports.report import Report, check_report_file, write_report

__all__ = ["Report", "check_report_file", "write_report"]
