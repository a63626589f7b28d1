"""Search in two stages: one level against a loop by hand, and a run stopped in each stage against one left in peace."""

import dataclasses
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jnas import bilevel, data, nets, spaces, train
from jnas.data.load import load
from jnas.errors import Interrupted, UserError
from jnas.recipes import config, driver
from jnas.recipes.grouped import clustering
from jnas.recipes.grouped import recipe as grouped
from jnas.recipes.grouped.settings import GroupedSearch
from jnas.recipes.settings import Level
from jnas.recipes.settings import Training as T
from jnas.recipes.supernet import supernet_problem
from jnas.report.groups import group_charts
from jnas.spaces import grouped as by_group

GROUPS = (("skip_connect", "avg_pool_3x3"), ("nor_conv_1x1", "nor_conv_3x3"))
TINY = {
    "space": "nasbench201", "groups": ", ".join(map(" ".join, GROUPS)), "batch_size": 40, "random_cells": 0,
    "first": {"channels": 2, "depth": 1, "epochs": 2}, "second": {"channels": 2, "depth": 1, "epochs": 2},
    "augmentation": {"crop": 1}, "weights": {"learning_rate": 0.1},
    "alpha": {"learning_rate": 0.1, "final_learning_rate": 0.1},
    "train": {"channels": 2, "depth": 1, "epochs": 1, "batch_size": 40, "augmentation": {"crop": 1}},
    "checkpoint_every": 1, "steps_per_call": 1,
}  # fmt: skip
STEPS = 6  # of a stage: 120 images, batches of 40, 2 epochs


def settings(images, **changes):
    return config.build(GroupedSearch, TINY, {"data": str(images), **changes})


