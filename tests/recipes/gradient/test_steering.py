"""What steers a search: that the settings do to alpha what the formulas say, and that an early stop goes back."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import TINY

from jnas import bilevel, spaces
from jnas.errors import UserError
from jnas.recipes import config
from jnas.recipes.gradient import recipe as gradient
from jnas.recipes.gradient import steering
from jnas.recipes.gradient.settings import Search
from jnas.types import Aux, Context

SPACE = spaces.nasbench201()


def settings(*words):
    return config.build(Search, config.read_words(words))


def test_the_penalties_are_added_to_alpha_and_rise_in_proportion():
    """At step k of n the direction of alpha grows by k / n times the published gradient, softmax / edges."""
    (tx,) = steering.penalties(settings("beta_decay=4"), SPACE, 8)
    alpha = spaces.init_alpha(SPACE, jax.random.key(0), 1.0)
    state, zero = tx.init(alpha), jax.tree.map(jnp.zeros_like, alpha)
    logits = np.asarray(alpha["cell"], np.float64)
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for step in range(3):
        added, state = tx.update(zero, state, alpha)
        np.testing.assert_allclose(added["cell"], 4 * step / 8 * softmax / 6, rtol=1e-5, atol=1e-7)


def test_no_penalty_leaves_the_program_as_it_was_and_a_traced_weight_is_no_zero():
    assert steering.penalties(settings(), SPACE, 8) == []
    several = settings("num_runs=2", "each.beta_decay=[0,1]", "each.entropy=[0,-1]")
    counted = []

    def of_run(beta, entropy):
        values = {"beta_decay": beta, "entropy": entropy}
        counted.append(len(steering.penalties(gradient.with_values(several, values), SPACE, 8)))
        return beta

    jax.eval_shape(of_run, jnp.float32(0), jnp.float32(0))
    assert counted == [2]


def test_a_temperature_divides_alpha_in_the_losses_in_the_curvature_and_at_the_end():
    """After k of n steps alpha is divided by T^(k/n); the Gauss-Newton product is that of the divided alpha, too."""

    def model(weights, alpha, batch, context):
        return jax.nn.softmax(alpha["cell"]) * weights

    objective = lambda outputs, batch: jnp.sum(outputs**2)
    loss = lambda w, a, b, c: (objective(model(w, a, b, c), b), Aux(c.variables, {}))
    curvature = bilevel.gauss_newton(model, objective)
    init = lambda key: (bilevel.Point(jnp.arange(3.0), {"cell": jnp.array([1.0, 2.0, 4.0])}), ())
    chosen = settings("temperature=0.25")
    problem, product, start = steering.cooled(chosen, bilevel.Bilevel(loss, loss), curvature, init, 4)
    point, variables = start(jax.random.key(0))
    for step in range(3):
        divided = {"cell": point.alpha["cell"] / 0.25 ** (step / 4)}
        expected, _ = loss(point.weights, divided, (), Context(()))
        value, aux = problem.inner(point.weights, point.alpha, (), Context(variables))
        assert float(value) == pytest.approx(float(expected), rel=1e-6)
        vector = jnp.ones(3)
        np.testing.assert_allclose(
            product(problem.inner, point, (), Context(variables), vector),
            curvature(loss, bilevel.Point(point.weights, divided), (), Context(()), vector),
            rtol=1e-6,
        )
        np.testing.assert_allclose(steering.as_mixed(chosen, divided, 0.0)["cell"], divided["cell"])
        np.testing.assert_allclose(steering.as_mixed(chosen, point.alpha, step / 4)["cell"], divided["cell"], rtol=1e-6)
        variables = aux.variables
    assert steering.statistics_of(variables) == ()


def test_a_search_goes_back_where_its_sharpness_grew(tmp_path):
    """Flat for 15 looks, then thirty times as sharp: the architecture before the growth is taken, by name."""
    chosen = settings("epochs=30", "eigenvalue_every=1")
    rows = [{"step": e, "epoch": e, "largest": 1.0 if e <= 15 else 30.0} for e in range(1, 17)]
    write = lambda name, lines: (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    write(steering.EIGENVALUES, rows[:15])
    assert steering.stop_at(chosen, tmp_path) is None
    write(steering.EIGENVALUES, rows)
    assert steering.stop_at(chosen, tmp_path) == 10  # 16, less half a window of 5 and the distance of 4
    write("genotypes.jsonl", [{"epoch": e, "genotype": f"cell {e}"} for e in range(1, 17)])
    assert steering.genotype_after(10, tmp_path) == "cell 10"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("temperature=0",), "temperature is 0.0"),
        (("eigenvalue_every=1", "num_runs=2"), "set num_runs=1"),
        (("selection=perturbation", "num_runs=2"), "set num_runs=1"),
        (("selection=perturbation", "eigenvalue_every=2"), "set one of them"),
        (("eigenvalue_every=1", "steps=7"), "leave steps and record_every out"),
        (("steps=0",), "steps is 0"),
        (("beta_decay=-1",), "beta_decay is -1.0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(words, said):
    with pytest.raises(UserError, match=said):
        settings(*words)


def test_a_search_with_everything_on(images, tmp_path, monkeypatch):
    """Penalty, temperature, a look each epoch that stops it, and perturbation, on real images."""
    common = (f"data={images}", *TINY, "estimator=first_order", "momentum=none", "batch_size=20", "alpha.warmup=0")
    steer = (*common, "beta_decay=1", "entropy=0.5", "temperature=0.5")
    with jax.numpy_dtype_promotion("standard"):
        # Told after its third look that the first one was to be kept.
        monkeypatch.setattr(
            steering, "early_stop", lambda history, **_: bilevel.Stop(2, 0) if len(history) >= 3 else None
        )
        stopped = gradient.search(settings(*steer, "epochs=4", "eigenvalue_every=1"), tmp_path / "stopped")
        rows, lines = (
            [json.loads(line) for line in (tmp_path / "stopped/search" / name).read_text().splitlines()]
            for name in ("eigenvalues.jsonl", "genotypes.jsonl")
        )
        assert [row["epoch"] for row in rows] == [row["epoch"] for row in lines] == [1, 2, 3]
        assert all(np.isfinite(row["largest"]) and row["largest"] <= abs(row["dominant"]) + 1e-6 for row in rows)
        assert stopped["genotype"] == lines[0]["genotype"]
        assert "after epoch 1, for then the sharpness in alpha grew" in stopped["derivation"]
        perturbed = gradient.search(settings(*steer, "epochs=1", "selection=perturbation"), tmp_path / "perturbed")
    removals = json.loads((tmp_path / "perturbed/search/removals.json").read_text())
    assert len(removals) == 6
    for removal in removals:  # the operator without which the supernet is worst, on every edge
        assert removal["scores"][removal["kept"]] == min(removal["scores"].values())
    arch = spaces.from_string(SPACE, perturbed["genotype"])
    cell = spaces.fix(SPACE, arch).edges("cell")
    assert [edge.ops[0] for edge in cell] == [r["kept"] for r in sorted(removals, key=lambda r: r["row"])]
