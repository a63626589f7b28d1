"""Predictors: the published hedge update against NumPy, one table of implementations against invariants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnas.searchers import hedge, predictor

FEATURES, TASKS = 3, 6
BASE = {"learning_rate": 0.05, "discount": 0.9, "smoothing": 0.2}


def records(num_tasks=TASKS, seed=0):
    """Scores that depend on two features and on the task, whose level is the third feature."""
    random = np.random.default_rng(seed)
    groups = np.repeat(np.arange(num_tasks), 10)
    x = random.normal(size=(len(groups), FEATURES))
    x[:, 2] = random.normal(size=num_tasks)[groups]
    y = 0.7 + 0.1 * x[:, 0] - 0.05 * x[:, 1] + 0.02 * x[:, 2] + 0.005 * random.normal(size=len(groups))
    return predictor.checked(x, y, groups)


def test_hedge_back_propagation_equals_numpy(x64):
    """Forward, weighted gradients and shares, written out by hand, over 60 records."""
    net = hedge.initialise(jax.random.key(1), FEATURES, width=4, depth=3, dtype=jnp.float64)
    weights = [[np.array(leaf) for leaf in pair] for pair in net.layers.hidden]
    heads = [[np.array(leaf) for leaf in pair] for pair in net.layers.heads]
    share, data = np.full(3, 1 / 3), records()
    rate, discount, smoothing = BASE.values()
    learn = jax.jit(lambda net, x, y: hedge.step(net, x, y, **BASE))
    for x, y in zip(data.x, 10 * data.y, strict=True):
        states, said = [x], []
        for (weight, bias), (head, offset) in zip(weights, heads, strict=True):
            states.append(np.maximum(states[-1] @ weight + bias, 0))
            said.append(states[-1] @ head + offset)
        losses, errors = (np.array(said) - y) ** 2, 2 * (np.array(said) - y)
        back, gradients = np.zeros(4), []
        for layer in (2, 1, 0):
            back = (back + share[layer] * errors[layer] * heads[layer][0]) * (states[layer + 1] > 0)
            gradients.append((layer, np.outer(states[layer], back), back.copy()))
            back = weights[layer][0] @ back
        for layer, weight, bias in gradients:
            weights[layer][0] -= rate * weight
            weights[layer][1] -= rate * bias
            heads[layer][0] -= rate * share[layer] * errors[layer] * states[layer + 1]
            heads[layer][1] -= rate * share[layer] * errors[layer]
        share = np.maximum(share * discount**losses, smoothing / 3)
        share /= share.sum()
        net = learn(net, jnp.asarray(x), jnp.asarray(y))
        np.testing.assert_allclose(net.share, share, rtol=0, atol=1e-6)
    assert np.ptp(share) > 0.05  # they moved apart, or the comparison says nothing
    for ours, theirs in zip(net.layers.hidden + net.layers.heads, weights + heads, strict=True):
        np.testing.assert_allclose(ours[0], theirs[0], atol=1e-9)


def test_shares_in_single_precision():
    random = np.random.default_rng(0)
    share, ours = np.full(5, 0.2), jnp.full(5, 0.2)
    for _ in range(50):
        losses = random.exponential(size=5) * [1, 2, 3, 4, 5]
        share = np.maximum(share * 0.99**losses, 0.2 / 5)
        share /= share.sum()
        ours = hedge.hedge(ours, jnp.asarray(losses, jnp.float32), discount=0.99, smoothing=0.2)
        np.testing.assert_allclose(ours, share, rtol=0, atol=1e-6)


TABLE = {
    "hedge": hedge.hedge_network(width=16, depth=2, passes=20, num_members=2),
    "ridge": predictor.ridge(penalty=1.0, degree=1),
    "trees": predictor.trees(num_trees=30, depth=3, learning_rate=0.2),
    "gp": predictor.gaussian_process(FEATURES, max_records=40, num_steps=10),
}


@pytest.fixture(scope="module", params=TABLE)
def fitted(request):
    model = TABLE[request.param]
    return model, model.fit(records(), jax.random.key(0))


def test_they_learn_and_know_how_well(fitted):
    model, state = fitted
    new = records(seed=1)
    mean, std = model.predict(state, new.x)
    assert mean.shape == std.shape == new.y.shape
    assert mean.dtype == std.dtype == np.float64
    error = mean - new.y
    assert np.sqrt(np.mean(error**2)) < 0.6 * new.y.std()
    assert (std > 0).all()
    assert np.mean(np.abs(error) < 3 * std) > 0.85


def test_update_learns_and_leaves_the_state(fitted):
    model, state = fitted
    shifted = records(seed=2)
    shifted = shifted._replace(y=shifted.y + 0.3, groups=shifted.groups + TASKS)
    before = model.predict(state, shifted.x)[0]
    after = model.predict(model.update(state, shifted, jax.random.key(1)), shifted.x)[0]
    assert np.abs(after - shifted.y).mean() < 0.8 * np.abs(before - shifted.y).mean()
    np.testing.assert_array_equal(model.predict(state, shifted.x)[0], before)


def test_hedging_survives_a_task_far_from_the_first():
    model = TABLE["hedge"]
    first, far = records(1), records(1, seed=5)
    state = model.fit(first, jax.random.key(0))
    state = model.update(state, far._replace(x=1e3 * far.x, y=far.y - 100.0), jax.random.key(1))
    mean, std = model.predict(state, first.x)
    assert np.isfinite(mean).all()
    assert np.isfinite(std).all()


def test_equal_records_and_key_give_equal_predictions(fitted):
    model, state = fitted
    again = model.fit(records(), jax.random.key(0))
    x = records(seed=3).x
    np.testing.assert_array_equal(model.predict(again, x)[0], model.predict(state, x)[0])


def test_whole_tasks_are_left_out():
    """A feature that names the task explains a seen one perfectly and a new one not at all: the error must say so."""
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 5)
    level = random.normal(size=20)
    x = np.eye(20)[groups]
    model = predictor.ridge(penalty=1e-3, degree=1)
    state = model.fit(predictor.checked(x, level[groups], groups), jax.random.key(0))
    assert state.error > 0.7 * level.std()
    rows = model.fit(predictor.checked(x, level[groups]), jax.random.key(0))
    assert rows.error < 0.3 * level.std()


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"features \[2, 1\], scores \[3\]"):
        predictor.checked(np.zeros((2, 1)), np.zeros(3))
    with pytest.raises(ValueError, match="not finite"):
        predictor.checked(np.zeros((1, 1)), [np.nan])
    with pytest.raises(ValueError, match="num_folds is 1 and num_members 1"):
        predictor.ridge(num_folds=1)
    with pytest.raises(ValueError, match="depth is 0"):
        hedge.hedge_network(depth=0)
    with pytest.raises(ValueError, match=r"discount=1\.5"):
        hedge.hedge_network(discount=1.5)