def lines(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "time"} for row in rows]


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """The folder and the result of an undisturbed run."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with jax.numpy_dtype_promotion("standard"):
        return folder, driver.run(grouped, settings(images), folder)


def test_the_second_stage_searches_exactly_the_groups_that_won_the_first(whole):
    folder, result = whole
    space, groups = spaces.nasbench201(), by_group.groups_of(GROUPS)
    first = by_group.representatives(space, groups)
    last = {cell: np.asarray(a) for cell, a in lines(folder / "stage-1" / "genotypes.jsonl")[-1]["alpha"].items()}
    won = by_group.winners(first, last, groups)
    assert json.loads((folder / "stage-1" / "found.json").read_text())["winners"] == {"cell": list(won["cell"])}
    second = by_group.stage_two(space, groups, won)
    assert result["edge_ops"] == {"cell": [list(ops) for ops in second.edge_ops[0]]}
    alpha = {cell: np.asarray(a) for cell, a in lines(folder / "search" / "genotypes.jsonl")[-1]["alpha"].items()}
    assert (alpha["cell"][~spaces.op_mask(second)["cell"]] == 0).all()
    derived = spaces.derive(second, alpha, without=("none",))
    assert result["genotype"] == spaces.to_string(second, derived)
    assert "none" not in result["genotype"]


def test_a_run_leaves_both_stages_a_trained_cell_and_a_page(whole):
    folder, result = whole
    for stage in ("stage-1", "search"):
        rows = lines(folder / stage / "metrics.jsonl")
        assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
        assert {"loss", "accuracy", "gradient_norm"} <= set(rows[0])
    assert result["steps"] == 2 * STEPS
    ends = {"steps": STEPS, "epochs": [2, 2], "ended": "cap"}
    assert result["stages"] == [{"name": "stage-1", **ends}, {"name": "search", **ends}]
    assert "stage-1: all of its 2 epochs; search: all of its 2 epochs" in (folder / "report.html").read_text()
    assert result["found"]["genotype"] == result["genotype"]
    assert (folder / "train" / "found" / "weights.npz").is_file()
    assert result["genotype"] in json.loads((folder / "result.json").read_text())["genotype"]
    assert (folder / "report.html").is_file()


def test_stages_start_from_different_weights(whole):
    folder, _ = whole
    losses = [lines(folder / stage / "metrics.jsonl")[0]["loss"] for stage in ("stage-1", "search")]
    assert losses[0] != losses[1]


@pytest.mark.slow
def test_a_run_stopped_in_each_stage_and_between_them_ends_in_the_same_bits(
    whole, images, tmp_path, monkeypatch, standard_promotion
):
    reference, result = whole
    plain, stops = train.standard_hooks, [("stage-1", 2), ("stage-1", STEPS), ("search", 3), ("search", STEPS)]

    def hooks(folder, title, *metrics, **options):
        def look(event):
            if stops and (folder.name, event.step) == stops[0]:
                os.kill(os.getpid(), signal.SIGTERM)

        return [*plain(folder, title, *metrics, **options), train.Hook(steps=look)]

    monkeypatch.setattr(train, "standard_hooks", hooks)
    while stops:
        name, step = stops[0]
        with pytest.raises(Interrupted, match=f"after step {step} of {STEPS}: .*{name}"):
            driver.search(grouped, settings(images), tmp_path / "run")
        assert not (tmp_path / "run" / name / "found.json").exists()
        stops.pop(0)
    found = driver.search(grouped, settings(images), tmp_path / "run")
    assert {**found, "seconds": 0} == {**{k: result[k] for k in found}, "seconds": 0}
    for stage in ("stage-1", "search"):
        for name in ("metrics.jsonl", "genotypes.jsonl"):
            assert lines(tmp_path / "run" / stage / name) == lines(reference / stage / name), stage
    assert driver.search(grouped, settings(images), tmp_path / "run") == found  # and from now on it is read


def fed(config, losses, genotypes, start=None):
    """The epoch after which a stage of two steps an epoch ends, and the hook; from what an earlier one has kept."""
    hook, converged = grouped.until_settled(config, 2, lambda event: genotypes[event.step // 2 - 1])
    hook.restore({name: list(values) for name, values in (start or {}).items()})
    first = 2 * len(start["smoothed"]) if start else 0
    for step in range(first + 1, 2 * len(losses) + 1):
        loss = np.array([losses[(step - 1) // 2]])
        if hook.steps(train.Event(step, 2 * len(losses), None, {"loss": loss})):
            assert converged()
            return step // 2, hook
    assert not converged()
    return None, hook


def test_a_stage_ends_when_architecture_and_loss_have_stood_still():
    config = GroupedSearch(patience=2, tolerance=0.1)
    still = [1.0] * 8
    assert fed(config, still, "aaaaaaaa")[0] == 3
    assert fed(config, still, "abaacccc")[0] == 7  # each change of what is derived begins the wait anew
    # Smoothed by halves: 8, 4.5, 2.75, 1.875, 1.4375, 1.21875, 1.109375, 1.0546875
    assert fed(config, [8.0] + [1.0] * 9, "a" * 10)[0] == 9  # |1.027 - 1.109| is less than a tenth of that
    assert fed(config, [1.0, 2.0, 4.0, 8.0], "aaaa")[0] is None
    assert fed(GroupedSearch(patience=None), [1.0] * 50, "a" * 50)[0] is None


def test_what_a_stage_ends_by_is_kept():
    config = GroupedSearch(patience=2, tolerance=0.1)
    end, hook = fed(config, [8.0] + [1.0] * 4, "a" * 5)
    assert end is None
    assert fed(config, [8.0] + [1.0] * 9, "a" * 10, json.loads(json.dumps(hook.save(10))))[0] == 9


def test_a_converged_stage_says_so(images, tmp_path, standard_promotion):
    asked = settings(
        images, groups="", patience=1, tolerance=1e9, weights={"learning_rate": 1e-9},
        alpha={"learning_rate": 1e-9, "final_learning_rate": 1e-9}, second={"epochs": 9},
    )  # fmt: skip
    found = driver.search(grouped, asked, tmp_path / "run")
    assert found["stages"] == [{"name": "search", "steps": 6, "epochs": [2, 9], "ended": "converged"}]
    assert found["steps"] == 6
    again = config.build(GroupedSearch, dataclasses.asdict(asked))
    (tmp_path / "run" / "search" / "found.json").unlink()  # as if killed just before it
    assert {**driver.search(grouped, again, tmp_path / "run"), "seconds": 0} == {**found, "seconds": 0}


@pytest.mark.slow
def test_groups_by_clustering_are_kept_with_what_led_to_them(images, tmp_path, standard_promotion):
    """The matrix and the tree in the file give the groups in it, and a second call reads them."""
    asked = settings(images, groups="clustering", num_groups=2, num_samples=6, supernet=TINY["first"])
    plan = grouped.plan(asked, load(asked.data), spaces.by_name(asked.space))
    assert plan.groups is None
    stored = grouped._cluster(asked, plan, tmp_path / "cluster")
    space, matrix = spaces.nasbench201(), np.zeros((5, 5))
    matrix[1:, 1:] = stored["correlation"]
    assert tuple(stored["ops"]) == space.ops[1:]
    assert (np.abs(matrix) <= 1 + 1e-6).all()
    again = clustering.cluster(space, matrix, num_groups=2)
    assert [list(of) for of in again.groups.members] == [list(of) for of in stored["groups"]]
    np.testing.assert_allclose(again.linkage, stored["linkage"])
    assert len(group_charts(stored)) == 2


def test_another_run_in_the_folder_is_refused(whole, images):
    with pytest.raises(UserError, match=r"first\.epochs=2 and not 3"):
        driver.run(grouped, settings(images, first={"epochs": 3}), whole[0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"groups": "skip_connect"}, "is in none of the groups"),
        ({"groups": ", ".join(spaces.nasbench201().ops[1:])}, "leave the second stage no choice"),
        ({"groups": "skip_connect, skip_connect"}, "'skip_connect' is in 2 groups"),
        ({"groups": "skip_connect,, avg_pool_3x3"}, "or one is empty"),
        ({"groups": "stacnas"}, "'nor_conv_1x1' is in none"),
        ({"groups": "clustering", "num_groups": 4}, "num_groups is 4 and space"),
        ({"batch_size": 0}, "batch_size is 0: give at least 1"),
        ({"first": {"epochs": 0}}, "epochs is 0: give at least 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_anything_is_written(images, tmp_path, changes, said):
    with pytest.raises(UserError, match=said):
        driver.run(grouped, settings(images, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_defaults_are_those_of_the_method():
    config_ = GroupedSearch()
    assert (config_.first.depth, config_.second.depth, config_.first.epochs, config_.second.epochs) == (14, 20, 80, 80)
    assert config_.first.channels == config_.second.channels == 16
    assert config_.batch_size == 64
    assert config_.weights == Level("sgd", 0.025, 0.001, heavy_ball=0.9, weight_decay=3e-4, clip=3.0)
    assert config_.alpha == Level("adam", 3e-4, 3e-4, weight_decay=1e-3)
    assert config_.augmentation.cutout == 0
    assert config_.train == T()
    assert "two stages over groups (stacnas)" in grouped.describe(config_)


@pytest.fixture(scope="module")
def small():
    """A supernet of one cell, two edges and two operators, and a few images on the device."""
    ops = ("skip_connect", "nor_conv_1x1")
    space = spaces.CellSpace("tiny", ("cell",), 1, 1, ops, ((ops,),), None, "last")
    net = nets.Network(space, ("cell",), 2, 3, stem_multiplier=1, project_inputs=False, affine=False)
    rng = np.random.default_rng(0)
    images = data.Dataset(
        rng.integers(0, 255, (12, 16), np.uint8), rng.integers(0, 3, 12).astype(np.int32), (4, 4, 1), 3
    )
    return net, data.supervised_source(images, batch_size=4, augment=data.Augment(mean=(0.5,), std=(0.5,)))


def test_one_level_is_supervised_on_weights_and_alpha_and_equals_a_loop_by_hand(small, standard_promotion):
    """Both gradients of one loss at the same point and batch, SGD with momentum on the weights, Adam on alpha."""
    net, source = small

    def init(key):
        params, stats = nets.initialise(net, key, (4, 4, 1))
        return bilevel.Point(params, spaces.init_alpha(net.space, key)), stats

    def txs():
        return optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1, 0.9)), optax.adam(0.05, 0.5, 0.999)

    learner = grouped.one_level(supernet_problem(net)[0].inner, init, *txs())
    state = learner.init(jax.random.key(1))
    update, order = jax.jit(learner.update), jax.random.key(2)
    batches = [source.batch(source.arrays, jnp.int32(step), order) for step in range(5)]
    params, alpha, stats = state.point.weights, state.point.alpha, state.variables
    for step, batch in enumerate(batches):
        state, metrics = update(state, batch, jax.random.key(step))
    assert set(metrics) == {"loss", "accuracy", "gradient_norm"}

    weight_tx, alpha_tx = txs()
    weight_state, alpha_state = weight_tx.init(params), alpha_tx.init(alpha)
    loss = supernet_problem(net)[0].inner
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    for batch in batches:
        (w_slope, a_slope), aux = gradients(params, alpha, batch, bilevel.Context(stats, None))
        stats = aux.variables
        w_step, weight_state = weight_tx.update(w_slope, weight_state, params)
        a_step, alpha_state = alpha_tx.update(a_slope, alpha_state, alpha)
        params, alpha = optax.apply_updates(params, w_step), optax.apply_updates(alpha, a_step)
    for want, got in ((params, state.point.weights), (alpha, state.point.alpha), (stats, state.variables)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), want, got)


@pytest.mark.parametrize("name", [name for name in config.presets() if config.kind_of(name) == "grouped"])
def test_every_grouped_preset_is_valid(name):
    found = config.build(GroupedSearch, config.read_preset(name))
    groups, space = grouped.named_groups(found.groups), spaces.by_name(found.space)
    stage = by_group.representatives(space, groups)
    assert stage != space
    assert len(stage.ops) == len(space.ops)


def test_the_command_runs_both_stages_of_the_preset(images, command, tmp_path):
    words = [
        "first.channels=2", "second.channels=2", "batch_size=40", "augmentation.crop=1", "random_cells=1",
        "train.channels=2", "train.epochs=1", "train.batch_size=40", "train.augmentation.crop=1",
    ]  # fmt: skip
    done = command("search", "grouped", f"data={images}", *words, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["genotype"] in done.stdout
    assert (tmp_path / "run" / "stage-1" / "found.json").is_file()
    page = (tmp_path / "run" / "report.html").read_text()
    assert result["genotype"] in page
    assert "Mixtures" in page


def test_settings_of_another_kind_of_run_are_refused(command, tmp_path):
    (tmp_path / "odd.yaml").write_text("kind: train\ngenotype: DARTS_V2\n")
    done = command("search", tmp_path / "odd.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert "has settings of kind 'train': give those of one of search, grouped, trials" in done.stderr
