"""Parameter counts against published ones, to the last digit where there is one."""

import jax
import pytest
from flax import linen as nn

from jnas import spaces
from jnas.nets import count_parameters, initialise, network_for
from jnas.nets.quant.sizes import layer_sizes
from jnas.nets.quant.units import units
from jnas.spaces.cell import fix
from jnas.spaces.genotypes import PUBLISHED


def shapes(net, image_shape=(32, 32, 3)):
    return jax.eval_shape(lambda key: initialise(net, key, image_shape), jax.random.key(0))[0]


@pytest.mark.parametrize(
    ("cell", "count"),
    [
        ("|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|", 129_306),
        ("|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|", 1_073_466),
        ("|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|", 1_288_506),
    ],
    ids=["0", "6111", "9930"],
)
def test_parameters_of_nasbench201_cells(cell, count):
    space = spaces.nasbench201()
    found = fix(space, spaces.from_string(space, cell))
    assert count_parameters(shapes(network_for(found, channels=16, depth=5, num_classes=10))) == count


P_DARTS = spaces.Genotype(
    normal=[
        *(("skip_connect", 0), ("dil_conv_3x3", 1), ("skip_connect", 0), ("sep_conv_3x3", 1)),
        *(("sep_conv_3x3", 1), ("sep_conv_3x3", 3), ("sep_conv_3x3", 0), ("dil_conv_5x5", 4)),
    ],
    normal_concat=range(2, 6),
    reduce=[
        *(("avg_pool_3x3", 0), ("sep_conv_5x5", 1), ("sep_conv_3x3", 0), ("dil_conv_5x5", 2)),
        *(("max_pool_3x3", 0), ("dil_conv_3x3", 1), ("dil_conv_3x3", 1), ("dil_conv_5x5", 3)),
    ],
    reduce_concat=range(2, 6),
)


def darts_network(genotype, **options):
    space = spaces.darts()
    found = fix(space, spaces.encode(space, genotype))
    return network_for(found, **{"channels": 36, "depth": 20, "num_classes": 10, "auxiliary": True} | options)


def test_parameters_of_darts_v2():
    """3.349342 MB in the evaluation log of quark0/darts, which leaves the auxiliary head out."""
    assert count_parameters(shapes(darts_network(PUBLISHED["DARTS_V2"]))) == 3_349_342


def test_parameters_of_p_darts_with_and_without_the_auxiliary_head():
    """Both counted by hand in chenxin061/pdarts#7."""
    params = shapes(darts_network(P_DARTS))
    assert count_parameters(params) == 3_433_798
    assert count_parameters(params, auxiliary=True) == 3_910_224


def test_parameters_of_darts_v2_for_imagenet():
    """4.7 million in the README of quark0/darts."""
    net = darts_network(PUBLISHED["DARTS_V2"], channels=48, depth=14, num_classes=1000, stem="imagenet")
    assert round(count_parameters(shapes(net, (224, 224, 3))) / 1e6, 1) == 4.7


def test_parameters_of_the_darts_supernet():
    """1.930618 MB in search logs of quark0/darts."""
    net = network_for(spaces.darts(), channels=16, depth=8, num_classes=10)
    assert count_parameters(shapes(net)) == 1_930_618


def test_operators_that_are_not_built_in_are_not_counted_as_nothing():
    space = spaces.extend(
        spaces.branched(("none", "skip_connect"), 1), spaces.Operator("mine", lambda c, s: nn.Dense(c))
    )
    net = lambda arch: network_for(fix(space, [arch]), channels=2, depth=1, num_classes=2)
    assert layer_sizes(net(1), (4, 4, 3))
    with pytest.raises(ValueError, match="'mine' is not built in"):
        layer_sizes(net(2), (4, 4, 3))
    with pytest.raises(ValueError, match="'mine' is not built in"):
        units(net(2), {})
