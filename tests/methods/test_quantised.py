"""The joint search: its parts against what they promise, and a run stopped and taken up again."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jnas import config, data, engine, nets, spaces
from jnas.errors import Interrupted, UserError
from jnas.methods import models, quantised, quantised_training, retrain, weight_sharing
from jnas.methods.settings import Training
from jnas.methods.settings_quantised import QuantisedSearch
from jnas.nets import units
from jnas.spaces.policy import Method

TINY = {
    "operators": "skip_connect nor_conv_1x1", "methods": "w2a4 w8a8", "method_threshold": 0.1, "probes": 1,
    "supernet": {"channels": 2, "depth": 1, "epochs": 1, "batch_size": 32},
    "augmentation": {"crop": 1}, "num_evaluations": 12, "at_once": 4, "searcher": "random",
    "train": {"channels": 2, "depth": 1, "epochs": 1, "batch_size": 40, "augmentation": {"crop": 1}},
    "steps_per_call": 1,
}  # fmt: skip


def settings(images, **changes):
    return config.build(QuantisedSearch, TINY, {"data": str(images), **changes})


UNITS = (*(f"cell/{pair}" for pair in ("0_1", "0_2", "0_3", "1_2", "1_3", "2_3")), "residual")
TARGET = np.array([0, 1, 0, 1, 1, 0])


def pretended(archs, columns):
    """Accuracies in closed form: near a hidden cell better, with 2 bits on a convolution worse, on 0_1 much worse."""
    near = np.mean(archs == TARGET, axis=1)
    narrow = (columns == 0) * np.array([0.3, *[0.01] * 6])
    return 0.5 + 0.4 * near - narrow.sum(1)


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """Folder and result of a run stopped in its search and taken up again, with accuracies and trainings made up."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    search, asked = engine.search, []

    def stopping(searcher, objective, **others):
        def once(arch, key):
            if len(asked) == 5:
                asked.append(None)
                raise Interrupted("stopped by a test")
            asked.append(arch.tolist())
            return objective(arch, key)

        return search(searcher, once, **others)

    def train(prepared, policy, *_):
        return {
            "genotype": prepared.genotype, "policy": {name: str(method) for name, method in policy.items()},
            "test_accuracy": 0.5, "integer": {"refused": "none"}, "name": "joint", "parameters": 1, "epochs": 1,
        }  # fmt: skip

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "search", stopping)
        patch.setattr(quantised, "_supernet", lambda *_: lambda *_, **__: pretended)
        patch.setattr(quantised_training, "train", train)
        with pytest.raises(Interrupted):
            quantised.run(settings(images), folder)
        result = quantised.run(settings(images), folder)
    return folder, result, [tuple(code) for code in asked if code is not None]


def test_a_stopped_search_repeats_no_trial_and_each_search_has_its_share(whole):
    _, result, asked = whole
    found = result["quantised"]
    assert {name: one["evaluations"] for name, one in found.items()} == {"joint": 12, "eight": 12, "then": 12}
    assert len(asked) == 36
    assert len(set(asked[:12])) == 12
    assert len(found["joint"]["curve"]) == 12
    assert set(found["eight"]["policy"].values()) == {"w8a8"}


def test_rewards_are_those_of_accuracy_and_size(whole):
    _, result, _ = whole
    for one in result["quantised"].values():
        arch, columns = (np.array(one[name])[None] for name in ("arch", "columns"))
        assert one["accuracy"] == pytest.approx(pretended(arch, columns)[0])
    joint, eight = (result["quantised"][name] for name in ("joint", "eight"))
    ratio = (joint["reward"] / joint["accuracy"]) / (eight["reward"] / eight["accuracy"])
    assert ratio == pytest.approx((joint["size"] / eight["size"]) ** -0.07)


def test_units_keep_the_methods_below_the_threshold(whole):
    folder, result, _ = whole
    stored = json.loads((folder / "sensitivity.json").read_text())["methods"]
    assert tuple(stored["units"]) == UNITS
    losses = np.array(stored["losses"]["accuracy"])
    assert losses[0, 0] > 0.1 > losses[1, 0]
    assert np.all(losses[:, 1:] == 0)
    assert result["quantised"]["joint"]["policy"]["cell/0_1"] == "w8a8"


def test_every_operator_is_in_a_probe():
    """Two architectures hold 12 of the 30 operators of the space: the others would count as harmless."""
    space = spaces.nasbench201()
    first = np.asarray(spaces.sample(space, jax.random.key(0), 2))
    archs = quantised._covering(space, first, jax.random.key(1))
    shares = quantised._shares(space, archs)
    np.testing.assert_array_equal(archs[:2], first)
    assert len(shares) == 30
    assert sum(shares.values()) == pytest.approx(6)  # one operator an edge in each


def test_other_commands_say_that_the_network_is_quantised(whole):
    with pytest.raises(UserError, match="holds a quantised network"):
        models.network_folder(next(part for part in whole if isinstance(part, pathlib.Path)))


def test_the_page_says_who_won(whole):
    page = (whole[0] / "report.html").read_text()
    for text in ("Quantised networks", "found together", "accuracy lost alone", "8 bits everywhere", "in this run"):
        assert text in page


