"""The section of a search over generated spaces: the spaces tried, what the model expected, the networks inside."""

from pathlib import Path
from typing import Any

import numpy as np

from jnas.files.reading import json_of
from jnas.files.schemas import Level
from jnas.report.plots import FIRST, INK, QUIET, SECOND, Chart, axes_of, style, to_svg
from jnas.report.tables import Table

_SHOWN = 20  # rows of the table of spaces


def read_levels(folder: Path) -> dict[str, dict[str, Any]]:
    """What the two levels of a run found.

    Args:
      folder: of the run.

    Returns:
      `found.json` of "spaces" and "networks", without the levels that are not finished.
    """
    paths = {name: folder / name / "found.json" for name in ("spaces", "networks")}
    return {name: json_of(path, Level) for name, path in paths.items() if path.exists()}


def level_charts(levels: dict[str, dict[str, Any]]) -> list[Chart]:
    """For each level the scores in the order of the trials, and what the model expected of its incumbent after each.

    Args:
      levels: from `read_levels`.

    Returns:
      A chart a level, and one of how far the model moved.
    """
    titles = {"spaces": "Spaces tried", "networks": "Networks tried in the chosen space"}
    charts = [_curve(titles[name], level) for name, level in levels.items() if level["trials"]]
    moves = {name: _moves(level) for name, level in levels.items()}
    return charts + ([_movement(moves)] if any(steps.size for steps in moves.values()) else [])


def space_table(levels: dict[str, dict[str, Any]]) -> Table | None:
    """The spaces tried, the best first; None without any."""
    level = levels.get("spaces")
    if level is None or not level["trials"]:
        return None
    trials = sorted(level["trials"], key=lambda trial: -trial["score"])
    rows = tuple(
        (
            f"{trial['strategy']}{' *' if trial['space'] == level.get('space') else ''}",
            _short(trial["space"]),
            f"{trial['score']:.4f}",
            ", ".join(f"{score:.3f}" for score in trial["scores"]),
        )
        for trial in trials[:_SHOWN]
    )
    title = f"{len(trials)} of {level.get('members', '–')} spaces tried, the best first; * the chosen one"
    return Table(title, ("strategy", "space", "score", "its networks"), rows)


def words(levels: dict[str, dict[str, Any]]) -> list[str]:
    """How the two levels ended, in sentences."""
    said = []
    ends = {"True": "had converged", "None": "had nothing else within the limits"}
    if level := levels.get("spaces"):
        how = ends.get(str(level.get("converged", False)), "had spent its budget")
        seen = "" if level.get("evaluated") else ", which it had not tried"
        said.append(
            f"The model of spaces {how} after {len(level['trials'])}. It chose "
            f"{_short(level.get('space', '–'))}{seen}: expected score {level['mean']:.4f} ± {level['std']:.4f}."
        )
    if level := levels.get("networks"):
        how = ends.get(str(level.get("converged", False)), "had spent its budget")
        said.append(
            f"The model of networks in it {how} after {len(level['trials'])}, {level.get('known', 0)} of them known "
            "from the search over spaces."
        )
        if costs := level.get("costs"):
            most = {name: f" of at most {limit:g}" for name, limit in level.get("limits", {}).items()}
            shown = ", ".join(f"{name} {cost:.4g}{most.get(name, '')}" for name, cost in costs.items())
            said.append(f"The network that it found costs {shown}.")
    return said


def chain_chart(genotype: str) -> Chart | None:
    """Draw a chain from the image at the left to the classifier at the right; None for another genotype.

    Args:
      genotype: such as `chain:nor_conv_3x3+skip_connect`.

    Returns:
      The drawing. A thick bar is a convolution of stride 2, which doubles the channels.
    """
    if not genotype.startswith("chain:"):
        return None
    from matplotlib.patches import FancyBboxPatch

    layers = genotype.removeprefix("chain:").split("+")
    with axes_of(2.4, width=min(11.0, 1.6 + 0.8 * len(layers)), grid=False) as axes:
        axes.axis("off")
        axes.set(xlim=(-1.4, len(layers) + 0.4), ylim=(-1.15, 1.15))
        axes.annotate("", (len(layers), 0), (-1, 0), arrowprops={"arrowstyle": "->", "color": QUIET}, zorder=0)
        axes.text(-1.05, 0, "image", ha="right", va="center", fontsize=8)
        axes.text(len(layers) + 0.05, 0, "classes", ha="left", va="center", fontsize=8)
        for at, word in enumerate(layers):
            box = FancyBboxPatch(
                (at - 0.3, -0.85), 0.6, 1.7, boxstyle="round,pad=0.04", facecolor=style(word.split("-")[0]).colour,
                edgecolor=INK,
            )  # fmt: skip
            axes.add_patch(box)
            axes.text(at, 0, word.replace("-", " "), rotation=90, ha="center", va="center", fontsize=7.5, color=INK)
            if at in (len(layers) // 3, 2 * len(layers) // 3):
                axes.plot([at - 0.5, at - 0.5], [-0.9, 0.9], color=INK, linewidth=2.4)
        return Chart("Chain", f"Chain of {len(layers)} layers: {', '.join(layers)}.", to_svg(axes.figure))


def _curve(title: str, level: dict[str, Any]) -> Chart:
    scores = np.array([trial["score"] for trial in level["trials"]], float)
    steps = np.array([entry["step"] for entry in level["log"]], float) + level.get("known", 0)
    mean, std = (np.array([entry[name] for entry in level["log"]], float) for name in ("mean", "std"))
    with axes_of() as axes:
        axes.plot(np.arange(1, len(scores) + 1), scores, "o", color=FIRST, markersize=4, label="score")
        if len(steps):
            axes.plot(steps, mean, color=SECOND, linewidth=1.6, label="expected of the incumbent")
            axes.fill_between(steps, mean - std, mean + std, color=SECOND, alpha=0.2, linewidth=0)
        axes.set(title=title, xlabel="trial", ylabel="score")
        axes.locator_params(axis="x", integer=True)
        axes.legend(loc="best")
        alt = f"{title}: {len(scores)} scores, the best {scores.max():.4f}."
        return Chart(title, alt, to_svg(axes.figure))


def _moves(level: dict[str, Any]) -> np.ndarray:
    rows = [entry for entry in level["log"] if entry.get("moved_hyper") is not None]
    return np.array([[row["step"], row["moved_hyper"], row["moved_posterior"]] for row in rows], float).reshape(-1, 3).T


def _movement(moves: dict[str, np.ndarray]) -> Chart:
    title = "How far the models moved"
    with axes_of() as axes:
        for (name, (steps, hyper, posterior)), colour in zip(moves.items(), (FIRST, SECOND), strict=False):
            floor = 1e-4
            axes.plot(steps, np.maximum(hyper, floor), color=colour, label=f"{name}: logs of hyper-parameters")
            axes.plot(
                steps, np.maximum(posterior, floor), "--", color=colour, label=f"{name}: the incumbent's posterior"
            )
        axes.set_yscale("log")
        axes.set(title=title, xlabel="trial", ylabel="largest change")
        axes.locator_params(axis="x", integer=True)
        axes.legend(loc="best")
        alt = f"{title} from trial to trial, for {' and '.join(moves)}."
        return Chart(title, alt, to_svg(axes.figure))


def _short(name: str) -> str:
    return name if len(name) <= 90 else f"{name[:87]}..."
