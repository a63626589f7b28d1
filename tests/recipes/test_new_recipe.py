"""A recipe holds what is its own: one that the package does not know is run, stopped and resumed by the one driver."""

import dataclasses
import json
import pathlib

import halving
import jax
import numpy as np
import pytest

from jnas.errors import Interrupted, UserError
from jnas.recipes import driver
from jnas.recipes.settings import Augmentation, Training
from jnas.searchers.base import Evaluation

TINY = Training(channels=2, epochs=1, batch_size=40, augmentation=Augmentation(crop=1))
WORTH = np.array([1.0, 4.0, 2.0])  # of `none`, `skip_connect` and the convolution, on any edge


@pytest.fixture(scope="module")
def settings(images):
    return halving.Halving(
        data=str(images), space="cell-3:none,skip_connect,nor_conv_1x1", cells=8, stages=3, stage=TINY, train=TINY,
        random_cells=0, validation=0.25,
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(settings, tmp_path_factory):
    """Folder and result of a run that was stopped in its second stage and taken up again, an undisturbed search, and
    the short trainings of both as `(epochs, code)`; a training gives a number that more epochs know better.
    """
    begun, stops = [], [10]

    def short_training(space, train, validation, training):
        def judge(arch, key):
            begun.append((training.epochs, tuple(arch.tolist())))
            if [len(begun)] == stops:
                raise Interrupted("stopped by a test")
            noise = float(jax.random.normal(jax.random.fold_in(key, int(arch.sum())))) / training.epochs
            return Evaluation(float(WORTH[arch].sum()) + noise)

        return judge

    parent = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setattr(halving, "short_training", short_training)
        with pytest.raises(Interrupted):
            driver.run(halving, settings, parent / "run")
        stops.clear()
        result = driver.run(halving, settings, parent / "run")
        assert driver.run(halving, settings, parent / "run")["found"] == result["found"]  # done, and read
        resumed = len(begun)
        return parent, result, begun[:resumed], driver.search(halving, settings, parent / "alone"), begun[resumed:]


def test_a_new_recipe_is_stopped_half_way_and_resumed_by_the_driver(runs):
    parent, result, begun, undisturbed, others = runs
    assert [epochs for epochs, _ in others] == [1] * 8 + [2] * 4 + [4] * 2
    assert begun[9] == begun[10]  # the one in which it was stopped
    assert [*begun[:9], *begun[10:]] == others  # and none else twice
    assert result["genotype"] == undisturbed["genotype"] == result["found"]["genotype"]
    scores = [(parent / name / "search" / "scores.json").read_text() for name in ("run", "alone")]
    assert scores[0] == scores[1]


def test_the_driver_gives_a_new_recipe_what_every_run_has(runs, settings, tmp_path):
    parent, result, *_ = runs
    folder = parent / "run"
    assert (result["method"], result["steps"]) == ("random search, 8 cells halved in 3 stages", 14)
    assert "kind: halving" in (folder / "config.yaml").read_text()
    assert json.loads((folder / "result.json").read_text()) == json.loads(json.dumps(result))
    assert result["method"] in (folder / "report.html").read_text()
    with pytest.raises(UserError, match="cells=8 and not 16"):
        driver.run(halving, dataclasses.replace(settings, cells=16), folder)
    with pytest.raises(UserError, match="batch"):
        driver.run(halving, dataclasses.replace(settings, stage=Training(batch_size=500)), tmp_path / "large")
    assert not (tmp_path / "large").exists()


def test_a_recipe_is_short():
    assert len(pathlib.Path(halving.__file__).read_text(encoding="utf-8").splitlines()) <= 150
