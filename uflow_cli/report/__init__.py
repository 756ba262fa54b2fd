"""A report that a person opens: a folder with an HTML page and its pictures, without any need of a network."""

from uflow_cli.report.contents import Fact, Region, ReportImage, ReportSummary
from uflow_cli.report.evaluated import report_image, report_summary
from uflow_cli.report.writing import PAGE_NAME, ReportWriter, report_writer, write_report

__all__ = [
    "PAGE_NAME",
    "Fact",
    "Region",
    "ReportImage",
    "ReportSummary",
    "ReportWriter",
    "report_image",
    "report_summary",
    "report_writer",
    "write_report",
]
