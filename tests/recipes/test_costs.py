"""What networks cost, counted and measured; and what policies cost, against the layers one by one."""

import os

import jax
import numpy as np
import pytest

from jnas import nets, spaces
from jnas.errors import UserError
from jnas.nets.chain import ChainNetwork
from jnas.nets.quant import sizes, units
from jnas.recipes import costs, quantised
from jnas.spaces import networks
from jnas.spaces.policy import EIGHT, UNQUANTISED, Method

METHODS = (Method(2, 4), Method(4, 8, "power_of_two"), UNQUANTISED)
SPACE = spaces.narrow(spaces.nasbench201(), {"cell": [["none", "skip_connect", "nor_conv_1x1"]] * 6})
CODE = np.array([2, 0, 2, 1, 0, 1])


def test_costs_of_networks():
    net = lambda code: nets.network_for(spaces.fix(SPACE, np.array(code)), channels=4, depth=1, num_classes=2)
    plain, one = net([1] * 6), net([1] * 5 + [2])
    found = {name: (cost(plain, (8, 8, 1)), cost(one, (8, 8, 1))) for name, cost in costs.OF_A_NETWORK.items()}
    assert all(less < more for name, (less, more) in found.items() if name != "latency")
    params, stats = nets.initialise(one, jax.random.key(0), (8, 8, 1))
    assert found["parameters"][1] == sum(leaf.size for leaf in jax.tree.leaves(params))
    products = sum(layer.products for layer in sizes.layer_sizes(one, (8, 8, 1)).values())
    assert 2 * products < found["flops"][1] < 3 * products  # norms, sums and pools are the rest
    held = 4 * (sum(leaf.size for leaf in jax.tree.leaves((params, stats))) + 8 * 8 + 2)
    assert found["memory"][1] > held  # weights, image and logits, and what stands between
    assert min(found["latency"]) > 0


def test_costs_are_those_of_the_layers():
    supernet = nets.network_for(SPACE, channels=4, depth=1, num_classes=3)
    shapes, _ = jax.eval_shape(lambda key: nets.initialise(supernet, key, (8, 8, 1)), jax.random.key(0))
    of = units.units(supernet, shapes, units.shared)
    assert of.names == (*(f"cell/{pair}" for pair in ("0_1", "0_2", "0_3", "1_2", "1_3", "2_3")), "residual")
    rates = {str(method): 0.5 for method in METHODS} | {"w8a8": 1.0}
    latency = costs.by_products(rates, METHODS)
    model = costs.cost_model(supernet, (8, 8, 1), of.names, units.shared, METHODS, latency=latency)
    net = nets.network_for(spaces.fix(SPACE, CODE), channels=4, depth=1, num_classes=3)
    layers = sizes.layer_sizes(net, (8, 8, 1))
    ops = costs.operators(model, CODE)
    columns = np.array([0, 1, 2, 0, 1, 2, 1])
    size = compute = time = 0.0
    for path, layer in layers.items():
        name = units.shared(units.place_of(net, path))
        method = EIGHT if name is None else METHODS[columns[of.names.index(name)]]
        size += layer.weights * method.weight_bits / 8 + 8 * layer.channels
        compute += layer.products * method.weight_bits * method.activation_bits
        time += layer.products / 1e6 * (1.0 if name is None else 0.5)
    found = costs.costs(model, ops, columns)
    assert found == pytest.approx({"size": size, "compute": compute, "latency": time})
    each = units.units(supernet, shapes, units.shared_operator).names
    fine = costs.cost_model(supernet, (8, 8, 1), each, units.shared_operator, METHODS, latency=latency)
    of_edge = [columns[of.names.index("/".join(name.split("/")[:2]))] for name in each]
    assert costs.costs(fine, costs.operators(fine, CODE), np.array(of_edge)) == pytest.approx(found)
    assert costs.largest(model)["size"] > costs.costs(model, ops, np.zeros(7, int))["size"]
    with pytest.raises(UserError, match="lacks w8a8"):
        costs.by_products({str(method): 1 for method in METHODS}, METHODS)


