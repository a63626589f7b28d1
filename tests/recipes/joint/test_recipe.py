"""The joint search: its parts against what they promise, and a run stopped and taken up again."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quantised_worker
from quantised_worker import asked, both_begun, made_up, pretended, run, settings, until

from jnas import data, nets, spaces
from jnas.errors import Interrupted, UserError
from jnas.nets.quant import integer, sizes, units
from jnas.recipes import chains, costs, driver, models, quantised, trainer
from jnas.recipes.classification import training_loss
from jnas.recipes.config import build
from jnas.recipes.joint import latencies, sensitivity, weight_sharing
from jnas.recipes.joint import plan as quantised_plan
from jnas.recipes.joint import recipe as joint
from jnas.recipes.joint import search as joint_search
from jnas.recipes.settings import Training
from jnas.spaces.policy import EIGHT, Method, policies
from jnas.spaces.products import product
from jnas.types import Context

UNITS = (*(f"cell/{pair}" for pair in ("0_1", "0_2", "0_3", "1_2", "1_3", "2_3")), "residual")


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """Folder and result of a run stopped in its search and taken up again, with accuracies and trainings made up."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    search, asked = joint_search.search, []

    def stopping(searcher, objective, **others):
        def once(arch, key):
            if len(asked) == 5:
                asked.append(None)
                raise Interrupted("stopped by a test")
            asked.append(arch.tolist())
            return objective(arch, key)

        return search(searcher, once, **others)

    with pytest.MonkeyPatch.context() as patch, made_up():
        patch.setattr(joint_search, "search", stopping)
        with pytest.raises(Interrupted):
            driver.run(joint, settings(images), folder)
        result = driver.run(joint, settings(images), folder)
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


def test_a_front_is_searched_by_a_model_and_networks_of_it_are_trained(images, tmp_path):
    """The score is one of sums and noise; what is trained is what the model takes for the front."""
    noise = np.random.default_rng(0)
    words = {"searcher": "front", "beside": ["size"], "population": 8, "num_evaluations": 40, "networks": 3}
    with made_up(lambda archs, columns: pretended(archs, columns) + noise.normal(0, 0.02, len(archs))):
        result = driver.run(joint, settings(images, **words, method_threshold=None, compare=False), tmp_path / "run")
    found = result["quantised"]
    best = found.pop("joint")
    front = [(one["size"], one["accuracy"]) for one in best["front"]]
    assert set(found) <= {"front-1", "front-2", "front-3"}
    assert {(one["size"], one["accuracy"]) for one in found.values()} <= set(front)
    for one in (best, *found.values()):
        true = pretended(*(np.array(one[name])[None] for name in ("arch", "columns")))[0]
        assert one["accuracy"] == pytest.approx(true, abs=0.05)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "of its front, 1" in page
    assert "could not be read" not in page


def test_a_population_begins_with_uniform_policies():
    space, methods = spaces.nasbench201(), [Method(bits, 8) for bits in (2, 4, 8)]
    both = product(space, policies(["a", "b"], methods), order=joint_search.order_of("together", 6, 2))
    archs, codes = map(np.asarray, both.split(joint_search.uniform(both, jax.random.key(0), 5)))
    assert codes.tolist() == [[0, 0], [1, 1], [2, 2], [0, 0], [1, 1]]
    assert len(np.unique(archs, axis=0)) == 5
    one = product(space, policies(["a", "b"], [EIGHT]))
    assert np.all(np.asarray(one.split(joint_search.uniform(one, jax.random.key(0), 5))[1]) == 0)


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
    archs = sensitivity.covering(space, first, jax.random.key(1))
    shares = sensitivity.shares(space, archs)
    np.testing.assert_array_equal(archs[:2], first)
    assert len(shares) == 30
    assert sum(shares.values()) == pytest.approx(6)  # one operator an edge in each


