"""Operators of the user's own in a space: they are carried, not compared."""

import dataclasses

import jax
import numpy as np
import pytest

from jnas import spaces
from jnas.spaces import Operator, cell, descriptors, paths

MINE, DEAF = Operator("mine", lambda channels, stride: None), Operator("deaf", lambda c, s: None, passes=False)
BENCH = spaces.nasbench201()


def test_spaces_with_equal_names_are_equal():
    first, second = (spaces.extend(BENCH, Operator("mine", lambda channels, stride, n=n: n)) for n in range(2))
    assert first.operators != second.operators
    assert (first, hash(first)) == (second, hash(second))
    assert first != BENCH
    assert spaces.extend(BENCH, MINE, DEAF) == spaces.extend(spaces.extend(BENCH, MINE), DEAF)


def test_what_is_made_of_a_space_carries_its_operators():
    space = spaces.extend(spaces.darts(), MINE)
    arch = spaces.sample(space, jax.random.key(0), 1)[0]
    narrowed = spaces.narrow(space, {"normal": [("mine", "none")] * 14})
    assert [made.operators for made in (spaces.fix(space, arch), narrowed)] == [(MINE,)] * 2
    assert {edge.ops for edge in narrowed.edges("normal")} == {("none", "mine")}
    np.testing.assert_array_equal(spaces.from_string(space, spaces.to_string(space, arch)), arch)


def test_an_absent_edge_stays_absent():
    narrowed = spaces.narrow(BENCH, {"cell": [(), *[BENCH.ops] * 5]})
    assert spaces.extend(narrowed, MINE).edges("cell")[0].ops == ()


def test_what_an_operator_says_of_its_input_decides_whether_a_cell_is_connected():
    space = spaces.extend(BENCH, MINE, DEAF)
    assert space.blocking == ("none", "deaf")
    assert [spaces.is_connected(space, [op] * 6) for op in range(7)] == [False, True, True, True, True, True, False]
    words = {op for _, _, word in paths.path_words(space, longest=1) for op in word}
    assert words == {"nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3", "mine"}
    assert descriptors.facts(space).shares["mine"] == pytest.approx(1 / 7)
    assert spaces.s4().blocking == (cell.NOISE,)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Operator("Mine", print), "'Mine': use small letters"),
        (lambda: Operator("a~b", print), "'a~b'"),
        (lambda: Operator("mine", print, ("momentum",)), "'momentum': choose among affine"),
        (lambda: spaces.extend(BENCH, Operator("skip_connect", print)), "'skip_connect': give yours another name"),
        (lambda: spaces.extend(BENCH, MINE, MINE), "carry each operator once"),
        (lambda: dataclasses.replace(BENCH, operators=(MINE,)), "and name it"),
    ],
)
def test_bad_operators_are_named(build, words):
    with pytest.raises(ValueError, match=words):
        build()
