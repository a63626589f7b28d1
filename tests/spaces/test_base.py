"""Sampling and mutation are uniform; products concatenate."""

import jax
import numpy as np
import pytest

from jnas import spaces
from jnas.spaces.products import product


def frequencies(values, bound):
    return np.bincount(np.asarray(values), minlength=bound) / len(values)


def test_samples_are_uniform_over_options():
    archs = spaces.sample(spaces.nasbench201(), jax.random.key(0), 4000)
    for position in range(6):
        np.testing.assert_allclose(frequencies(archs[:, position], 5), 0.2, atol=0.03)


def test_mutations_are_uniform_over_neighbours():
    space, arch = spaces.nasbench201(), np.array([0, 4, 2, 1, 3, 0], np.int32)
    mutate = jax.jit(lambda keys, arch: jax.vmap(lambda key: spaces.mutate(space, key, arch))(keys))
    keys = jax.random.split(jax.random.key(0), 4800)
    mutate(keys, arch[::-1])
    children = np.asarray(mutate(keys, arch))
    assert mutate._cache_size() == 1
    counts = {tuple(row): 0 for row in np.asarray(spaces.neighbours(space, arch)).tolist()}
    for row in children.tolist():
        counts[tuple(row)] += 1
    assert len(counts) == 24
    assert 140 < min(counts.values()) <= max(counts.values()) < 260


def test_neighbours_come_by_choice_and_by_option():
    found = spaces.neighbours(spaces.nasbench201(), np.array([1, 0, 0, 0, 0, 4], np.int32))
    np.testing.assert_array_equal(found[:4, 0], [0, 2, 3, 4])
    np.testing.assert_array_equal(found[4:8, 1], [1, 2, 3, 4])
    np.testing.assert_array_equal(found[-4:, 5], [0, 1, 2, 3])


def test_number_of_neighbours():
    darts = spaces.darts()
    arch = np.zeros(8, np.int32)
    assert len(spaces.neighbours(darts, arch)) == 2 * (49 * (1 + 3 + 6 + 10) - 4)
    assert len(spaces.neighbours(spaces.fix(darts, arch), arch)) == 0


def test_product_concatenates_and_splits(draw):
    both = product(spaces.s2(), spaces.nasbench201())
    assert both.name == "s2 x nasbench201"
    assert [choice.name for choice in both.choices[7:9]] == ["s2/reduce/5", "nasbench201/cell/0->1"]
    assert spaces.size(both) == spaces.size(spaces.s2()) * 15625
    archs = draw(both, 3)
    left, right = both.split(archs)
    np.testing.assert_array_equal(np.concatenate([left, right], 1), archs)
    assert left.shape == (3, 8)
    spaces.to_string(spaces.nasbench201(), both.split(archs[0])[1])


@pytest.mark.parametrize("factors", [(), (spaces.s2(), spaces.s2())])
def test_product_needs_different_names(factors):
    with pytest.raises(ValueError, match="different names"):
        product(*factors)


def test_a_choice_without_options_is_named():
    class Empty:
        name = "empty"
        choices = (spaces.Choice("x", ()),)

    with pytest.raises(ValueError, match="'x' of space 'empty' has no option"):
        spaces.sample(Empty(), jax.random.key(0), 1)
