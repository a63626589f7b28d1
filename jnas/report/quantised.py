"""What a joint search found: accuracy against size, each unit's method, the searches' progress, and sensitivities."""

from typing import Any

import numpy as np

from jnas.files.reading import json_of
from jnas.report.plots import Chart, axes_of, draw_matrix, figures, to_svg
from jnas.report.reading import Run
from jnas.report.tables import Table, as_html
from jnas.report.trials import front_chart
from jnas.spaces.policy import method_of

SENSITIVITY = "sensitivity.json"  # in the run folder
SEARCHED = {"joint": "found together", "eight": "8 bits everywhere", "then": "architecture, then policy"}
NAMES = SEARCHED | {f"front-{number}": f"of its front, {number}" for number in range(1, 10)}


def quantised_section(run: Run) -> str:
    """The part of the page, from `result.json` and `sensitivity.json`.

    Args:
      run: from `read_run`.

    Returns:
      HTML; empty where the run is of another kind.
    """
    parts, charts = [], []
    if found := run.result.get("quantised"):
        parts = [as_html(networks_table(found)), as_html(policy_table(found))]
        widths = [widths_chart(one["policy"], str(NAMES.get(name, name))) for name, one in found.items()]
        charts = [accuracy_and_size(found), *widths, progress_chart(found), *front_charts(found["joint"])]
    stored = json_of(run.folder / SENSITIVITY) if (run.folder / SENSITIVITY).exists() else {}
    for name, title in (("methods", "Units"), ("operators", "Operators")):
        if name in stored:
            charts += [heat_map(stored[name], title, metric) for metric in stored[name]["losses"]]
    return "\n".join([*parts, figures(charts)]) if parts or charts else ""


def words(found: dict[str, dict[str, Any]]) -> list[str]:
    """Whether the network found together is at least as good in accuracy and size as each other one, in sentences."""
    joint, sentences = found.get("joint", {}), []
    for name, other in found.items():
        if name == "joint" or name not in SEARCHED:  # of its own front
            continue
        better = joint["test_accuracy"] >= other["test_accuracy"], joint["size"] <= other["size"]
        equal = (joint["test_accuracy"], joint["size"]) == (other["test_accuracy"], other["size"])
        verdict = "is equal to" if equal else "dominates" if all(better) else "does not dominate"
        sentences.append(
            f"What was {NAMES['joint']} {verdict} “{NAMES.get(name, name)}” in this run: accuracy "
            f"{100 * joint['test_accuracy']:.2f} % against {100 * other['test_accuracy']:.2f} %, size "
            f"{joint['size'] / 1e3:.2f} kB against {other['size'] / 1e3:.2f} kB."
        )
    return sentences


def networks_table(found: dict[str, dict[str, Any]]) -> Table:
    """One row a network."""
    rows = []
    for name, one in found.items():
        whole = one.get("integer", {})
        rows.append((
            NAMES.get(name, name), f"{100 * one['test_accuracy']:.2f}",
            f"{100 * whole['test_accuracy']:.2f}" if "test_accuracy" in whole else whole.get("refused", "–"),
            f"{whole['latency']:.2f}" if "latency" in whole else "–",
            f"{one['size'] / 1e3:.2f}", f"{one['compute'] / 1e6:.1f}", f"{one['reward']:.4f}",
            str(one["evaluations"]) + (" (converged)" if one.get("converged") else ""), str(one["genotype"]),
        ))  # fmt: skip
    head = (
        "network", "test accuracy, %", "in integers, %", "ms an image in integers", "size, kB", "10⁶ bit operations",
        "reward in the search", "evaluations", "genotype",
    )  # fmt: skip
    return Table("Trained from scratch with quantisation, at equal cost of search", head, tuple(rows))


def policy_table(found: dict[str, dict[str, Any]]) -> Table:
    """The method of every unit that has weights."""
    units = list(dict.fromkeys(unit for one in found.values() for unit in one["policy"]))
    rows = tuple((unit, *(one["policy"].get(unit, "–") for one in found.values())) for unit in units)
    head = ("unit", *(NAMES.get(name, name) for name in found))
    return Table("Methods: wWaA is W bits for weights and A for activations; – is without weights", head, rows)