def test_a_finished_run_is_returned_and_one_of_other_settings_refused(whole, images):
    folder, result, _ = whole
    assert quantised.run(settings(images), folder)["quantised"] == result["quantised"]
    with pytest.raises(UserError, match="at_once=4 and not 2"):
        quantised.run(settings(images, at_once=2), folder)


def test_a_reward_that_stands_still_ends_the_search(images, tmp_path, monkeypatch):
    monkeypatch.setattr(
        quantised, "_supernet", lambda *_: lambda *_, **__: lambda archs, columns: np.full(len(archs), 0.5)
    )
    monkeypatch.setattr(quantised_training, "train", lambda prepared, *_: {"genotype": prepared.genotype})
    changes = {"tolerance": 0.0, "window": 2, "compare": False, "reward": {"size": 0.0}, "policy": "w4a8"}
    result = quantised.run(settings(images, method_threshold=None, num_evaluations=40, **changes), tmp_path / "run")
    found = result["quantised"]["joint"]
    assert (found["evaluations"], found["converged"]) == (12, True)
    assert set(found["columns"]) == {0}


@pytest.fixture(scope="module")
def cells():
    """A space of two edges whose network is one cell, and images for it."""
    space = spaces.CellSpace(
        "two", ("cell",), 1, 2, ("skip_connect", "nor_conv_1x1"),
        ((("skip_connect", "nor_conv_1x1"), (), ("nor_conv_1x1",)),), None, "last",
    )  # fmt: skip
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (64, 36)).astype(np.uint8), rng.integers(0, 2, 64).astype(np.int32)
    pixels[labels == 1, :18] //= 4  # dark above: what there is to learn
    return space, data.Dataset(pixels, labels, (6, 6, 1), 2)


def small(space):
    return nets.Network(space, ("cell",), 4, 2, stem_multiplier=1, project_inputs=False, affine=space.is_fixed)


def test_a_supernet_learns_under_random_policies_and_judges_many_at_once(cells):
    space, images = cells
    net, start = small(space), weight_sharing.start_supernet(small(space), images.shape)
    params, _ = jax.eval_shape(start, jax.random.key(0))[0]
    of = units.units(net, params, units.shared)
    policies = spaces.policies(of.names, (Method(2, 8), Method(8, 8)))
    learner = weight_sharing.single_path(net, start, of, policies, space, optax.sgd(0.1))
    source = data.supervised_source(images, batch_size=32, augment=data.Augment())
    state = engine.fit(learner, source, key=jax.random.key(0), num_steps=60, steps_per_call=60)
    variables = {"params": state.point.weights, "batch_stats": state.variables}
    judge = weight_sharing.judge(net, variables, of, policies.methods, space, images, data.Augment())
    archs, columns = np.array([[0, 0], [1, 0], [1, 0]]), np.array([[1, 1], [1, 1], [0, 0]])
    together = judge(archs, columns)
    assert together.min() > 0.8
    assert together.tolist() == [float(judge(archs[n : n + 1], columns[n : n + 1])[0]) for n in range(3)]


def test_training_under_a_policy_ends_in_integers(cells, tmp_path):
    space, images = cells
    fixed = spaces.fix(space, np.array([1, 0]))
    prepared = retrain.Prepared(small(fixed), "two convolutions", space, data.Augment())
    training = Training(epochs=20, batch_size=32, learning_rate=0.05)
    policy = {"cell/0_1": Method(4, 8), "cell/1_2": Method(8, 8), "cell/9_9": Method(2, 2)}
    splits = data.Splits(images, images)
    with jax.numpy_dtype_promotion("standard"):
        result = quantised_training.train(prepared, policy, units.shared, splits, training, tmp_path / "one", 0, 40)
    assert result["policy"] == {"cell/0_1": "w4a8", "cell/1_2": "w8a8"}
    assert result["test_accuracy"] > 0.8
    assert result["integer"]["agreement"] >= 0.98
    again = quantised_training.train(prepared, policy, units.shared, splits, training, tmp_path / "one", 0)
    assert again == result


def test_traced_mixtures_are_those_of_the_architecture():
    space = spaces.s2()  # whose nodes keep some of their edges
    places = weight_sharing.placements(space)
    mix = jax.jit(lambda arch: weight_sharing.mix_of(places, arch))
    for arch in np.asarray(spaces.sample(space, jax.random.key(0), 2)):
        expected, found = spaces.one_hot_alpha(space, arch), mix(jnp.asarray(arch))
        for cell in space.cells:
            np.testing.assert_array_equal(found[cell], expected[cell])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"methods": "w1a8"}, "is no method"),
        ({"methods": ""}, "name at least one"),
        ({"methods": "w4a8 w4a8"}, "each once"),
        ({"repeats": 0}, "repeats is 0"),
        ({"learning_rate": 0.0}, "learning_rate 0.0"),
        ({"operators": "conv_9x9"}, "is not in nasbench201"),
        ({"operator_threshold": 0.1}, "policy is not"),
        ({"reward": {"latency": 0.1}}, "name a table"),
        ({"latency": "missing.json"}, "is no table of latencies"),
        ({"units": "edges", "supernet": {"depth": 2}}, "set both alike"),
    ],
)
def test_settings_that_do_not_fit_are_refused_and_leave_nothing(images, tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        quantised.run(settings(images, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
