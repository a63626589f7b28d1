"""Several searches in one program, run as a program: what they leave, and that they move to other devices."""

import dataclasses
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import SIGNALLED, TINY

from jnas import spaces
from jnas.data.load import load
from jnas.errors import UserError
from jnas.recipes import config, driver
from jnas.recipes.gradient import many
from jnas.recipes.gradient import recipe as gradient
from jnas.recipes.gradient.settings import Search, with_values

RATES = [0.03, 0.1]
CHEAP = (
    "estimator=first_order",
    "momentum=none",
    "weights.learning_rate=0.05",
    "train.epochs=1",
    "checkpoint_every=1",
    "steps_per_call=1",
)
WORDS = (*TINY, *CHEAP, "random_cells=0", "num_runs=2", f"each.alpha.learning_rate={RATES}", "alpha.warmup=0")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(images, command, tmp_path_factory):
    """Two runs on one device."""
    folder = tmp_path_factory.mktemp("many") / "whole"
    done = command("search", f"data={images}", *WORDS, "--out", folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_two_runs_leave_what_each_found_and_how_far_they_agree(whole):
    result = json.loads((whole / "result.json").read_text())
    assert [row["seed"] for row in result["runs"]] == [0, 1]
    assert [row["settings"]["alpha.learning_rate"] for row in result["runs"]] == RATES
    space = spaces.nasbench201()
    for row in result["runs"]:
        folder = whole / "search" / f"run-{row['seed']}"
        assert [each["step"] for each in lines(folder / "metrics.jsonl")] == list(range(1, 13))
        (*_, last) = lines(folder / "genotypes.jsonl")
        assert last["genotype"] == row["genotype"]
        alpha = {cell: jnp.asarray(values) for cell, values in last["alpha"].items()}
        assert spaces.to_string(space, spaces.discretise(space, alpha, without=["none"])) == row["genotype"]
        assert 0 <= row["outer_accuracy"] <= 1
        assert row["test_accuracy"] is not None
        assert list(folder.glob("events.out.tfevents.*"))
    chosen = next(row for row in result["runs"] if row["seed"] == result["chosen"])
    assert result["genotype"] == chosen["genotype"] == result["found"]["genotype"]
    assert result["agreement"]["num_runs"] == 2
    assert len(list((whole / "train").glob("run-*"))) == result["agreement"]["distinct_up_to_names"] - 1
    page = (whole / "report.html").read_text()
    assert "Runs of this search" in page
    assert "Kendall&#x27;s tau" in page


def test_stopped_on_four_devices_they_go_on_on_two(whole, images, command, tmp_path):
    words = ("search", f"data={images}", *WORDS, "--out", tmp_path / "run", "--mesh")
    stopped = command(*words, "run=2,data=2", before=SIGNALLED.format(number=signal.SIGTERM, step=3))
    assert stopped.returncode == 143, stopped.stderr
    search = tmp_path / "run" / "search"
    assert max(int(path.name) for path in (search / "checkpoints").iterdir()) == 3
    for name in ("run-0", "run-1"):  # one step for all runs, and no log beyond it or behind it
        assert [row["step"] for row in lines(search / name / "metrics.jsonl")] == [1, 2, 3]
    resumed = command(*words, "run=2")
    assert resumed.returncode == 0, resumed.stderr
    for name in ("run-0", "run-1"):
        rows, expected = (lines(folder / "search" / name / "metrics.jsonl") for folder in (tmp_path / "run", whole))
        assert [row["step"] for row in rows] == list(range(1, 13))
        np.testing.assert_allclose([r["inner_loss"] for r in rows], [r["inner_loss"] for r in expected], rtol=2e-2)
    found, undisturbed = (
        json.loads((folder / "search" / "found.json").read_text()) for folder in (tmp_path / "run", whole)
    )
    assert [row["genotype"] for row in found["runs"]] == [row["genotype"] for row in undisturbed["runs"]]


def test_a_run_draws_the_batches_that_its_seed_alone_would_draw(images):
    settings = config.build(Search, config.read_words([f"data={images}", *TINY, "num_runs=2", "seed=5"]))
    splits = load(str(images))
    together = gradient.source_of(settings, splits)
    for run in range(2):
        alone = dataclasses.replace(settings, num_runs=1, seed=5 + run)
        source = gradient.source_of(alone, splits)
        own = jax.tree.map(lambda leaf, run=run: leaf[run], together.per_run)
        for step in (0, 7):
            one = source.batch(source.arrays, jnp.int32(step), jax.random.key(3))
            other = together.batch((together.arrays, own), jnp.int32(step), jax.random.key(3))
            for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
                np.testing.assert_array_equal(a, b)
    keys = many.keys(settings, 3)
    assert np.array_equal(jax.random.key_data(keys[1]), jax.random.key_data(jax.random.fold_in(jax.random.key(6), 3)))


def test_of_several_results_the_sound_connected_one_with_the_best_supernet_is_kept():
    space = spaces.nasbench201()
    settings = config.build(Search, {"num_runs": 4})
    ops = {"none": 0, "skip_connect": 1, "nor_conv_3x3": 3}
    alpha = np.zeros((4, space.num_edges, len(space.ops)), np.float32)
    for run, op in enumerate(("none", "skip_connect", "nor_conv_3x3", "nor_conv_3x3")):
        alpha[run, :, ops[op]] = 1.0
    measured = ({"cell": alpha}, [0.9, 0.5, 0.6, 0.95], np.array([0, 0, 0, 7]))
    found = many.found(settings, space, measured, without=(), started=0.0)
    assert found["chosen"] == 2  # seed 0 is not connected, seed 3 diverged
    assert found["agreement"]["num_runs"] == 3
    assert [row["diverged_at"] for row in found["runs"]] == [None, None, None, 7]
    named = driver._to_train(space, driver._with_names(space, found))
    assert [name for name, _ in named] == ["found", "run-0", "run-1"]
    trained = {
        name: {"space": space.name, "genotype": spaces.to_string(space, arch), "test_accuracy": n / 10}
        for n, (name, arch) in enumerate(named)
    }
    driver._write_accuracies(space, found, [*trained.values()])
    assert [row["test_accuracy"] for row in found["runs"]] == [0.1, 0.2, 0.0, 0.0]


def test_settings_of_a_run():
    settings = Search(num_runs=2, each={"alpha.coefficient.floor": [0.05, 0.1], "damping": [0.0, 1.0]})
    one = with_values(settings, {"alpha.coefficient.floor": 0.05, "damping": 1.0})
    assert (one.alpha.coefficient.floor, one.damping, one.weights) == (0.05, 1.0, settings.weights)
    assert settings.alpha.coefficient.floor == 0.0  # the original stays
    for each, sentence in [
        ({"channels": [1, 2]}, "each: 'channels' cannot differ between runs: choose among weights.learning_rate"),
        ({"damping": [1.0]}, r"each: damping has 1 values for num_runs=2: give one a run"),
        ({"neumann_step": [0.1, 0.2]}, "each: neumann_step is null, which shapes the program: give it a number too"),
        ({"alpha.weight_decay": [0.1, -1.0]}, "weight_decay is -1.0: give at least 0"),
    ]:
        with pytest.raises(ValueError, match=f"^{sentence}"):
            Search(num_runs=2, each=each)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--mesh", "data=7"], "batch_size is 10 and data=7 devices do not divide it: give a multiple of 7"),
        (["--mesh", "run=2", "num_runs=3"], "3 runs cannot be spread over run=2: choose a number of runs that is a"),
        (["--mesh", "rows=2"], "'rows=2' is no mesh: give sizes of run and data, such as data=8 or run=4,data=2"),
        (["--mesh", "data"], "'data' is no mesh"),
    ],
)
def test_what_does_not_fit_is_one_sentence_and_nothing_is_written(images, command, tmp_path, words, sentence):
    done = command("search", f"data={images}", *TINY, "--out", tmp_path / "run", *words)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert line.removeprefix("jnas: ").startswith(sentence)
    assert not (tmp_path / "run").exists()


def test_a_mesh_of_unknown_axes_is_refused_in_python():
    from jnas.cli.hosts import parse_mesh

    with pytest.raises(UserError, match="no mesh"):
        parse_mesh("run=4;data=2")
