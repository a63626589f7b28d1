"""Sensitivities, filters and rewards: against one at a time, and against tables made by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnas import data, nets, spaces
from jnas.nets.quant import units
from jnas.recipes.joint import rewards, sensitivity, weight_sharing
from jnas.spaces.policy import UNQUANTISED, Method, method_of, policies

METHODS = (Method(2, 4), Method(4, 8, "power_of_two"), UNQUANTISED)
SPACE = spaces.narrow(spaces.nasbench201(), {"cell": [["none", "skip_connect", "nor_conv_1x1"]] * 6})
CODE = np.array([2, 0, 2, 1, 0, 1])
NAMES = ("a", "b", "c")


def at_most(limit):
    return lambda losses: sensitivity.passing(losses, limit)


def lowest(count):
    return lambda losses: sensitivity.ranking(losses, count)


@pytest.fixture(scope="module")
def program():
    net = nets.Network(SPACE, ("cell",), 4, 3, stem_multiplier=1, project_inputs=False)
    params, stats = nets.initialise(net, jax.random.key(0), (6, 6, 1))
    dense = params["classifier"]["Linear_0"]["Dense_0"]
    dense["bias"] = jnp.zeros_like(dense["bias"])  # which else decides every answer of an untrained network
    of = units.units(net, params)
    pixels = np.random.default_rng(0).integers(0, 256, (30, 36)).astype(np.uint8)
    images = data.Dataset(pixels, np.random.default_rng(1).integers(0, 3, 30).astype(np.int32), (6, 6, 1), 3)
    augment = data.Augment(mean=(0.5,), std=(0.25,))
    variables = {"params": params, "batch_stats": stats}
    judge = weight_sharing.judge(net, variables, of, METHODS, SPACE, images, augment, at_once=4)

    def evaluate(policy):
        scores = judge(np.tile(CODE, (len(policy), 1)), policy)
        return {"accuracy": scores, "size": np.array([1.0 + (row == 2).sum() for row in policy])}

    return of, evaluate


def test_one_program_measures_what_one_at_a_time_does(program):
    of, evaluate = program
    reference = np.full(6, 2, np.int32)
    found = sensitivity.measure(evaluate, of.names, METHODS, reference)
    base = float(evaluate(reference[None])["accuracy"][0])
    assert found.reference["accuracy"] == pytest.approx(base, rel=1e-6)
    for unit in (0, 3, 5):  # 0_1 and 1_2 have weights in this cell, 2_3 has none
        for column in range(3):
            policy = reference.copy()
            policy[unit] = column
            alone = float(evaluate(policy[None])["accuracy"][0])
            # Sums of probabilities: together they are rounded otherwise than one at a time.
            assert found.losses["accuracy"][unit, column] == pytest.approx((base - alone) / base, abs=1e-6)
    assert np.any(np.abs(found.losses["accuracy"][[0, 3]]) > 1e-4)
    np.testing.assert_allclose(found.losses["accuracy"][5], 0, atol=1e-6)
    np.testing.assert_allclose(found.losses["size"][:, :2], -1 / 7)


def test_passing_is_at_most_the_threshold_and_never_nothing():
    table = np.array([[0.1, np.nextafter(0.1, 1), 0.0], [0.3, 0.2, 0.4], [-0.1, np.nan, 0.1]])
    expected = [[True, False, True], [False, True, False], [True, False, True]]
    assert sensitivity.passing(table, 0.1).tolist() == expected
    below = sensitivity.passing(table, np.nextafter(0.1, 0))
    assert below.tolist() == [[False, False, True], [False, True, False], [True, False, False]]
    assert not sensitivity.passing(np.full((1, 2), np.nan), 1.0).any()


def test_methods_are_filtered_unit_by_unit():
    space = policies(NAMES, METHODS)
    losses = np.array([[0.1, 0.2, 0.0], [0.5, 0.4, 0.3], [0.0, 0.0, 0.0]])
    found = sensitivity.Sensitivity(NAMES, METHODS, {}, {"accuracy": losses})
    left = sensitivity.filter_methods(space, found, "accuracy", at_most(0.1))
    assert left.allowed == ((METHODS[0], METHODS[2]), (METHODS[2],), METHODS)
    assert left.columns([1, 0, 1]).tolist() == [2, 2, 1]
    two = sensitivity.filter_methods(space, found, "accuracy", lowest(2))
    assert two.allowed == ((METHODS[0], METHODS[2]), METHODS[1:], METHODS[:2])
    assert sensitivity.filter_methods(left, found, "accuracy", lowest(1)).allowed[0] == (METHODS[2],)
    assert sensitivity.filter_methods(left, found, "accuracy", lowest(9)) == left
    # What a filter has taken away a later one does not bring back, not even as the least sensitive.
    again = sensitivity.filter_methods(left, found, "accuracy", at_most(-1.0))
    assert again.allowed[0] == (METHODS[2],)
    with pytest.raises(ValueError, match="measure these units"):
        sensitivity.filter_methods(policies(("a",), METHODS), found, "accuracy", at_most(0.1))


def test_operators_that_do_not_bear_the_policy_leave_the_space():
    edge = {"nor_conv_1x1": 0.2}
    left = sensitivity.filter_operators(SPACE, {"cell/0_1": edge, "cell/0_2": edge}, at_most(0.1))
    assert left.edge_ops[0][0] == ("none", "skip_connect")
    assert left.edge_ops[0][2] == SPACE.edge_ops[0][2]
    assert sensitivity.filter_operators(SPACE, {"cell/0_1": edge}, lowest(2)).edge_ops[0][0] == ("none", "skip_connect")
    assert sensitivity.filter_operators(SPACE, {"cell/0_1": edge}, at_most(0.2)) == SPACE
    alone = spaces.narrow(SPACE, {"cell": [["nor_conv_1x1"]] + [["skip_connect"]] * 5})
    assert sensitivity.filter_operators(alone, {"cell/0_1": edge}, at_most(0.1)) == alone
    with pytest.raises(ValueError, match="is no edge"):
        sensitivity.filter_operators(SPACE, {"cell/3_0": edge}, at_most(0.1))


@pytest.mark.parametrize("scale", ["linear", "logarithmic"])
@pytest.mark.parametrize("shape", ["identity", "exp", "tanh"])
def test_rewards_rise_with_accuracy_and_fall_with_every_cost(scale, shape):
    settings = rewards.Reward(1.0, 0.1, 0.2, 0.3, scale=scale, map=shape)
    score = rewards.reward_of(settings, {"latency": 2.0, "size": 3.0, "compute": 4.0})
    base = {"accuracy": 0.5, "latency": 1.0, "size": 1.0, "compute": 1.0}
    assert score({**base, "accuracy": 0.6}) > score(base)
    for name in ("latency", "size", "compute"):
        assert score({**base, name: 1.1}) < score(base)
    if scale == "linear" and shape == "tanh":
        assert score(base) == pytest.approx(math.tanh(0.5 - 0.1 / 2 - 0.2 / 3 - 0.3 / 4))


def test_rewards_without_a_reference_are_refused_and_a_target_replaces_it():
    with pytest.raises(ValueError, match="set target_latency"):
        rewards.reward_of(rewards.Reward(latency=0.1), {"size": 1.0})
    score = rewards.reward_of(rewards.Reward(size=1.0, target_size=4.0), {"size": 1.0})
    assert score({"accuracy": 1.0, "size": 2.0}) == 0.5
    with pytest.raises(ValueError, match="give at least 0"):
        rewards.Reward(size=-1)
    with pytest.raises(ValueError, match="all weights are 0"):
        rewards.Reward(accuracy=0)


def test_convergence_looks_at_the_best_of_the_last_iterations():
    rising = [1.0, 1.5, 1.6, 1.61, 1.0, 1.612]
    assert rewards.converged(rising, window=3, tolerance=0.01)
    assert not rewards.converged(rising, window=4, tolerance=0.01)
    assert not rewards.converged(rising[:3], window=3, tolerance=10.0)
    assert rewards.converged([-2.0, -2.0], window=1, tolerance=0.0)


def test_methods_have_names():
    assert [str(method) for method in METHODS] == ["w2a4", "w4a8-pow2", "w32a32"]
    assert tuple(method_of(str(method)) for method in METHODS) == METHODS
