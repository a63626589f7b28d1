"""Predictions of `jnas bench --topology` as a table and a part of the page: what a step takes at least, and why."""

from collections.abc import Sequence

from jnas.report.measurements import Measured
from jnas.report.plots import Chart
from jnas.report.rooflines import bar_chart
from jnas.report.tables import MISSING, Table, escaped, halves, significant, warning

ASSUMPTIONS = (
    "Each program was compiled by the accelerator's own compiler on a machine without one; nothing was run. A time is "
    "a lower bound: the longer of arithmetic (operations over the peak) and memory (bytes over the bandwidth of HBM), "
    "and then the collectives, one after another and hidden behind nothing: bytes over the links, and a microsecond a "
    "hop.",
    "The peak is that of large bfloat16 matrix products, and for float32 that of JAX's default precision (bfloat16 "
    "passes on TPUs). A matrix unit has 128 lanes and more: fewer channels leave it partly empty, and depthwise "
    "convolutions and pooling do not use it.",
    "Operations are counted on the program as written, bytes and collectives on the compiled one, with padding to the "
    "tiles of the device, loops times their trips. A loop that only the run ends, a solver's, counts with the mean "
    "number of trips that the settings lead to.",
    "The compiler's estimate is the sum of the cycles that it expects of each instruction, over the clock of the chip, "
    "without collectives. GPUs have no times: their kernels are chosen by trying them out.",
    "The batch of a chip is the same on every slice: efficiency is that of weak scaling, against a chip alone. "
    "Augmentation, the input pipeline and the host are left out.",
)


def prediction_table(cases: Sequence[Measured]) -> Table:
    """List predictions.

    Args:
      cases: of `Benchmarks.predictions`.

    Returns:
      The table: milliseconds, GB of 10^9 bytes and GFLOP of 10^9 operations of one chip.
    """
    columns = (
        "case", "chips", "arithmetic [ms]", "memory [ms]", "collectives [ms]", "step, at least [ms]", "bound",
        "efficiency [%]", "images/s", "compiler's estimate [ms]", "memory a chip [GB]", "of HBM [%]", "GFLOP",
        "GB moved", "all-reduces", "other collectives", "compile [s]",
    )  # fmt: skip
    return Table("Predicted steps", columns, tuple(_row(case) for case in cases))


def prediction_charts(cases: Sequence[Measured]) -> list[Chart]:
    """Draw the times and the memory of those predictions that have them."""
    timed, fitted = ([case for case in cases if name in case.record] for name in ("step_s", "memory_share"))
    values = lambda name: [1e3 * case.record[name] for case in timed]
    alone = [max(pair) for pair in zip(values("compute_s"), values("memory_s"), strict=True)]
    series = {"whole step": values("step_s"), "without collectives": alone}
    shares = {"of HBM": [100 * case.record["memory_share"] for case in fitted]}
    drawn = (
        ("Predicted time of a step", "milliseconds, at least", timed, series),
        ("Memory of a chip", "percent of its HBM", fitted, shares),
    )
    return [
        bar_chart(title, unit, [case.label for case in those], [0] * len(those), bars)
        for title, unit, those, bars in drawn
        if those
    ]


def prediction_section(cases: Sequence[Measured]) -> str:
    """HTML of the table in two parts, of what failed, and of what the figures rest on; empty without predictions."""
    if not cases:
        return ""
    titles = ("Time", "Memory, work and collectives")
    tables = halves(prediction_table(cases), 1, "memory a chip [GB]", titles)
    failures = (f"{case.label} ({case.file}) failed: {case.record['error']}." for case in cases if case.failed)
    moved = (
        f"{case.label} ({case.file}) moves data between chips other than by sums: with replicated weights and a split "
        "batch that means activations."
        for case in cases
        if not case.record.get("reductions_only", True)
    )
    return (
        tables
        + "".join(map(warning, (*failures, *moved)))
        + "".join(f"<p>{escaped(words)}</p>" for words in ASSUMPTIONS)
    )


def _row(case: Measured) -> tuple[str, ...]:
    record = case.record
    if case.failed:
        return (case.label, str(record["devices"]), *([MISSING] * 3), "failed", *([MISSING] * 11))
    shown = lambda name, scale=1.0: significant(record.get(name), scale)
    reduced = sum(c["count"] for c in record["collectives"] if c["kind"] == "all-reduce")
    others = ", ".join(f"{c['count']:,.0f} {c['kind']}" for c in record["collectives"] if c["kind"] != "all-reduce")
    return (
        case.label, str(record["devices"]), shown("compute_s", 1e3), shown("memory_s", 1e3),
        shown("interconnect_s", 1e3), shown("step_s", 1e3), record.get("bound", MISSING), shown("efficiency", 100),
        shown("images_per_s"), shown("compiler_s", 1e3), shown("memory_bytes", 1e-9), shown("memory_share", 100),
        shown("flops", 1e-9), shown("bytes", 1e-9), f"{reduced:,.0f}", others or "none", shown("compile_s"),
    )  # fmt: skip
