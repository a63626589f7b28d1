"""One table of spaces (conftest) x one list of invariants."""

import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnas import spaces


def bounds(space):
    return np.array([len(choice.options) for choice in space.choices])


def test_is_hashable_data_with_distinct_names_and_options(space):
    assert pickle.loads(pickle.dumps(space)) == space
    assert hash(pickle.loads(pickle.dumps(space))) == hash(space)
    names = [choice.name for choice in space.choices]
    assert len(set(names)) == len(names)
    assert all(len(set(choice.options)) == len(choice.options) > 0 for choice in space.choices)
    np.testing.assert_array_equal(spaces.num_options(space), bounds(space))


def test_size_is_the_product_of_the_options(space):
    assert spaces.size(space) == math.prod(int(bound) for bound in bounds(space))
    assert type(spaces.size(space)) is int


def test_samples_are_valid_and_reproducible(space):
    key = jax.random.key(3)
    archs = spaces.sample(space, key, 200)
    assert archs.dtype == jnp.int32
    assert archs.shape == (200, len(space.choices))
    assert (archs >= 0).all()
    assert (np.asarray(archs) < bounds(space)).all()
    np.testing.assert_array_equal(archs, spaces.sample(space, key, 200))
    small = bounds(space) <= 10
    np.testing.assert_array_equal(np.asarray(archs).max(0)[small], bounds(space)[small] - 1)
    np.testing.assert_array_equal(np.asarray(archs).min(0)[small], 0)


def test_mutation_changes_one_choice_that_can_change(space, draw):
    arch = draw(space, 1)[0]
    if spaces.size(space) == 1:
        with pytest.raises(ValueError, match="one architecture"):
            spaces.mutate(space, jax.random.key(0), arch)
        return
    keys = jax.random.split(jax.random.key(0), 100)
    children = np.asarray(jax.vmap(lambda key: spaces.mutate(space, key, arch))(keys))
    assert children.dtype == np.int32
    changed = children != arch
    np.testing.assert_array_equal(changed.sum(1), 1)
    assert not changed[:, bounds(space) == 1].any()
    assert (children >= 0).all()
    assert (children < bounds(space)).all()


def test_neighbours_are_all_architectures_one_choice_away(space, draw):
    arch = draw(space, 1)[0]
    found = np.asarray(spaces.neighbours(space, arch))
    assert found.dtype == np.int32
    assert found.shape == (sum(bounds(space) - 1), len(space.choices))
    np.testing.assert_array_equal((found != arch).sum(1), 1)
    assert len({tuple(row) for row in found.tolist()}) == len(found)
    assert (found >= 0).all()
    assert (found < bounds(space)).all()


def test_strings_round_trip(cell_space, draw):
    for arch in draw(cell_space):
        text = spaces.to_string(cell_space, arch)
        assert "\n" not in text
        back = spaces.from_string(cell_space, f"  {text}\n")
        assert back.dtype == jnp.int32
        np.testing.assert_array_equal(back, arch)


def test_fixed_space_encodes_back(cell_space, draw):
    for arch in draw(cell_space):
        fixed = spaces.fix(cell_space, arch)
        assert fixed.is_fixed
        assert fixed.ops == cell_space.ops
        assert spaces.size(fixed) == 1
        np.testing.assert_array_equal(spaces.encode(cell_space, fixed), arch)
        nothing_left = np.zeros(len(fixed.choices), np.int32)
        assert spaces.to_string(fixed, nothing_left) == spaces.to_string(cell_space, arch)


def test_one_hot_alpha_marks_the_operators_of_the_fixed_space(cell_space, draw):
    archs = draw(cell_space)
    batch = jax.jit(jax.vmap(lambda arch: spaces.one_hot_alpha(cell_space, arch)))(archs)
    for row, arch in enumerate(archs):
        for cell, mask in spaces.op_mask(spaces.fix(cell_space, arch)).items():
            np.testing.assert_array_equal(batch[cell][row], mask.astype(np.float32))


def test_discretise_finds_the_architecture_that_stands_out(cell_space, draw):
    for arch in draw(cell_space):
        alpha = jax.tree.map(lambda weight: 3.0 * weight, spaces.one_hot_alpha(cell_space, arch))
        found = spaces.discretise(cell_space, alpha)
        assert found.dtype == jnp.int32
        np.testing.assert_array_equal(found, arch)


def test_initial_mixture_is_nearly_uniform_on_the_mask(cell_space):
    alpha = spaces.init_alpha(cell_space, jax.random.key(0))
    mix = spaces.mixture(cell_space, alpha)
    for cell, mask in spaces.op_mask(cell_space).items():
        assert alpha[cell].dtype == mix[cell].dtype == jnp.float32
        assert alpha[cell].shape == mask.shape == (cell_space.num_edges, len(cell_space.ops))
        assert np.abs(alpha[cell]).max() < 6e-3
        uniform = mask / np.maximum(mask.sum(1, keepdims=True), 1)
        np.testing.assert_allclose(mix[cell], uniform, atol=6e-3)
        assert (np.asarray(mix[cell])[~mask] == 0).all()
