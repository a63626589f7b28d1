"""What steers a search: that the settings do to alpha what the formulas say, and that an early stop goes back."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import TINY

from jnas import bilevel, spaces, train
from jnas.errors import UserError
from jnas.recipes import config, driver
from jnas.recipes.gradient import recipe as gradient
from jnas.recipes.gradient import steering
from jnas.recipes.gradient.settings import Search

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
    assert steering.penalties(settings("beta_decay=0"), SPACE, 8) == []
    several = settings("num_runs=2", "each.beta_decay=[0,1]")
    counted = []

    def of_run(beta):
        counted.append(len(steering.penalties(gradient.with_values(several, {"beta_decay": beta}), SPACE, 8)))
        return beta

    jax.eval_shape(of_run, jnp.float32(0))
    assert counted == [1]


def test_a_search_goes_back_where_its_sharpness_grew_also_after_a_restart(tmp_path):
    """Flat for 15 looks, then thirty times as sharp: the measurement before the growth is taken.

    What it decides by is what the checkpoint holds, and no log is read: the second watch sees the last look only.
    """
    chosen = settings("epochs=30", "eigenvalue_every=1")
    loss = lambda w, a, batch, context: (0.5 * w * jnp.sum(a["cell"] ** 2), bilevel.Aux())  # as sharp as w is large
    watch = lambda: steering.watch(chosen, loss, lambda: None, tmp_path, 10, lambda event: f"cell {event.step // 10}")

    def event(step, sharpness):
        point = bilevel.Point(jnp.float32(sharpness), {"cell": jnp.ones((2, 2))})
        return train.Event(step, 300, bilevel.SearchState(jnp.int32(step), point, (), (), ()), {})

    first = watch()
    assert [first.hooks[0].steps(event(step, 1.0)) for step in range(10, 160, 10)] == [False] * 15
    assert first.hooks[0].steps(event(155, 99.0)) is False  # between two looks
    kept = json.loads(json.dumps(first.hooks[0].save(150)))
    second = watch()
    second.hooks[0].restore(kept)
    assert second.hooks[0].steps(event(160, 30.0)) is True
    assert second.back_to()["genotype"] == "cell 10"  # 16, less half a window of 5 and the distance of 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("eigenvalue_every=1", "num_runs=2"), "is for one run"),
        (("selection=perturbation", "num_runs=2"), "is for one run"),
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
    """Penalty, a look each epoch that stops it, and perturbation, on real images."""
    common = (f"data={images}", *TINY, "estimator=first_order", "momentum=none", "batch_size=20", "alpha.warmup=0")
    steer = (*common, "beta_decay=1")
    with jax.numpy_dtype_promotion("standard"):
        # Told after its third look that the first one was to be kept.
        monkeypatch.setattr(
            steering, "early_stop", lambda history, **_: bilevel.Stop(2, 0) if len(history) >= 3 else None
        )
        stopped = driver.search(gradient, settings(*steer, "epochs=4", "eigenvalue_every=1"), tmp_path / "stopped")
        rows, lines = (
            [json.loads(line) for line in (tmp_path / "stopped/search" / name).read_text().splitlines()]
            for name in ("eigenvalues.jsonl", "genotypes.jsonl")
        )
        assert [row["epoch"] for row in rows] == [row["epoch"] for row in lines] == [1, 2, 3]
        assert all(np.isfinite(row["largest"]) and row["largest"] <= abs(row["dominant"]) + 1e-6 for row in rows)
        assert stopped["genotype"] == lines[0]["genotype"]
        assert "after epoch 1, for then the sharpness in alpha grew" in stopped["derivation"]
        asked = settings(*steer, "epochs=1", "selection=perturbation")
        perturbed = driver.search(gradient, asked, tmp_path / "perturbed")
    removals = json.loads((tmp_path / "perturbed/search/removals.json").read_text())
    assert len(removals) == 6
    for removal in removals:  # the operator without which the supernet is worst, on every edge
        assert removal["scores"][removal["kept"]] == min(removal["scores"].values())
    arch = spaces.from_string(SPACE, perturbed["genotype"])
    cell = spaces.fix(SPACE, arch).edges("cell")
    assert [edge.ops[0] for edge in cell] == [r["kept"] for r in sorted(removals, key=lambda r: r["row"])]
