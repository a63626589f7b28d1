"""Files of `jnas bench` as a table and a page: time, compilation, memory, and distance from the machine's ceilings."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jnas.files import atomic_write
from jnas.report.measurements import Benchmarks, Measured, read_benchmarks
from jnas.report.page import document
from jnas.report.plots import Chart, figures
from jnas.report.reading import dotted
from jnas.report.rooflines import bar_chart, roofline_chart
from jnas.report.tables import MISSING, Table, as_html, cards, escaped, halves, number, significant, warning

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
    moved = (
        f"{case.label} ({case.file}) moves data between chips other than by sums: with replicated weights and a split "
        "batch that means activations."
        for case in cases
        if not case.record.get("reductions_only", True)
    )
    return (
        tables
        + _failures(cases)
        + "".join(map(warning, moved))
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


_GIGA = 1e9
_SHAPE = ("space", "data", "shrink", "channels", "depth", "batch_size", "estimator", "scheme", "momentum", "edges")


def benchmark_table(paths: Sequence[str | Path]) -> Table:
    """List the measurements of some files; with several, each case's times stand below each other.

    Args:
      paths: files of `jnas bench`.

    Returns:
      The table: seconds, images a second, MB of 10^6 bytes, GFLOP/s of 10^9 operations, and the share of the time
      that the machine's ceilings allow. Of files that hold predictions only, those.

    Raises:
      UserError: if a file cannot be read, or holds no case.
    """
    found = read_benchmarks(paths)
    return _table(found) if found.cases else prediction_table(found.predictions)


def write_benchmarks(paths: Sequence[str | Path]) -> Path:
    """Write the page of some files of `jnas bench` beside the first of them, as `FILE.html`.

    Args:
      paths: the files.

    Returns:
      The path of the page.

    Raises:
      UserError: if a file cannot be read, holds no case, or the page cannot be written.
    """
    page = Path(paths[0]).with_suffix(".html")
    atomic_write(page, render_benchmarks(read_benchmarks(paths)))
    return page


def render_benchmarks(found: Benchmarks) -> str:
    """Return the page as HTML text; the same measurements give the same text."""
    good = [case for case in found.cases if not case.failed]
    parts = [
        ("summary", "Summary", lambda: _cards(found)),
        ("cases", "Measurements", lambda: _tables(found) + _failures(found.cases) if found.cases else ""),
        ("charts", "Charts", lambda: figures(_charts(found, good)) if good else ""),
        ("machine", "Machine", lambda: _machine(found) if found.cases else ""),
        ("predictions", "Predictions", lambda: prediction_section(found.predictions)),
        ("predicted", "Charts of predictions", lambda: figures(prediction_charts(found.predictions))),
    ]
    return document(
        parts,
        title="Benchmark of compiled steps" if found.cases else "Predicted steps on accelerators",
        subtitle=_subtitle(found),
        footer=f"Written by jnas from {', '.join(found.files)}.",
    )


def _cards(found: Benchmarks) -> str:
    """Of every program the fastest and the slowest case, and what later files take of the time of the first."""
    every = found.cases or found.predictions
    timed = sorted((case for case in every if "step_s" in case.record), key=lambda case: case.record["step_s"])
    shown = []
    for what in dict.fromkeys(case.record.get("what") for case in timed):
        these = [case for case in timed if case.record.get("what") == what]
        for word, case in zip(("fastest", "slowest"), (these[0], *these[1:][-1:]), strict=False):
            seconds = case.record["step_s"]
            time = f"{significant(seconds)} s" if seconds >= 1 else f"{significant(seconds, 1e3)} ms"
            shown.append((time, f"{word}: " * bool(these[1:]) + _named(found, case)))
    first, *others = ({case.label: case.record["step_s"] for case in timed if case.file == f} for f in found.files)
    for file, times in zip(found.files[1:], others, strict=True):
        if logs := [math.log(times[label] / first[label]) for label in times if label in first]:
            mean, over = math.exp(sum(logs) / len(logs)), f"{len(logs)} case{'s' * (len(logs) > 1)}"
            shown.append((f"× {significant(mean)}", f"time of {file} over {found.files[0]}, geometric mean of {over}"))
    if failed := sum(case.failed for case in every):
        shown.append((f"{failed} of {len(every)}", "failed"))
    return cards(shown)


def _named(found: Benchmarks, case: Measured) -> str:
    return f"{case.label} · {case.file}" if found.cases and len(found.files) > 1 else case.label


def _charts(found: Benchmarks, cases: list[Measured]) -> list:
    many, labels = len(found.files) > 1, [_named(found, case) for case in cases]
    groups = [found.files.index(case.file) for case in cases]
    values = lambda name, scale=1.0: [_scaled(case.record.get(name), scale) for case in cases]
    return [
        bar_chart("Time of a step", "seconds, median; whiskers: interquartile range", labels, groups,
                  {"step": values("step_s")}, spread=values("step_iqr_s")),
        bar_chart("Compilation", "seconds, tracing and lowering not included", labels, groups,
                  {"empty cache": values("compile_cold_s"), "filled cache": values("compile_warm_s")}),
        bar_chart("Memory", "10⁶ bytes", labels, groups,
                  {"peak": [_scaled(_peak(case.record), 1e-6) for case in cases],
                   "temporary arrays": values("temp_bytes", 1e-6)}),
        *roofline_chart(
            labels, groups, values("intensity"), values("flops_per_s", 1 / _GIGA),
            [(name if many else "", r["devices"], r["dtype"], r["flops_per_s"] / _GIGA, r["bytes_per_s"] / _GIGA)
             for name, r in found.ceilings],
        ),
    ]  # fmt: skip


def _table(found: Benchmarks) -> Table:
    many = len(found.files) > 1
    columns = (
        "case", *(("file",) if many else ()), "step [s]", "IQR [s]", *(("time / first file's",) if many else ()),
        "images/s", "compile, cold [s]", "warm [s]", "peak memory [MB]", "temporary [MB]", "GFLOP", "GFLOP/s",
        "share of roofline [%]",
    )  # fmt: skip
    firsts: dict[str, float] = {}
    rows = []
    for case in found.cases:
        get = case.record.get
        if not case.failed:
            firsts.setdefault(case.label, case.record["step_s"])
        ratio = None if case.failed else case.record["step_s"] / firsts[case.label]
        rows.append((
            case.label,
            *((case.file,) if many else ()),
            "failed" if case.failed else significant(get("step_s")),
            significant(get("step_iqr_s")),
            *((number(ratio, 1, 2),) if many else ()),
            significant(get("images_per_s")),
            number(get("compile_cold_s"), 1, 1),
            number(get("compile_warm_s"), 1, 1),
            number(_peak(case.record), 1e-6, 0),
            number(get("temp_bytes"), 1e-6, 1),
            significant(get("flops"), 1 / _GIGA),
            significant(get("flops_per_s"), 1 / _GIGA),
            significant(get("roofline"), 100),
        ))  # fmt: skip
    return Table("Compiled steps", columns, tuple(rows))


def _tables(found: Benchmarks) -> str:
    named, titles = 1 + (len(found.files) > 1), ("Time", "Memory and arithmetic")
    every = [dict(dotted(case.record.get("settings") or {})) for case in found.cases]
    known = {name: {str(one.get(name)) for one in every} for name in _SHAPE}
    shared = ", ".join(
        f"{name} {values.pop()}" for name, values in known.items() if len(values) == 1 and "None" not in values
    )
    said = f"<p>All cases: {escaped(shared)}.</p>" if shared else ""
    return said + halves(_table(found), named, "peak memory [MB]", titles)


def _failures(cases: Sequence[Measured]) -> str:
    failed = (case for case in cases if case.failed)
    return "".join(warning(f"{case.label} ({case.file}) failed: {case.record['error']}.") for case in failed)


def _machine(found: Benchmarks) -> str:
    rows = tuple(
        (f"{name}: {r['devices']} device(s), {r['dtype']}", number(r["flops_per_s"], 1 / _GIGA, 1),
         number(r["bytes_per_s"], 1 / _GIGA, 1))
        for name, r in found.ceilings
    )  # fmt: skip
    words = (
        "Operations are counted on the program as written (products, convolutions and pooling, loops times their "
        "trips) and bytes as if everything elementwise were fused, so the share of the roofline is a lower bound of "
        "how busy the machine is."
    )
    table = Table("Ceilings, measured", ("machine", "matrix product [GFLOP/s]", "copy [GB/s]"), rows)
    return f"<p>{words}</p>" + (as_html(table) if rows else "")


def _subtitle(found: Benchmarks) -> str:
    facts = [case.record["environment"] for case in found.cases if "environment" in case.record]
    said = dict.fromkeys(
        f"{e.get('device')} ({e.get('platform')}), {e.get('cpu_threads')} CPU thread(s), jax {e.get('jax')}"
        for e in facts
    )
    if not found.cases:
        return "compiled ahead of time; nothing was run"
    return "; ".join(said) or "nothing was measured"


def _peak(record: dict[str, Any]) -> Any:
    """Of the device where it keeps count, else of the process."""
    return record.get("device_peak_bytes") or record.get("peak_bytes")


def _scaled(value: Any, scale: float) -> float | None:
    return value * scale if isinstance(value, int | float) else None