def test_costs_of_edges_and_blocks_are_those_of_the_cell_of_their_block():
    """Blocks of two kinds of cell, whose edges bear the same names."""
    space = spaces.darts()
    some = ("none", "skip_connect", "sep_conv_3x3", "dil_conv_5x5")
    space = spaces.narrow(space, {cell: [some] * space.num_edges for cell in space.cells})
    supernet = nets.network_for(space, channels=4, depth=3, num_classes=3)
    assert len(set(supernet.layout)) == 2
    shapes, _ = jax.eval_shape(lambda key: nets.initialise(supernet, key, (8, 8, 1)), jax.random.key(0))
    for arch, unit_of in zip(
        np.asarray(spaces.sample(space, jax.random.key(1), 2)), (units.per_edge, units.per_block), strict=True
    ):
        names = units.units(supernet, shapes, unit_of).names
        columns = np.arange(len(names)) % 3
        net = nets.network_for(spaces.fix(space, arch), channels=4, depth=3, num_classes=3)
        size = compute = 0.0
        for path, layer in sizes.layer_sizes(net, (8, 8, 1)).items():
            unit = unit_of(units.place_of(net, path))
            method = EIGHT if unit is None else METHODS[columns[names.index(unit)]]
            size += layer.weights * method.weight_bits / 8 + 8 * layer.channels
            compute += layer.products * method.weight_bits * method.activation_bits
        model = costs.cost_model(supernet, (8, 8, 1), names, unit_of, METHODS)
        assert costs.costs(model, costs.operators(model, arch), columns) == pytest.approx(
            {"size": size, "compute": compute}
        )


@pytest.mark.parametrize("unit_of", [units.shared, units.per_edge, units.shared_operator])
def test_costs_of_chains_are_those_of_the_chain(unit_of):
    """A layer costs more or less by the widths before it."""
    words = "chain:conv_3x3-w2,skip_connect+conv_3x3,conv_3x3-e2-dw,max_pool_3x3+fc_6,skip_connect"
    space = networks.network_space(words)
    supernet = ChainNetwork(space, 4, 3)
    of = units.units(supernet, nets.shapes(supernet, (8, 8, 1))["params"], unit_of)
    latency = costs.by_products({str(method): 0.5 for method in METHODS} | {"w8a8": 1.0}, METHODS)
    model = costs.cost_model(supernet, (8, 8, 1), of.names, unit_of, METHODS, latency=latency)
    for arch in map(np.array, [(0, 0, 0), (0, 1, 1), (0, 2, 0), (1, 1, 0)]):
        net = ChainNetwork(networks.fix(space, arch), 4, 3)
        own = units.units(net, nets.shapes(net, (8, 8, 1))["params"], unit_of)
        columns = np.arange(len(of.names)) % 3
        one = quantised.Quantised(net, own, METHODS, columns[[of.names.index(name) for name in own.names]])
        compute = time = 0.0
        for path, layer in sizes.layer_sizes(net, (8, 8, 1)).items():
            method = one.by_layer()[path]
            compute += layer.products * method.weight_bits * method.activation_bits
            time += layer.products / 1e6 * (1.0 if method == EIGHT else 0.5)
        found = costs.costs(model, costs.operators(model, arch), columns)
        expected = {"size": quantised.size(one, (8, 8, 1)), "compute": compute, "latency": time}
        assert found == pytest.approx(expected)


def test_the_largest_chain_is_counted_by_hand():
    space = networks.network_space("chain:skip_connect,conv_3x3-w2+conv_3x3-e2-dw,conv_3x3+skip_connect,fc_6")
    supernet = ChainNetwork(space, 4, 3)
    names = units.units(supernet, nets.shapes(supernet, (8, 8, 1))["params"], units.shared).names
    assert names == ("layer_0", "layer_1", "layer_2", "reduce_1", "reduce_2")
    found = costs.largest(costs.cost_model(supernet, (8, 8, 1), names, units.shared, METHODS))
    # Stem, conv_3x3-w2 of 4 channels, convolution between stages, conv_3x3 of 8, the next one, fc_6, three classes.
    weights = [9 * 4, 9 * 4 * 8, 9 * 8 * 8, 9 * 8 * 8, 9 * 8 * 16, 16 * 6, 6 * 3]
    assert found["size"] == sum(weights) + 8 * (4 + 8 + 8 + 8 + 16 + 6 + 3)
    assert found["compute"] == 64 * np.dot(weights, [64, 64, 16, 16, 4, 1, 1])


def test_a_table_of_latencies_is_read_with_and_without_a_mark(tmp_path):
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "latency.json").write_text('{"w8a8": 1, "w4a8": 0.5}', encoding=encoding)
        assert costs.read_latency(str(tmp_path / "latency.json")) == {"w8a8": 1.0, "w4a8": 0.5}
    os.mkfifo(tmp_path / "pipe.json")
    for name in ("pipe.json", "/dev/zero"):  # one waits for ever, the other never ends
        with pytest.raises(UserError, match="is no table of latencies"):
            costs.read_latency(str(tmp_path / name))


@pytest.mark.parametrize(
    "text", [5000 * "[", '{"w8a8": true}', '{"w8a8": "0.4"}', '{"w8a8": NaN}', '{"w8a8": -1}', '{"w8a8": 0}', "[1]"]
)
def test_a_time_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "latency.json").write_text(text)
    with pytest.raises(UserError, match="is no table of latencies"):
        costs.read_latency(str(tmp_path / "latency.json"))