def test_a_run_that_kept_no_ranges_says_so(whole):
    with pytest.raises(UserError, match="kept no ranges of its activations: search again, or jnas train"):
        models.network_folder(next(part for part in whole if isinstance(part, pathlib.Path)))


def test_the_page_says_who_won(whole):
    page = (whole[0] / "report.html").read_text()
    for text in ("Quantised networks", "found together", "accuracy lost alone", "8 bits everywhere", "in this run"):
        assert text in page


def test_a_finished_run_is_returned_and_one_of_other_settings_refused(whole, images):
    folder, result, _ = whole
    assert driver.run(joint, settings(images), folder)["quantised"] == result["quantised"]
    with pytest.raises(UserError, match="at_once=4 and not 2"):
        driver.run(joint, settings(images, at_once=2), folder)


@pytest.mark.parametrize("order", ["policy", "together"])
def test_whatever_is_drawn_first_a_candidate_is_scored_as_what_it_is(images, tmp_path, order):
    changes = {"order": order, "compare": False, "method_threshold": None}
    with made_up():
        result = driver.run(joint, settings(images, **changes), tmp_path / "run")
    found = result["quantised"]["joint"]
    arch, columns = (np.array(found[name])[None] for name in ("arch", "columns"))
    assert found["accuracy"] == pytest.approx(pretended(arch, columns)[0])
    lines = map(json.loads, (tmp_path / "run" / joint_search.TRIALS).read_text().splitlines())
    choices = next(line["user_attr"]["choices"] for line in lines if "choices" in line.get("user_attr", {}))
    drawn = [name.partition("/")[0] for name, _ in choices]
    assert len(drawn) == 6 + len(UNITS)
    assert drawn[:2] == ["policy", "nasbench201" if order == "together" else "policy"]


def test_latencies_of_this_device_are_measured_once_and_kept(images, tmp_path):
    changes = {"latency": "measured", "reward": {"latency": 0.1}, "compare": False, "method_threshold": None}
    with made_up():
        found = driver.run(joint, settings(images, **changes), tmp_path / "run")["quantised"]["joint"]
    file = tmp_path / "run" / "latencies.json"
    known = json.loads(file.read_text())
    assert {name.split()[-1] for name in known} == {"int8", "float32"}
    assert {name.split()[0] for name in known} == {"Conv", "Linear"}
    plan = quantised_plan.make_plan(settings(images, **changes))
    net = nets.network_for(spaces.fix(plan.space, np.array(found["arch"])), channels=2, depth=1, num_classes=4)
    of_net = sizes.layer_shapes(net, plan.splits.train.shape).values()
    assert found["latency"] == pytest.approx(sum(latencies.measured(tmp_path / "run")(one, EIGHT) for one in of_net))
    assert json.loads(file.read_text()) == known  # all that a candidate may hold was measured before the search
    file.write_text('{"Conv": -1.0}')
    with pytest.raises(UserError, match=r"latencies\.json"):
        latencies.measured(tmp_path / "run")


@pytest.mark.parametrize("space", ["nasbench201", "chain-3:skip_connect,nor_conv_1x1"])
def test_costs_are_those_of_networks_with_the_stem_of_the_training(images, space):
    train = {"channels": 2, "depth": 1, "stem": "imagenet", "batch_size": 40}
    plan = quantised_plan.make_plan(settings(images, space=space, policy="w8a8", method_threshold=None, train=train))
    arch = np.asarray(spaces.sample(plan.space, jax.random.key(0), 1)[0])
    net = chains.prepare(plan.space, arch, plan.splits, build(Training, train)).net
    layers = sizes.layer_sizes(net, plan.splits.train.shape).values()
    found = costs.costs(plan.costs, costs.operators(plan.costs, arch), np.zeros(len(plan.units.names), int))
    assert found["size"] == sum(one.weights + costs.CONSTANTS * one.channels for one in layers)


