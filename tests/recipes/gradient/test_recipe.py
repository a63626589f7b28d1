"""The main job, run as a program: what it leaves, that it compiles once, and that it survives being killed."""

import dataclasses
import json
import logging
import signal

import jax
import pytest
import yaml
from tiny import SIGNALLED, TINY

from jnas import nets, spaces
from jnas.data.load import load
from jnas.recipes import config, driver, train_network
from jnas.recipes.gradient import recipe as gradient
from jnas.recipes.gradient.settings import Search
from jnas.recipes.optimisers import rate_of
from jnas.report.reading import dotted


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_finished_search_leaves_everything(finished):
    folder, out = finished
    result = json.loads((folder / "result.json").read_text())
    steps = lines(folder / "search" / "metrics.jsonl")
    epochs = lines(folder / "search" / "genotypes.jsonl")
    assert [row["step"] for row in steps] == list(range(1, 13))  # 60 inner images, batches of 10, 2 epochs
    assert [row["epoch"] for row in epochs] == [1, 2]
    assert epochs[-1]["genotype"] == result["genotype"]
    space = spaces.nasbench201()
    assert spaces.to_string(space, spaces.from_string(space, result["genotype"])) == result["genotype"]
    assert (
        spaces.to_string(
            space,
            spaces.discretise(
                space, {c: jax.numpy.asarray(a) for c, a in epochs[-1]["alpha"].items()}, without=["none"]
            ),
        )
        == result["genotype"]
    )
    assert {"inner_loss", "outer_loss", "adjoint_residual", "adjoint_norm", "damping", "largest_eigenvalue"} <= set(
        steps[0]
    )
    assert len(result["random"]) == 1
    for name in ("found", "random-0"):
        assert (folder / "train" / name / "weights.npz").is_file()
    assert list((folder / "search").glob("events.out.tfevents.*"))
    assert json.loads((folder / "environment.json").read_text())["jax"] == jax.__version__
    page = (folder / "report.html").read_text()
    assert f"{100 * result['found']['test_accuracy']:.2f} %" in page
    assert "report.html" in out
    assert result["genotype"] in out


def test_a_finished_search_run_again_shows_its_result_and_touches_nothing(finished, images, command):
    folder, out = finished
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.name != "report.html"}
    again = command("search", f"data={images}", *TINY, "--out", folder)
    assert (again.returncode, again.stdout) == (0, out)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.name != "report.html"} == before


@pytest.mark.slow
def test_a_search_stopped_and_killed_ends_in_the_same_bits(finished, images, command, tmp_path):
    whole, _ = finished
    words = ("search", f"data={images}", *TINY, "checkpoint_every=1", "--out", tmp_path / "run")
    for sent, step in ((signal.SIGTERM, 4), (signal.SIGKILL, 9)):
        cut = command(*words, before=SIGNALLED.format(number=sent, step=step))
        assert cut.returncode == (143 if sent == signal.SIGTERM else -sent), cut.stderr
        if sent == signal.SIGTERM:
            assert f"stopped by SIGTERM after step {step} of 12" in cut.stderr.splitlines()[-1]
        assert len(lines(tmp_path / "run" / "search" / "metrics.jsonl")) == step
    resumed = command(*words)
    assert resumed.returncode == 0, resumed.stderr

    without_time = lambda rows: [{k: v for k, v in row.items() if k != "time"} for row in rows]
    for name in ("search/metrics.jsonl", "search/genotypes.jsonl", "train/found/metrics.jsonl"):
        assert without_time(lines(tmp_path / "run" / name)) == without_time(lines(whole / name)), name
    for network in ("found", "random-0"):
        weights = f"train/{network}/weights.npz"
        assert (tmp_path / "run" / weights).read_bytes() == (whole / weights).read_bytes(), network


@pytest.mark.slow
def test_a_search_compiles_its_step_once(images, tmp_path, caplog):
    words = config.read_words([f"data={images}", *TINY, "random_cells=0", "estimator=first_order", "momentum=none"])
    with jax.log_compiles(), caplog.at_level(logging.WARNING), jax.numpy_dtype_promotion("standard"):
        driver.run(gradient, config.build(Search, words), tmp_path / "run")
    steps = [r.message for r in caplog.records if r.message.startswith("Compiling jit(run_")]
    assert len(steps) == 2, steps  # one for the search, one for the training of what it found


def test_the_search_sees_smaller_images_than_the_training(images):
    class Seen:
        KIND = "search"
        plan = staticmethod(lambda config, splits, space, mesh: splits)

    whole, searched = driver._planned(Seen, Search(data=str(images), shrink=2), None)
    assert (whole.train.shape, searched.train.shape, searched.test.shape) == ((7, 7, 1), (3, 3, 1), (7, 7, 1))
    assert driver._planned(Seen, Search(data=str(images), shrink=1), None)[1].train.shape == (7, 7, 1)


