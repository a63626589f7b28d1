"""The charts of a run: its search, the training of its networks, and their test accuracies."""

import itertools
from typing import NamedTuple

import numpy as np

from jnas.report.plots import COLOURS, FIRST, INK, QUIET, SECOND, Chart, Line, axes_of, line_chart, to_svg
from jnas.report.quantised import NAMES
from jnas.report.reading import Metrics, Run, found_results, random_results, series
from jnas.report.reference import RANDOM, reference_cells
from jnas.report.tables import accuracies, summarise


class _Spec(NamedTuple):
    """A chart of metrics that belong together."""

    title: str
    ylabel: str
    metrics: dict[str, str]  # name in the log -> label; drawn in the colours FIRST, SECOND
    scale: float = 1.0
    log: bool = False


_NATS, _PERCENT = "cross-entropy [nats]", "accuracy [%]"
_SEARCH = (
    _Spec("Loss", _NATS, {"inner_loss": "inner (training)", "outer_loss": "outer (validation)"}),
    _Spec("Loss", _NATS, {"loss": "training"}),
    _Spec("Accuracy", _PERCENT, {"accuracy": "training"}, scale=100),
    _Spec(
        "Accuracy", _PERCENT, {"inner_accuracy": "inner (training)", "outer_accuracy": "outer (validation)"}, scale=100
    ),
    _Spec(
        "Norms of the gradients",
        "Euclidean norm",
        {"weight_gradient_norm": "gradient of the weights", "hypergradient_norm": "hypergradient of alpha"},
        log=True,
    ),
    _Spec("Residual of the inverse Hessian", "|v − H p| / |v|", {"inverse_residual": "inverse residual"}, log=True),
    _Spec(
        "Residual of the linear system",
        "|(H + δ I) v − g| / |g|",
        {"adjoint_residual": "of this step's batches"},
        log=True,
    ),
    _Spec(
        "Largest eigenvalue and damping",
        "curvature",
        {"largest_eigenvalue": "largest", "damping": "damping δ"},
        log=True,
    ),
    _Spec(
        "Change between two points", "|D(k) − D(k−1)| / |D(k)|", {"weights_change": "weights", "alpha_change": "alpha"}
    ),
    _Spec("Residual of the Neumann series", "|v − H p| / |v|", {"neumann_residual": "Neumann residual"}, log=True),
    _Spec("Growth of the Neumann series", "|last term| / |first term|", {"neumann_growth": "growth"}, log=True),
    _Spec("Step size of the Neumann series", "step size η", {"neumann_step_size": "step size"}),
)
_TRAINING = (
    _Spec("Training loss", _NATS, {"loss": ""}),
    _Spec("Training accuracy", _PERCENT, {"accuracy": ""}, scale=100),
    _Spec("Test accuracy", _PERCENT, {"test_accuracy": ""}, scale=100),
)
_UNDRAWN = {"step", "time", "neumann_diverged"}  # the last is 0 or 1: the page says in words how often it was 1


def search_charts(search: Metrics) -> list[Chart]:
    """Draw every metric of a search: losses, accuracies, norms of the gradients, residuals of the inverse.

    Args:
      search: `Run.search`.

    Returns:
      One chart a quantity; the two levels share a chart. Metrics that a run lacks give none, those that are not known
      here get one each.
    """
    known = _UNDRAWN.union(*(spec.metrics for spec in _SEARCH))
    readable = {name: name.replace("_", " ") for name in sorted(search.keys() - known)}
    others = [_Spec(words.capitalize(), words, {name: words}) for name, words in readable.items()]
    charts = []
    for spec in (*_SEARCH, *others):
        lines = []
        for (name, label), colour in zip(spec.metrics.items(), (FIRST, SECOND), strict=False):
            steps, values = series(search, name)
            lines.append(Line(label, steps, spec.scale * values, colour))
        charts += _chart(spec, lines, "search step")
    return charts


def training_charts(run: Run) -> list[Chart]:
    """Draw the training of the found networks (bold, each in a look of its own) and of the random ones (thin).

    Args:
      run: from `read_run`.

    Returns:
      Charts of the training loss, of the accuracy on the training batches and of the test accuracy, as far as the run
      logs them.
    """
    charts, looks = [], itertools.cycle(itertools.product(((), (4, 1.5), (1, 1)), COLOURS))
    own = {name: ((), QUIET) if name.startswith("random") else next(looks) for name in run.train}
    for spec in _TRAINING:
        lines, first_random = [], True
        for name, trained in run.train.items():
            steps, values = series(trained.metrics, *spec.metrics)
            random = name.startswith("random")
            label = NAMES.get(name, name) if not random else "random cells" if first_random else ""
            first_random = first_random and not random
            dash, colour = own[name]
            lines.append(Line(label, steps, spec.scale * values, colour, 0.8 if random else 1.8, dash))
        lines.sort(key=lambda line: line.width)  # the found network is drawn over the random ones
        charts += _chart(spec, lines, "training step")
    return charts


def _chart(spec: _Spec, lines: list[Line], xlabel: str) -> list[Chart]:
    if not any(len(line.x) for line in lines):
        return []
    return [line_chart(lines, title=spec.title, xlabel=xlabel, ylabel=spec.ylabel, log=spec.log)]


def accuracy_chart(run: Run) -> Chart | None:
    """Draw the test accuracy of the found network beside that of every random cell, with the mean of each.

    The axis does not start at 0, so every network is a dot and none a bar: the length of a bar would mislead.

    Args:
      run: from `read_run`.

    Returns:
      The chart; None while there are not two networks to compare.
    """
    groups = [
        (name, 100 * np.asarray(values), colour)
        for name, values, colour in (
            ("found", accuracies(found_results(run)), FIRST),
            ("random", accuracies([*random_results(run), *reference_cells(run.result, RANDOM)]), QUIET),
        )
        if values
    ]
    if sum(len(values) for _, values, _ in groups) < 2:
        return None
    title, words = "Test accuracy of found and random cells", []
    with axes_of() as axes:
        for row, (name, values, colour) in enumerate(groups):
            mean, std, count = summarise(values)
            jitter = 0.3 * ((np.arange(count) * 0.618) % 1 - 0.5) if count > 1 else np.zeros(1)
            if count > 1:
                axes.errorbar(mean, row, xerr=std, color=INK, capsize=4, linewidth=1.4, zorder=1)
                axes.plot([mean, mean], [row - 0.28, row + 0.28], color=INK, linewidth=2, zorder=3)
            size, mark = (80, "D") if name == "found" else (42, "o")
            axes.scatter(values, row + jitter, s=size, marker=mark, color=colour, edgecolor="white", zorder=2)
            text = f"{mean:.2f}" if count == 1 else f"{mean:.2f} ± {std:.2f} (n = {count})"
            axes.annotate(text, (mean, row - 0.34), ha="center", va="bottom", color=INK)
            words.append(f"{name} {text} %")
        axes.set(title=title, xlabel="test accuracy [%]; bar: mean, whiskers: one standard deviation")
        axes.set_yticks(range(len(groups)), [f"{name} cell{'s' * (len(values) > 1)}" for name, values, _ in groups])
        axes.set_ylim(len(groups) - 0.5, -0.75)
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.22)
        return Chart(title, f"{title}: {'; '.join(words)}.", to_svg(axes.figure))
