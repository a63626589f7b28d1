"""Selection by perturbation on supernets whose every removal is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnas import spaces
from jnas.recipes.gradient.perturbation import select

DARTS, BENCH = spaces.darts(), spaces.nasbench201()


def values(space, seed=0):
    """What each operator on each edge is worth, all different and positive; `none` is worth nothing."""
    rng = np.random.default_rng(seed)
    table = {cell: rng.permutation(space.num_edges * len(space.ops)).reshape(space.num_edges, -1) + 1.0
             for cell in space.cells}  # fmt: skip
    for cell in space.cells:
        table[cell][:, space.ops.index("none")] = 0
    return table


def additive(table):
    """A supernet that scores the sum of what is mixed in, whether much or little of it."""
    return lambda mix: sum(float((table[cell] * (mix[cell] > 0)).sum()) for cell in table)


def uniform(space):
    return spaces.mixture(space, {c: jnp.zeros((space.num_edges, len(space.ops))) for c in space.cells})


@pytest.mark.parametrize("space", [DARTS, BENCH], ids=["darts", "nasbench201"])
@pytest.mark.parametrize("seed", [0, 1])
def test_what_hurts_most_when_removed_is_kept_whatever_the_weights_and_the_order(space, seed):
    """The values themselves, derived by the rule of the space; the mixture prefers the operators worth least."""
    table = values(space)
    misleading = spaces.mixture(space, {cell: jnp.asarray(-t / 20, jnp.float32) for cell, t in table.items()})
    found = select(space, misleading, additive(table), key=jax.random.key(seed))
    assert found.arch.tolist() == spaces.derive(space, table).tolist()
    assert found.arch.tolist() != spaces.discretise(
        space, {cell: jnp.asarray(-t / 20, jnp.float32) for cell, t in table.items()}
    ).tolist()  # fmt: skip


def test_decisions_are_recorded_with_the_scores_that_led_to_them():
    table = values(BENCH)
    found = select(BENCH, uniform(BENCH), additive(table), key=jax.random.key(0))
    assert sorted(removal.row for removal in found.removals) == list(range(6))
    assert [removal.row for removal in found.removals] != list(range(6))  # in random order
    for removal in found.removals:
        assert removal.kept == min(removal.scores, key=removal.scores.get)
        assert set(removal.scores) == set(BENCH.ops)


def test_what_is_left_of_an_edge_depends_on_the_edges_decided_before():
    """Two skips in a row are worth a lot together and nothing apart: no alpha of single edges can say that."""
    skip = BENCH.ops.index("skip_connect")
    conv = BENCH.ops.index("nor_conv_3x3")

    def evaluate(mix):
        m = mix["cell"]
        return float(10 * (m[0, skip] > 0) * (m[2, skip] > 0) + (m[:, conv] > 0).sum())

    found = select(BENCH, uniform(BENCH), evaluate, key=jax.random.key(0))
    assert spaces.to_string(BENCH, found.arch) == (
        "|skip_connect~0|+|nor_conv_3x3~0|skip_connect~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"
    )


def test_every_decision_is_made_under_the_mixture_that_the_ones_before_left():
    seen = []

    def evaluate(mix):
        seen.append({cell: m.copy() for cell, m in mix.items()})
        return 0.0

    found = select(DARTS, uniform(DARTS), evaluate, key=jax.random.key(0))
    assert len(seen) == 28 * 7 + 28  # each operator but `none` on each edge, and each edge
    for number, mix in enumerate(seen[::7][:28]):
        decided = sum(int(((m > 0).sum(-1) == 1).sum()) for m in mix.values())
        assert decided == number
    final = spaces.one_hot_alpha(DARTS, found.arch)
    open_nodes = {
        (cell, DARTS.endpoints[row][1])
        for cell in DARTS.cells
        for row in np.flatnonzero(((seen[-1][cell] > 0) != (np.asarray(final[cell]) > 0)).any(-1))
    }
    assert len(open_nodes) == 1  # the last one, whose edges are decided by what was seen then


def test_none_is_chosen_only_where_the_space_keeps_all_edges_and_does_not_exclude_it():
    harmful = lambda mix: float((mix["cell"][:, BENCH.ops.index("none")] > 0).sum())
    arch = select(BENCH, uniform(BENCH), harmful, key=jax.random.key(0)).arch
    assert set(arch.tolist()) == {BENCH.ops.index("none")}
    arch = select(BENCH, uniform(BENCH), harmful, key=jax.random.key(0), without=("none",)).arch
    assert BENCH.ops.index("none") not in arch.tolist()


def test_a_narrowed_space_chooses_among_what_is_left():
    groups = spaces.narrow(
        DARTS, {"normal": [("none", "skip_connect")] * 14, "reduce": [("none", "max_pool_3x3", "avg_pool_3x3")] * 14}
    )
    found = select(groups, uniform(groups), additive(values(DARTS)), key=jax.random.key(0))
    assert found.arch.tolist() == spaces.derive(groups, values(DARTS)).tolist()


def test_bad_use_is_refused():
    with pytest.raises(ValueError, match="leaves nothing on edge"):
        select(BENCH, uniform(BENCH), lambda m: 0.0, key=jax.random.key(0), without=BENCH.ops)
    with pytest.raises(ValueError, match="scores no number"):
        select(BENCH, uniform(BENCH), lambda m: float("nan"), key=jax.random.key(0))
