"""Reads what runs and benchmarks write, and draws it: tables, curves, cells, and one page that holds them all."""

from jnas.report.agreement import agreement, agreement_words
from jnas.report.at_work import AT_WORK
from jnas.report.benchmarks import benchmark_table, write_benchmarks
from jnas.report.drawing import draw_cell
from jnas.report.next_steps import next_steps
from jnas.report.page import sketch, write_report
from jnas.report.pictures import boxes_picture, row_picture
from jnas.report.reading import Run, Trained, read_run
from jnas.report.reference import reference_words
from jnas.report.tables import Table, as_html, as_markdown, as_text, trained_table
from jnas.report.verdict import compare

__all__ = [
    "AT_WORK",
    "Run",
    "Table",
    "Trained",
    "agreement",
    "agreement_words",
    "as_html",
    "as_markdown",
    "as_text",
    "benchmark_table",
    "boxes_picture",
    "compare",
    "draw_cell",
    "next_steps",
    "read_run",
    "reference_words",
    "row_picture",
    "sketch",
    "trained_table",
    "write_benchmarks",
    "write_report",
]
