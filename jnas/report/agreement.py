"""How far several searches of one space agree: the known weakness of search by gradient, in numbers."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jnas import spaces
from jnas.report.reading import Run
from jnas.report.tables import Table, accuracies, number, spread
from jnas.spaces.isomorphism import canonical


def agreement(
    space: spaces.CellSpace, genotypes: Sequence[str], alphas: Sequence[Mapping[str, Any]]
) -> dict[str, float | int | None]:
    r"""Compare the results of several runs, pair by pair.

    Kendall's tau-b of two runs is taken over all entries of alpha that have a candidate, every cell and edge ranked by
    itself and the edges' concordant and discordant pairs added up: only the order of the candidates of one edge says
    anything about the derived cell.

        \tau = (C - D) / \sqrt{(C + D + T_1)(C + D + T_2)}     T_i: pairs that are tied in run i only

    Args:
      space: the searched space.
      genotypes: one a run.
      alphas: one a run, `{cell: [num_edges, num_ops]}`.

    Returns:
      `num_runs`; `distinct` and `distinct_up_to_names`, numbers of different cells as text and up to the names of
      nodes; `identical_pairs` and `isomorphic_pairs`, shares of all pairs in [0, 1]; `kendall_tau_mean` and
      `kendall_tau_min` over the pairs in [-1, 1]. With one run the shares and taus are None.

    Example:
      >>> from jnas import spaces
      >>> space = spaces.nasbench201()
      >>> cell = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|skip_connect~2|"
      >>> alpha = {"cell": np.arange(30.0).reshape(6, 5)}
      >>> found = agreement(space, [cell, cell], [alpha, {"cell": -alpha["cell"]}])
      >>> found["identical_pairs"], found["kendall_tau_mean"]
      (1.0, -1.0)
    """
    classes = [canonical(space, spaces.from_string(space, text)) for text in genotypes]
    pairs = list(itertools.combinations(range(len(genotypes)), 2))
    taus = [kendall_tau(space, alphas[i], alphas[j]) for i, j in pairs]

    def share(names: Sequence[str]) -> float | None:
        return float(np.mean([names[i] == names[j] for i, j in pairs])) if pairs else None

    return {
        "num_runs": len(genotypes),
        "distinct": len(set(genotypes)),
        "distinct_up_to_names": len(set(classes)),
        "identical_pairs": share(genotypes),
        "isomorphic_pairs": share(classes),
        "kendall_tau_mean": float(np.mean(taus)) if taus else None,
        "kendall_tau_min": float(np.min(taus)) if taus else None,
    }


def kendall_tau(space: spaces.CellSpace, one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """Kendall's tau-b of two alphas, edge by edge; see `agreement`. 0 where every pair is tied in a run."""
    mask = spaces.op_mask(space)
    counts = np.zeros(3)  # concordant - discordant, pairs untied in the one, pairs untied in the other
    for cell in space.cells:
        for left, right, there in zip(*(np.asarray(tree[cell]) for tree in (one, other, mask)), strict=True):
            a, b = (np.sign(row[there][:, None] - row[there][None, :]) for row in (left, right))
            counts += np.sum(a * b) / 2, np.sum(a * a) / 2, np.sum(b * b) / 2
    product = counts[1] * counts[2]
    return float(counts[0] / np.sqrt(product)) if product else 0.0


def runs_table(run: Run) -> Table | None:
    """The runs of one program: what each found, and how good its cell is. None for a single run.

    Args:
      run: from `read_run`.

    Returns:
      The table; accuracies in per cent, a mark at the cell that was kept.
    """
    rows = run.result.get("runs")
    if not isinstance(rows, list):
        return None
    shown = []
    for row in rows:
        settings = ", ".join(f"{name}={value:g}" for name, value in row.get("settings", {}).items())
        state = "kept" if row["seed"] == run.result.get("chosen") else ""
        state = f"diverged at step {row['diverged_at']}" if row.get("diverged_at") else state
        outer, test = (number(row.get(name), 100, 2) for name in ("outer_accuracy", "test_accuracy"))
        shown.append((str(row["seed"]), *([settings] if settings else []), state or "–", outer, test, row["genotype"]))
    columns = ("seed", "settings", "", "supernet, validation [%]", "found cell, test [%]", "genotype")
    if shown and len(shown[0]) < len(columns):
        columns = columns[:1] + columns[2:]
    return Table("Runs of this search", columns, tuple(shown))


def agreement_words(result: Mapping[str, Any]) -> str | None:
    """One paragraph on how far the runs of a result agree; None for a single one."""
    found = result.get("agreement")
    if not isinstance(found, dict) or found.get("kendall_tau_mean") is None:
        return None
    pairs = found["num_runs"] * (found["num_runs"] - 1) // 2
    scores = accuracies(result.get("runs", ()))
    score = f" Test accuracy of their cells: {spread(scores, 100, 2)} %." if scores else ""
    of = "the only pair of runs" if pairs == 1 else f"the {pairs} pairs of runs"
    return (
        f"{found['num_runs']} sound runs found {found['distinct']} different cells, {found['distinct_up_to_names']} up "
        f"to the names of nodes; {100 * found['identical_pairs']:.0f} % of {of} agree exactly, "
        f"{100 * found['isomorphic_pairs']:.0f} % up to names. Kendall's tau of their alphas: mean "
        f"{found['kendall_tau_mean']:.2f}, least {found['kendall_tau_min']:.2f}.{score}"
    )
