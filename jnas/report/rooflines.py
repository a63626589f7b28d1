"""Charts of benchmarks: bars that start at 0, and achieved arithmetic below the ceilings of the machine."""

from collections.abc import Mapping, Sequence

import numpy as np

from jnas.report.plots import COLOURS, INK, QUIET, Chart, axes_of, to_svg

Values = Sequence[float | None]


def bar_chart(
    title: str,
    xlabel: str,
    labels: Sequence[str],
    groups: Sequence[int],
    series: Mapping[str, Values],
    *,
    spread: Values | None = None,
) -> Chart:
    """Draw a horizontal bar for each case, or two below each other where there are two series.

    Args:
      title: what is shown.
      xlabel: what is measured, with its unit.
      labels: of the cases.
      groups: for each case the number of its file, which gives the colour.
      series: name -> one value a case; the second series is drawn pale.
      spread: widths of the whiskers on the first series.

    Returns:
      The chart.
    """
    from matplotlib.patches import Patch

    rows = np.arange(len(labels))
    height = 0.7 / len(series)
    with axes_of(1.3 + 0.34 * len(labels) * len(series) ** 0.5) as axes:
        for number, (name, values) in enumerate(series.items()):
            at = rows + (number - (len(series) - 1) / 2) * height
            lengths = [value or 0.0 for value in values]
            colours = [COLOURS[group % len(COLOURS)] for group in groups]
            axes.barh(at, lengths, height, color=colours, alpha=1.0 if number == 0 else 0.4, label=name)
            if number == 0 and spread is not None:
                half = [0.5 * (value or 0.0) for value in spread]
                axes.errorbar(lengths, at, xerr=half, fmt="none", ecolor=INK, capsize=2, linewidth=1.0)
            over = spread if number == 0 and spread is not None else [0.0] * len(values)
            for place, value, whisker in zip(at, values, over, strict=True):
                if value is not None:
                    end = value + 0.5 * (whisker or 0.0)
                    axes.annotate(f" {_short(value)}", (end, place), va="center", fontsize=7.5, color=INK,
                                  xytext=(4, 0), textcoords="offset points")  # fmt: skip
        axes.set_yticks(rows, labels, fontsize=8)
        axes.invert_yaxis()
        axes.set(title=title, xlabel=xlabel)
        axes.set_xlim(0, 1.15 * max([v or 0.0 for values in series.values() for v in values] or [0.0]) or 1.0)
        axes.grid(axis="y", visible=False)
        if len(series) > 1:
            shade = QUIET if len(set(groups)) > 1 else COLOURS[groups[0] % len(COLOURS)]
            shades = [Patch(color=shade, alpha=1.0 if i == 0 else 0.4) for i in range(len(series))]
            axes.figure.legend(shades, list(series), loc="outside lower center", ncols=len(series))
        said = "; ".join(
            f"{label}: {', '.join(f'{name} {_short(x)}' for name, v in series.items() if (x := v[i]) is not None)}"
            for i, label in enumerate(labels)
        )
        return Chart(title, f"{title} in {xlabel}. {said}.", to_svg(axes.figure))


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def roofline_chart(
    labels: Sequence[str],
    groups: Sequence[int],
    intensity: Values,
    achieved: Values,
    ceilings: Sequence[tuple[str, int, str, float, float]],
) -> list[Chart]:
    """Draw achieved arithmetic against arithmetic intensity, below min(matrix product, intensity x copy).

    Args:
      labels: of the cases.
      groups: for each case the number of its file, which gives the colour.
      intensity: FLOP a byte.
      achieved: GFLOP/s.
      ceilings: `(file, devices, dtype, GFLOP/s, GB/s)` of each machine.

    Returns:
      The chart, or nothing where no case has both numbers.

    Reference: S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model for multicore
    architectures", Communications of the ACM 52(4), 2009.
    """
    points = [
        (label, group, x, y)
        for label, group, x, y in zip(labels, groups, intensity, achieved, strict=True)
        if x and y and x > 0 and y > 0
    ]
    if not points:
        return []
    title = "Roofline"
    xs = [x for _, _, x, _ in points]
    corners = [flops / max(copied, 1e-30) for *_, flops, copied in ceilings]
    low, high = min([*xs, *corners]) / 4, max([*xs, *corners]) * 4
    with axes_of(3.9 + 0.2 * len(points)) as axes:
        for number, (file, count, dtype, flops, copied) in enumerate(ceilings):
            x = np.geomspace(low, high, 200)
            name = ", ".join(filter(None, (file, f"{count} device{'s' * (count > 1)}", dtype)))
            axes.plot(x, np.minimum(flops, x * copied), color=INK, linestyle=("-", "--", ":", "-.")[number % 4],
                      linewidth=1.3, label=f"ceilings: {name} ({flops:.3g} GFLOP/s, {copied:.3g} GB/s)")  # fmt: skip
        for number, (label, group, x, y) in enumerate(points):
            axes.plot(x, y, "osD^vP*X"[number % 8], color=COLOURS[group % len(COLOURS)], markersize=6.5,
                      markeredgecolor="white", label=label, linestyle="none")  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set(title=title, xlabel="arithmetic intensity [FLOP/byte]", ylabel="achieved [GFLOP/s]")
        axes.figure.legend(loc="outside lower left", fontsize=7.5)
        said = "; ".join(f"{label}: {y:.3g} GFLOP/s at {x:.3g} FLOP/byte" for label, _, x, y in points)
        tops = "; ".join(f"{flops:.3g} GFLOP/s and {copied:.3g} GB/s" for *_, flops, copied in ceilings)
        return [Chart(title, f"{title}. {said}. Ceilings: {tops}.", to_svg(axes.figure))]