def test_a_fixed_policy_may_be_mixed(images, tmp_path):
    mixed = ["w2a4", "w8a8", "w4a8", "w8a8", "w8a8", "w2a4", "w4a8"]
    changes = {"compare": False, "method_threshold": None}
    with made_up():
        config = settings(images, policy=" ".join(mixed), **changes)
        found = driver.run(joint, config, tmp_path / "run")["quantised"]["joint"]
    assert found["policy"].items() <= dict(zip(UNITS, mixed, strict=True)).items()
    assert found["evaluations"] == 12
    with pytest.raises(UserError, match=r"policy names 2 methods: give one, or one for each of cell/0_1, .* residual"):
        quantised_plan.make_plan(settings(images, policy="w2a4 w8a8", **changes))
    with pytest.raises(ValueError, match="policy is 'w2a4 w8a8': name the method of all units"):
        settings(images, policy="w2a4 w8a8", operator_threshold=0.1)


def test_a_reward_that_stands_still_ends_the_search(images, tmp_path):
    changes = {"tolerance": 0.0, "window": 2, "compare": False, "reward": {"size": 0.0}, "policy": "w4a8"}
    config = settings(images, method_threshold=None, num_evaluations=40, **changes)
    with made_up(lambda archs, columns: np.full(len(archs), 0.5)):
        result = driver.run(joint, config, tmp_path / "run")
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
    net = small(space)
    of = units.units(net, nets.shapes(net, images.shape)["params"], units.shared)
    policy = policies(of.names, (Method(2, 8), Method(8, 8)))
    loss = weight_sharing.single_path(net, of, policy, space)
    source = data.supervised_source(images, batch_size=32, augment=data.Augment())
    settings = Training(epochs=30, batch_size=32)
    job = trainer.job_of(net, loss, lambda num_steps: optax.sgd(0.1), source, images, settings)
    variables = trainer.train(job, jax.random.key(0), steps_per_call=60)
    judge = weight_sharing.judge(net, variables, of, policy.methods, space, images, data.Augment())
    archs, columns = np.array([[0, 0], [1, 0], [1, 0]]), np.array([[1, 1], [1, 1], [0, 0]])
    together = judge(archs, columns)
    assert together.min() > 0.8
    alone = [float(judge(archs[n : n + 1], columns[n : n + 1])[0]) for n in range(3)]
    np.testing.assert_allclose(together, alone, rtol=1e-6)

    # Each trained on from these weights under its policy: the same as the steps of a fixed mixture by hand.
    fresh = nets.initialise(net, jax.random.key(1), images.shape)
    fresh = dict(zip(("params", "batch_stats"), fresh, strict=True))
    tuning = weight_sharing.Tuning(3, optax.sgd(0.3, 0.9), source)
    switch = net.clone(edge_strategy="switch")
    tuned = weight_sharing.judge(
        switch, fresh, of, policy.methods, space, images, data.Augment(), at_once=2, tuning=tuning
    )(archs, columns)
    for n, expected in enumerate(tuned):
        mix = spaces.one_hot_alpha(space, archs[n])
        quant = units.rules(of, policy.methods, columns[n])
        weights, stats, state = fresh["params"], fresh["batch_stats"], tuning.optimiser.init(fresh["params"])
        for step in range(3):
            batch = source.batch(source.arrays, jnp.int32(step), jax.random.key(0))
            loss = lambda weights: training_loss(net, {"params": weights, "quant": quant}, batch, Context(stats), mix)  # noqa: B023
            gradient, aux = jax.grad(loss, has_aux=True)(weights)
            updates, state = tuning.optimiser.update(gradient, state, weights)
            weights, stats = optax.apply_updates(weights, updates), aux.variables
        of_step = {"params": weights, "batch_stats": stats}
        by_hand = weight_sharing.judge(net, of_step, of, policy.methods, space, images, data.Augment())
        assert by_hand(archs[n : n + 1], columns[n : n + 1])[0] == pytest.approx(expected, abs=1.01 / 64)
    fresh = weight_sharing.judge(net, fresh, of, policy.methods, space, images, data.Augment())(archs, columns)
    assert (tuned - fresh).max() > 0.1


