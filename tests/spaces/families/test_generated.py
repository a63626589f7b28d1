"""Families: what each strategy generates, counted by hand, and descriptors against the networks they stand for."""

import itertools

import numpy as np
import pytest

from jnas import spaces
from jnas.spaces import descriptors, networks
from jnas.spaces.chain import ChainSpace, chain
from jnas.spaces.descriptors import facts
from jnas.spaces.families import generated
from jnas.spaces.families.generated import Family, Member, convolutions, layer_types, layer_types_and_depth, topologies
from jnas.spaces.products import product

TYPES = ("skip_connect", "nor_conv_3x3", "sep_conv_5x5")


def test_layer_types_and_depth_generates_every_set_at_every_depth():
    found = layer_types_and_depth(TYPES, (2, 5))
    assert len(set(found)) == 2 * 4  # 3 pairs and the triple, twice
    assert sorted({spaces.size(space) for space in found}) == [2**2, 3**2, 2**5, 3**5]
    assert set(layer_types(TYPES, 5)) == {space for space in found if len(space.layers) == 5}
    assert len(layer_types(TYPES, 5, least=1)) == 7


def test_convolutions_generates_every_combination_of_sets_with_a_choice():
    found = convolutions(
        kernels=((3,), (1, 3)), widths=((1.0,),), expansions=((1,), (2, 4)), groups=((1,),), dilations=((1,), (1, 2)),
        depths=(1, 2),
    )  # fmt: skip
    # Words: kernels 3 | 1, 3; expansions 1 or 2; dilations 1 or 2, a kernel of one pixel without the second.
    # 3: 1 2 2 4 (the first has no choice);  1, 3: 2 3 4 6.
    assert sorted(len(space.ops) for space in found if len(space.layers) == 1) == [2, 2, 2, 3, 4, 4, 6]
    assert len(found) == 14
    assert not any(word.startswith("conv_1x1") and "-d" in word for space in found for word in space.ops)


def test_topologies_pairs_chains_with_cells_of_as_many_layers():
    found = topologies(TYPES, (1, 2), least=3)
    assert [type(space).__name__ for space in found] == ["ChainSpace", "CellSpace"] * 2
    assert [len(space.choices) for space in found] == [3, 1, 6, 3]
    assert spaces.size(found[3]) == 4**3  # `none` beside the three


def family():
    return generated.union(
        "test",
        {
            "types": layer_types_and_depth(TYPES, (2, 3)),
            "again": layer_types(TYPES, 3),  # generated already
            "mine": (spaces.branched(("none", *TYPES), 2), chain(("conv_3x3", "conv_5x5-dw-w0.5"), 2)),
        },
    )


def test_a_family_is_a_space_whose_architectures_are_spaces():
    whole = family()
    assert spaces.size(whole) == 8 + 2
    members = [whole.member(code) for code in itertools.product(range(10))]
    assert members == list(whole.members())
    assert [member.strategy for member in members] == ["types"] * 8 + ["mine"] * 2
    assert len(np.unique(np.asarray(spaces.neighbours(whole, [3])))) == 9
    assert hash(whole) == hash(family())


def test_a_family_with_choices_of_its_own_generates_by_them():
    sets = (("skip_connect",), ("conv_3x3", "skip_connect"))
    own = Family(
        "own",
        (spaces.Choice("first", sets), spaces.Choice("second", sets)),
        lambda first, second: Member("sets", ChainSpace((first, second))),
    )
    assert [member.space.name for member in own.members()][1] == "chain:skip_connect+conv_3x3,skip_connect"
    assert own.member([1, 1]).space == chain(("conv_3x3", "skip_connect"), 2)


def test_the_facts_of_a_space_are_those_of_its_networks_on_average():
    space = ChainSpace((("skip_connect", "conv_3x3-e2-w0.5"), ("max_pool_3x3", "conv_5x5-dw", "conv_3x3")))
    alone = [facts(networks.fix(space, code)) for code in itertools.product(range(2), range(3))]
    found = facts(space)
    for name in found.shares:
        np.testing.assert_allclose(found.shares[name], np.mean([one.shares.get(name, 0) for one in alone]))
    np.testing.assert_allclose(found.width, np.mean([one.width for one in alone]))
    for side in (3, 5):
        np.testing.assert_allclose(found.kernels[side], np.mean([one.kernels.get(side, 0) for one in alone]))
    assert found.shares["e2"] == 0.25
    assert not found.branches
    assert facts(spaces.branched(("none", "nor_conv_3x3"), 2)).branches


@pytest.mark.parametrize("by_layer", [False, True])
def test_descriptors_are_standardised_and_linear_in_the_networks(by_layer):
    whole = family()
    descriptor = descriptors.describe(whole, by_layer=by_layer)
    table = descriptor.of(np.arange(10)[:, None])
    np.testing.assert_allclose(table.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(table.std(0), 1, atol=1e-5)
    assert table.shape == (10, len(descriptor.names)) == (10, len(descriptor.groups))
    assert len(set(map(bytes, table))) == 10  # no two spaces look alike
    strategy, space = whole.member([7])
    np.testing.assert_allclose(descriptor.of_space(whole.member([7])), table[7], atol=1e-6)
    fixed = [networks.fix(space, code) for code in itertools.product(range(3), repeat=3)]
    rows = [descriptor.of_space(Member(strategy, network)) for network in fixed]
    np.testing.assert_allclose(np.mean(rows, 0), table[7], atol=1e-5)


def test_a_feature_that_all_members_share_is_left_out():
    names = descriptors.describe(generated.union("depths", {"one": layer_types_and_depth(TYPES[:2], (2, 3))})).names
    assert names == ("depth",)


def test_what_is_no_family_is_refused():
    with pytest.raises(ValueError, match="generate no space"):
        generated.union("empty", {"mine": ()})
    with pytest.raises(ValueError, match="neither cells nor layers"):
        facts(product(spaces.nasbench201(), spaces.s2()))
