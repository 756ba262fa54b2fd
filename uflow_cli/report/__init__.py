"""A report that a person opens: a folder with an HTML page and its pictures, without any need of a network."""

from uflow_cli.report.contents import Drawing, Fact, Region, ReportImage, ReportSummary
from uflow_cli.report.detected import DetectionPage, report_stored
from uflow_cli.report.evaluated import report_image, report_summary
from uflow_cli.report.page import PAGE_NAME, ReportWriter, report_writer, write_report
from uflow_cli.report.tables import (
    EVALUATION_NAME,
    FIGURES,
    OWN_FIGURES,
    TableRow,
    table_csv,
    table_markdown,
    table_rows,
    write_evaluation,
)

__all__ = [
    "EVALUATION_NAME",
    "FIGURES",
    "OWN_FIGURES",
    "PAGE_NAME",
    "DetectionPage",
    "Drawing",
    "Fact",
    "Region",
    "ReportImage",
    "ReportSummary",
    "ReportWriter",
    "TableRow",
    "report_image",
    "report_stored",
    "report_summary",
    "report_writer",
    "table_csv",
    "table_markdown",
    "table_rows",
    "write_evaluation",
    "write_report",
]