def test_a_device_without_integer_products_is_named(cells, monkeypatch):
    def unable(*_):
        raise jax.errors.JaxRuntimeError("UNIMPLEMENTED: no convolution of int8\nmore")

    monkeypatch.setattr(integer, "integer_layers", lambda *_: {})
    monkeypatch.setattr(integer, "integer_apply", lambda *_: unable)
    one = quantised.Quantised(small(cells[0]), units.Units((), ()), (), np.zeros(0, np.int32))
    variables = {"params": {}, "batch_stats": {}}
    found = quantised.in_integers(one, variables, {}, cells[1], data.Augment(), np.zeros(64, np.int32))
    sentence = "cpu cannot run this network in integers (UNIMPLEMENTED: no convolution of int8): measure it on a CPU"
    assert found == {"refused": sentence}


def test_candidates_may_train_weights_of_their_own(images, tmp_path):
    changes = {"supernet": {"channels": 2, "depth": 1, "epochs": 0, "batch_size": 32}, "method_threshold": None}
    config = settings(images, **changes, tuning_steps=60, tuning_rate=0.2, units="blocks")
    smaller = joint.plan(dataclasses.replace(config, shrink=2))
    assert smaller.training.shape == smaller.validation.shape == (3, 3, 1)
    plan = joint.plan(config)
    assert plan.costs.parts.sizes.tolist() == smaller.costs.parts.sizes.tolist()  # of the networks in the end
    assert plan.units.names == tuple(f"block_{index}" for index in range(5))
    judge = joint.supernet(config, plan, tmp_path / "supernet")()
    archs, columns = np.array([[1, 0, 0, 1, 0, 1]] * 2), np.array([[1] * 5, [0] * 5])
    with jax.numpy_dtype_promotion("standard"):  # a cosine of optax
        scores = judge(archs, columns)
        np.testing.assert_allclose(judge(archs[::-1], columns[::-1]), scores[::-1], rtol=1e-6)
    assert scores[0] > 0.3  # guessing: a quarter
    assert scores[0] != scores[1]
    assert not (tmp_path / "supernet").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"methods": "w1a8"}, "is no method"),
        ({"methods": ""}, "name at least one"),
        ({"methods": "w4a8 w4a8"}, "each once"),
        ({"repeats": 0}, "repeats is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"operators": "conv_9x9"}, "is not in nasbench201"),
        ({"space": "chain-2:conv_3x3,skip_connect"}, "choose among conv_3x3, skip_connect, or write operators="),
        ({"space": "chain:conv_3x3+skip_connect", "operators": "conv_3x3"}, "a layer without a candidate"),
        ({"space": "chain-2:conv_3x3-g3,skip_connect", "operators": ""}, "which 3 groups do not divide"),
        ({"operator_threshold": 0.1}, "policy is ''"),
        ({"operator_growth": {"size": 0.1}}, "policy is ''"),
        ({"method_growth": {"speed": 0.1}}, "'speed' is no cost"),
        ({"searcher": "front"}, "name a cost, such as"),
        ({"networks": 2}, "name a cost, such as"),
        ({"searcher": "nsga2", "beside": ["latency"]}, "give latency=measured or"),
        ({"searcher": "nsga2", "beside": ["size", "size"]}, "name each cost once"),
        ({"method_growth": {"size": float("nan")}}, "give a finite number"),
        ({"reward": {"latency": 0.1}}, "give latency=measured or"),
        ({"latency": "missing.json"}, "is no table of latencies"),
        ({"units": "edges", "supernet": {"depth": 2}}, "set both alike"),
        ({"units": "blocks", "supernet": {"depth": 2}}, "units are blocks"),
        ({"supernet": {"epochs": 0}, "method_threshold": None}, "scored with random weights"),
        ({"supernet": {"epochs": 0}, "tuning_steps": 2}, "losses of accuracy filter"),
        ({"supernet": {"epochs": 0}, "tuning_steps": 2, "method_threshold": 0.0}, "losses of accuracy filter"),
        ({"shrink": 8}, "shrink is 8 and images are 7 x 7"),
    ],
)
def test_settings_that_do_not_fit_are_refused_and_leave_nothing(images, tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        driver.run(joint, settings(images, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def fronts(images, tmp_path_factory):
    """Three searches for a front: one of two processes, one killed in its sixth trial and taken up, one undisturbed."""
    parent = tmp_path_factory.mktemp("fronts")
    shared, alone = parent / "shared", parent / "alone"
    command = [sys.executable, quantised_worker.__file__, images, shared, alone]
    root = str(pathlib.Path(__file__).parents[3])
    process = subprocess.Popen(list(map(str, command)), env={**os.environ, "PYTHONPATH": root})
    try:
        results = {"shared": run(images, shared, both_begun(shared))}
        until(lambda: len(asked(alone)) == 6 or process.poll() is not None)
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    results |= {name: run(images, parent / name) for name in ("alone", "undisturbed")}
    return parent, process.pid, {name: result["quantised"]["joint"] for name, result in results.items()}


def test_two_processes_share_the_trials_and_run_none_twice(fronts):
    parent, other, results = fronts
    begun = asked(parent / "shared")
    assert len(begun) == len(set(begun)) == results["shared"]["evaluations"] == 16
    assert 1 <= len(asked(parent / "shared", other)) <= 15  # each has begun one; how many more, the machine says


def test_a_search_killed_in_a_trial_ends_with_the_trials_of_an_undisturbed_one(fronts):
    parent, killed, results = fronts
    first, second = asked(parent / "alone", killed), asked(parent / "alone", os.getpid())
    (again,) = set(first) & set(second)
    assert (len(first), len(second), again) == (6, 11, first[-1])
    assert set(first + second) == set(asked(parent / "undisturbed"))
    alone, undisturbed = results["alone"], results["undisturbed"]
    assert {name: alone[name] for name in ("arch", "columns", "reward")} == {
        name: undisturbed[name] for name in ("arch", "columns", "reward")
    }
    assert sorted(alone["points"]["values"]) == sorted(undisturbed["points"]["values"])


def test_a_front_is_what_nothing_beats_and_the_best_reward_is_trained(fronts):
    parent, _, results = fronts
    found = results["undisturbed"]
    points = found["points"]["values"]
    assert found["points"]["names"] == ["accuracy", "size"]
    front = [[a, s] for a, s in points if not any(b >= a and t <= s and (b > a or t < s) for b, t in points)]
    assert [[one["accuracy"], one["size"]] for one in found["front"]] == front
    assert 1 < len(front) < len(points)
    candidates = [json.loads(line) for line in asked(parent / "undisturbed")]
    expected = [pretended(np.array([arch]), np.array([columns]))[0] for arch, columns in candidates]
    assert [accuracy for accuracy, _ in points] == expected
    assert found["reward"] == pytest.approx(max(found["curve"]), abs=1e-6)
    assert "beaten in both by none" in (parent / "undisturbed" / "report.html").read_text()


@pytest.fixture(scope="module")
def target(images, tmp_path_factory):
    """Settings of a search on a target that is slower with 2 bits than with 8, and their plan."""
    table = tmp_path_factory.mktemp("target") / "latency.json"
    table.write_text('{"w2a4": 3.0, "w8a8": 1.0, "w32a32": 1.0}')
    changes = {"latency": str(table), "method_growth": {"latency": 0.0}, "sensitivity_from": "w8a8"}
    config = settings(images, method_threshold=None, **changes)
    plan = quantised_plan.make_plan(config)
    return dataclasses.replace(config, method_growth={}), plan


def weak(of=None, **others):
    """A quarter of the accuracy is lost by 2 bits of the convolution on the first edge."""
    at = 0 if of is None else of.names.index("cell/0_1/nor_conv_1x1")
    return lambda archs, columns: 0.5 - 0.125 * ((archs[:, 0] == 1) & (columns[:, at] == 0))


@pytest.mark.parametrize(("threshold", "left"), [(0.24, ("skip_connect",)), (0.26, ("skip_connect", "nor_conv_1x1"))])
def test_an_operator_that_loses_more_than_the_threshold_leaves_its_edge(target, tmp_path, threshold, left):
    config, plan = target
    config = dataclasses.replace(config, policy="w2a4", operator_threshold=threshold)
    space, _ = sensitivity.filtered(config, plan, weak, tmp_path)
    ((first, *others),) = space.edge_ops
    assert first == left
    assert tuple(others) == plan.space.edge_ops[0][1:]


def test_a_search_stays_among_the_operators_that_are_left(images, tmp_path):
    seen = []

    def score(of=None, **others):
        judge = weak(of)

        def noting(archs, columns):
            seen.extend(archs.tolist() if of is None else [])
            return judge(archs, columns)

        return noting

    changes = {"policy": "w2a4", "operator_threshold": 0.1, "method_threshold": None, "compare": False}
    with made_up(score=score):
        driver.run(joint, settings(images, **changes), tmp_path / "run")
    assert len(seen) == 12
    assert np.any(seen, axis=0).tolist() == [False, True, True, True, True, True]
    assert "Operators: accuracy lost alone" in (tmp_path / "run" / "report.html").read_text()


def test_what_grows_slower_by_a_method_loses_it(target, tmp_path):
    config, plan = target
    config = dataclasses.replace(config, method_growth={"latency": 0.0})
    _, policies = sensitivity.filtered(config, plan, weak, tmp_path)
    (arch,) = np.asarray(spaces.sample(plan.space, jax.random.fold_in(jax.random.key(0), 2), 1))
    net = nets.network_for(spaces.fix(plan.space, arch), channels=2, depth=1, num_classes=4)
    products = dict.fromkeys([*UNITS, None], 0)
    for path, layer in sizes.layer_sizes(net, plan.splits.train.shape).items():
        products[units.shared(units.place_of(net, path))] += layer.products
    losses = json.loads((tmp_path / "sensitivity.json").read_text())["methods"]["losses"]
    expected = [2 * products[unit] / sum(products.values()) for unit in UNITS]
    np.testing.assert_allclose(losses["latency"], [[growth, 0, 0] for growth in expected], atol=1e-12)
    assert 0 < np.count_nonzero(expected) < len(UNITS)
    two, eight = plan.methods[:2]
    assert policies.allowed == tuple((eight,) if growth else (two, eight) for growth in expected)


def test_of_each_unit_the_least_sensitive_stay_by_rank(target, tmp_path):
    config, plan = target
    config = dataclasses.replace(config, method_rank={"latency": 1})
    _, policies = sensitivity.filtered(config, plan, weak, tmp_path)
    assert set(policies.allowed) == {(plan.methods[1],), (plan.methods[0],)}  # the latter of units without products
    with pytest.raises(ValueError, match="method_rank is 0: give"):
        dataclasses.replace(config, method_rank={"latency": 0})
    with pytest.raises(ValueError, match="'speed' is no metric: choose among accuracy, latency"):
        dataclasses.replace(config, method_rank={"speed": 1})


@pytest.mark.parametrize(("milliseconds", "left"), [(3.0, 1), (0.5, 2)])
def test_operators_are_filtered_by_what_they_grow(target, tmp_path, milliseconds, left):
    config, plan = target
    config = dataclasses.replace(config, policy="w2a4", operator_growth={"latency": 0.0})
    rates = {"w2a4": milliseconds, "w8a8": 1.0, "w32a32": 1.0}
    plan = plan._replace(latency=costs.by_products(rates, plan.methods))
    space, _ = sensitivity.filtered(config, plan, weak, tmp_path)
    assert {len(ops) for ops in space.edge_ops[0]} == {left}
