"""The report: one HTML page to look at, from what a run saved."""

from unlabel.report.page import report

__all__ = ["report"]