def accuracy_and_size(found: dict[str, dict[str, Any]]) -> Chart:
    """Test accuracy over size, one point a network."""
    title = "Accuracy and size"
    with axes_of(3.9) as axes:
        for name, one in found.items():
            point = (one["size"] / 1e3, 100 * one["test_accuracy"])
            axes.plot(*point, "o", markersize=7, label=NAMES.get(name, name))
        axes.set(title=title, xlabel="size, kB", ylabel="test accuracy, %")
        axes.margins(0.2)
        axes.legend(loc="best")
        points = (
            f"{NAMES.get(n, n)} {one['size'] / 1e3:.2f} kB {100 * one['test_accuracy']:.2f} %"
            for n, one in found.items()
        )
        return Chart(title, f"{title}: {', '.join(points)}.", to_svg(axes.figure))


def widths_chart(policy: dict[str, str], name: str) -> Chart:
    """Bars, one a unit in the order of the network: bits of weights to the right, of activations to the left."""
    title = f"Bits of weights and activations: {name}"
    methods = {unit: method_of(method) for unit, method in policy.items()}
    with axes_of(1.2 + 0.22 * len(methods)) as axes:
        rows = range(len(methods))
        axes.barh(rows, [method.weight_bits for method in methods.values()])
        axes.barh(rows, [-method.activation_bits for method in methods.values()])
        axes.set_yticks(rows, list(methods), fontsize=7.5)
        axes.invert_yaxis()
        axes.xaxis.set_major_formatter(lambda bits, _: f"{abs(bits):g}")
        axes.set(title=title, xlabel="bits of activations (left) and weights (right)")
        said = ", ".join(f"{unit} {method}" for unit, method in policy.items())
        return Chart(title, f"{title}: {said}.", to_svg(axes.figure))


def progress_chart(found: dict[str, dict[str, Any]]) -> Chart:
    """The best reward so far, over evaluations, of the search that ended each network's."""
    title = "Best reward so far"
    searched = {name: one for name, one in found.items() if name in SEARCHED}
    with axes_of(3.9) as axes:
        for name, one in searched.items():
            offset = one["evaluations"] - len(one["curve"])
            axes.plot(offset + 1 + np.arange(len(one["curve"])), one["curve"], label=NAMES.get(name, name))
        axes.set(title=title, xlabel="evaluations", ylabel="reward")
        axes.legend(loc="lower right")
        ends = ", ".join(f"{NAMES.get(name, name)} {one['reward']:.4f}" for name, one in searched.items())
        return Chart(title, f"{title}, at the end: {ends}.", to_svg(axes.figure))


def front_charts(one: dict[str, Any]) -> list[Chart]:
    """Accuracy on the validation images against each cost that was minimised beside it, all evaluated candidates."""
    points = one.get("points", {"names": [], "values": []})
    values = np.array(points["values"], float)
    return [front_chart(values[:, [0, n]], name) for n, name in enumerate(points["names"]) if n]


def heat_map(stored: dict[str, Any], title: str, metric: str = "accuracy") -> Chart:
    """Sensitivities: units by methods, the number in each cell.

    Args:
      stored: `units`, `methods` and `losses`, for each metric [num_units, num_methods].
      title: what the units are.
      metric: which is drawn: "accuracy", lost, or a cost, grown.

    Returns:
      The chart.

    Raises:
      KeyError, ValueError: if `stored` is of another form.
    """
    units, methods = [str(unit) for unit in stored["units"]], [str(method) for method in stored["methods"]]
    values = 100 * np.asarray(stored["losses"][metric], float)
    title = f"{title}: {metric} {'lost' if metric == 'accuracy' else 'grown'} alone, %"
    if values.shape != (len(units), len(methods)) or not values.size:
        raise ValueError("no table of units by methods")
    with axes_of(1.2 + 0.32 * len(units), grid=False) as axes:
        most = max(float(np.abs(values).max()), 1e-9)
        image = draw_matrix(axes, values, most, 1, aspect="auto")
        axes.set_xticks(range(len(methods)), methods, fontsize=8)
        axes.set_yticks(range(len(units)), units, fontsize=7.5)
        axes.set_title(title)
        axes.figure.colorbar(image, ax=axes)
        row, column = np.unravel_index(np.argmax(values), values.shape)
        worst = f"most by {units[row]} under {methods[column]}, {values[row, column]:.1f} %"
        return Chart(title, f"{title}: {worst}.", to_svg(axes.figure))
