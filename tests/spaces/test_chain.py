"""Chains against their definition: words, names, sizes counted by hand, and texts that are refused in one sentence."""

import itertools

import numpy as np
import pytest

from jnas import spaces
from jnas.errors import UserError
from jnas.spaces import networks
from jnas.spaces.chain import ChainSpace, Layer, chain, layer_of, word_of

SPACE = ChainSpace((("skip_connect", "conv_3x3-e4-dw"), ("max_pool_3x3",), ("sep_conv_5x5", "conv_3x3", "conv_1x1")))


def test_every_layer_of_attributes_reads_back_from_its_word():
    values = (("conv",), (1, 3, 5), (1.0, 0.5, 1.25), (1, 6), (1, 2, None), (1, 3))
    words = {word_of(layer): layer for layer in itertools.starmap(Layer, itertools.product(*values))}
    assert len(words) == 3 * 3 * 2 * 3 * 2  # no two layers share a word
    assert all(layer_of(word) == layer for word, layer in words.items())
    assert {"conv_3x3-e6-g2-d3-w0.5", "conv_1x1", "conv_5x5-dw-w1.25"} <= set(words)


@pytest.mark.parametrize(
    "word",
    ["", "conv", "conv_3x5", "conv_2x2", "nor_conv_4x4", "conv_3x3-e0", "conv_3x3-e1", "conv_3x3-g2-e2",
     "conv_3x3-w0.50", "conv_0x0", "none", "max_pool_5x5", "conv_3x3-", "conv_3x3 "],
)  # fmt: skip
def test_other_words_are_no_layers(word):
    with pytest.raises(ValueError, match=r"is no layer|of even side|attribute of 0|second way"):
        chain(("skip_connect", word), 2)


def test_the_architectures_of_a_chain_are_the_products_of_its_layers():
    assert spaces.size(SPACE) == 2 * 1 * 3
    texts = [networks.to_string(SPACE, code) for code in itertools.product(range(2), range(1), range(3))]
    assert texts[0] == "chain:skip_connect+max_pool_3x3+sep_conv_5x5"
    assert len(set(texts)) == 6
    for text, code in zip(texts, itertools.product(range(2), range(1), range(3)), strict=True):
        assert networks.from_string(SPACE, text).tolist() == list(code)
        alone = networks.network_space(text)  # a genotype is also the space that holds it alone
        assert alone == networks.fix(SPACE, code)
        assert alone.is_fixed
        assert networks.from_string(alone, text).tolist() == [0, 0, 0]
    assert not SPACE.is_fixed


@pytest.mark.parametrize("space", [SPACE, chain(("skip_connect", "conv_3x3-w0.5"), 12), chain(("conv_3x3",), 1)])
def test_a_chain_space_reads_back_from_its_name(space):
    assert networks.network_space(space.name) == space


def test_equal_layers_are_counted_in_the_name():
    assert chain(("skip_connect", "conv_1x1"), 3).name == "chain-3:skip_connect,conv_1x1"
    assert networks.network_space("chain:conv_1x1+conv_1x1").name == "chain-2:conv_1x1"


def test_a_branched_space_reads_back_from_its_name_and_holds_cells():
    space = spaces.branched(("none", "skip_connect", "nor_conv_3x3"), 3)
    assert spaces.by_name(space.name) == networks.network_space(space.name) == space
    assert spaces.size(space) == 3**6
    text = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_3x3~2|"
    assert networks.to_string(space, networks.from_string(space, text)) == text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("chain-2:a,b", "'a' is no layer"),
        ("chain-2:conv_1x1+conv_3x3", "leave out one"),
        ("chain-0:conv_1x1", "without a candidate"),
        ("chain:", "is no chain"),
        ("chain:conv_1x1++conv_1x1", "no layer"),
        ("chain-2:conv_1x1,conv_1x1", "twice"),
        ("chain:conv_1x1+fc_0", "'fc_0' is no layer"),
        ("chain:conv_1x1+fc_8+fc_8+fc_8+fc_8", "layer 1 of .* last third"),
        ("chain:conv_1x1+conv_1x1+fc_8,conv_1x1", "nothing but skip_connect beside"),
        ("cell-3:", "no generated space"),
        ("cell-0:none,skip_connect", "at least 1"),
        ("cell-2:none,none", "name each once"),
    ],
)
def test_bad_names_are_refused_in_one_sentence(name, words):
    with pytest.raises(UserError, match=words):
        networks.network_space(name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("chain:skip_connect+max_pool_3x3", "no chain of 3 layers"),
        ("chain:skip_connect+max_pool_3x3+conv_5x5", "layer 2 is 'conv_5x5'"),
        ("chain-3:skip_connect,conv_1x1", "no chain of 3 layers"),
        ("DARTS_V2", "is no chain"),
    ],
)
def test_architectures_of_other_spaces_are_refused(text, words):
    with pytest.raises(UserError, match=words):
        networks.from_string(SPACE, text)


@pytest.mark.parametrize("arch", [[0, 0], [0, 1, 0], [0, 0, -1], [0.0, 0.0, 0.0]])
def test_codes_of_other_spaces_are_refused(arch):
    with pytest.raises(ValueError, match="architecture"):
        networks.fix(SPACE, np.array(arch))