@pytest.mark.parametrize("momentum", ["moving_average", "storm"])
def test_the_default_method_is_one_loop_with_momentum_on_all_three_variables(momentum):
    """A chain whose first member is a momentum over the whole point, v included, under `simultaneous`."""
    from jnas.bilevel import SearchState
    from jnas.bilevel.momentum import AverageState, StormState

    settings = config.build(Search, {} if momentum == Search().momentum else {"momentum": momentum})
    net = gradient.supernet_of(spaces.nasbench201(), settings, 10)
    learner = gradient.learner_of(settings, net, (28, 28, 1), 100)
    state = jax.eval_shape(learner.init, jax.random.key(0))
    assert isinstance(state, SearchState)
    first = state.optimiser[0]
    assert isinstance(first, StormState if momentum == "storm" else AverageState)
    remembered = first.direction if momentum == "storm" else first.average
    assert jax.tree.structure(remembered) == jax.tree.structure(state.point)
    count = sum(leaf.size for leaf in jax.tree.leaves(nets.shapes(net, (28, 28, 1))["params"]))
    assert remembered.weights.shape == state.point.weights.shape == state.point.adjoint.shape == (count,)  # one vector
    assert learner.update.__qualname__.startswith("simultaneous")


@pytest.mark.usefixtures("standard_promotion")
def test_several_weight_steps_of_the_loop_get_their_batches(images):
    """The source and the learner of one plan fit each other; the upper optimiser averages alpha and v."""
    words = [f"data={images}", *TINY, "scheme=alternating", "inner_steps=3"]
    plan = gradient.plan(config.build(Search, config.read_words(words)), load(str(images)), spaces.nasbench201())
    batches = jax.eval_shape(plan.source.batch, plan.source.arrays, jax.numpy.int32(0), jax.random.key(0))
    assert batches.further.image.shape == (2, *batches.inner.image.shape)
    state = jax.eval_shape(plan.learner.init, jax.random.key(0))
    _, alpha = state.optimiser
    assert jax.tree.structure(alpha[0].average) == jax.tree.structure(state.point._replace(weights=()))
    after, metrics = jax.eval_shape(plan.learner.update, state, batches, jax.random.key(1))
    assert jax.tree.map(lambda leaf: leaf.shape, after) == jax.tree.map(lambda leaf: leaf.shape, state)
    assert "adjoint_residual" in metrics


def test_random_cells_are_connected_and_differ():
    drawn = train_network.random_cells(spaces.nasbench201(), jax.random.key(1), 5)
    assert all(spaces.is_connected(spaces.nasbench201(), arch) for arch in drawn)
    assert len({tuple(arch.tolist()) for arch in drawn}) == 5


def test_fewer_random_cells_where_hardly_any_is_allowed(capfd):
    looked = []
    allowed = lambda arch: len(looked.append(arch) or looked) == 7
    assert len(train_network.random_cells(spaces.nasbench201(), jax.random.key(1), 2, allowed=allowed)) == 1
    assert len(looked) == 207
    assert "1 of 2 random cells: 200 in a row are not within the limits" in capfd.readouterr().err


def test_random_cells_are_drawn_without_what_is_not_derived():
    space = spaces.nasbench201()
    drawn = [
        spaces.to_string(space, arch) for arch in train_network.random_cells(space, jax.random.key(1), 40, ["none"])
    ]
    assert not any("none" in text for text in drawn)
    assert all(any(op in text for text in drawn) for op in space.ops if op != "none")


def test_alpha_stands_still_during_its_warmup(images):
    """Two of six steps have the rate 0; the weights move at once."""
    words = [f"data={images}", *TINY, "estimator=first_order"]
    settings = config.build(Search, config.read_words([*words, "alpha.warmup=0.33", "weights.learning_rate=0.1"]))
    rate = rate_of(settings.alpha, 6)
    assert [float(rate(step)) > 0 for step in range(6)] == [False, False, True, True, True, True]
    assert float(rate_of(settings.weights, 6)(0)) == pytest.approx(0.1)


# Of the supernet: that of DARTS has as many as its authors' program reports.
PARAMETERS = {
    "darts": 1_930_618, "darts-storm": "darts", "double-recursion": 56_056, "nasbench201": 1_686_106,
    "nasbench201-first-order": "nasbench201",
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in config.presets() if config.kind_of(name) == "search"])
def test_every_preset_is_valid(name):
    """Each of its lines arrives in the settings, and the search and the training that they say can begin."""
    said = dict(dotted(yaml.safe_load((config.PRESETS / f"{name}.yaml").read_text())))
    said.pop("kind", None)
    settings = config.build(Search, config.read_preset(name))
    found = dict(dotted(dataclasses.asdict(settings)))
    assert {key: found[key] for key in said} == said
    space = spaces.by_name(settings.space)
    net = gradient.supernet_of(space, settings, 10)
    learner = gradient.learner_of(settings, net, (32, 32, 3), 100)
    if isinstance(PARAMETERS[name], str):  # of the preset with the same supernet, which takes long to describe
        other = config.build(Search, config.read_preset(PARAMETERS[name]))
        assert net == gradient.supernet_of(spaces.by_name(other.space), other, 10)
    else:
        point = jax.eval_shape(learner.init, jax.random.key(0)).point
        assert {alpha.shape for alpha in point.alpha.values()} == {(space.num_edges, len(space.ops))}
        assert point.weights.shape == (PARAMETERS[name],)
    fixed = spaces.fix(space, spaces.sample(space, jax.random.key(0), 1)[0])
    trained = train_network.network(fixed, settings.train, 10)
    assert (trained.auxiliary, trained.channels) == ("train.auxiliary" in said, said.get("train.channels", 8))
