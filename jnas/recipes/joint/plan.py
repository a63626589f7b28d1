"""What the parts of a joint search share, built and checked before anything is written."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
from jax.sharding import Mesh

from jnas import data, nets, spaces
from jnas.data.shrink import shrunk
from jnas.errors import UserError
from jnas.nets.chain import ChainNetwork, FoundNetwork
from jnas.nets.quant.units import UnitOf, Units, units
from jnas.recipes import chains, costs, run_folder
from jnas.recipes.joint import rewards
from jnas.recipes.joint.latencies import MEASURED, measured
from jnas.recipes.joint.settings import QuantisedSearch
from jnas.recipes.quantised import UNITS_OF
from jnas.recipes.settings import share
from jnas.spaces import networks
from jnas.spaces.chain import ChainSpace
from jnas.spaces.policy import EIGHT, UNQUANTISED, Method, PolicySpace, method_of


class Plan(NamedTuple):
    """What all parts share, built and checked before anything is written."""

    space: networks.NetworkSpace
    methods: tuple[Method, ...]  # what columns index: those of the policy, 8 bits, no quantisation
    splits: data.Splits
    training: data.Dataset
    validation: data.Dataset
    augment: data.Augment
    net: FoundNetwork
    unit_of: UnitOf
    units: Units
    final: FoundNetwork  # a supernet as wide and deep as the networks that are trained in the end
    latency: costs.Latency | None  # milliseconds of a layer; where it is measured, 1 until it is
    costs: costs.CostModel  # of networks as they are trained in the end
    reward: Callable[[Mapping[str, float]], float]


def make_plan(config: QuantisedSearch, mesh: Mesh | None = None) -> Plan:
    """The plan of a search, which runs on one device, see `driver.Recipe`.

    Raises:
      UserError, ValueError: for settings that do not fit each other or the data.
    """
    if mesh is not None:
        raise UserError("a quantised search runs on one device: leave out --mesh")
    whole = networks.network_space(config.space)
    named = config.operators.split()
    for op in named:
        if op not in whole.ops:
            raise UserError(
                f"operators: {op!r} is not in {config.space}: choose among {', '.join(whole.ops)}, or write operators= "
                "for all of them"
            )
    space = networks.narrow(whole, dict.fromkeys(networks.candidates(whole), named)) if named else whole
    own = tuple(dict.fromkeys(method_of(text) for text in (config.policy or config.methods).split()))
    methods = (*own, *(method for method in (EIGHT, UNQUANTISED) if method not in own))
    splits = run_folder.load_data(config.data, config.image_size)
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    validation, training = data.split(splits.train, key, share(config.validation, len(splits.train)))
    augment = config.augmentation.of(splits.train)
    validation, training = (shrunk(part, config.shrink) for part in (validation, training))
    data.supervised_source(training, batch_size=config.supernet.batch_size, augment=augment)  # checks the size
    shape, classes = splits.train.shape, splits.train.num_classes
    stem, sizes = config.train.stem, ((part.channels, part.depth) for part in (config.supernet, config.train))
    net, final = (_supernet(space, channels, depth, classes, stem) for channels, depth in sizes)
    unit_of = UNITS_OF[config.units]
    apart = config.units in ("edges", "blocks") and not isinstance(space, ChainSpace)
    if apart and config.supernet.depth != config.train.depth:
        raise UserError(
            f"units are {config.units}, and the supernet has depth {config.supernet.depth} and the training "
            f"{config.train.depth}: set both alike, or units=shared"
        )
    of = units_of(net, shape, unit_of)
    if (count := len(config.policy.split())) > 1 and count != len(of.names):
        raise UserError(
            f"policy names {count} methods: give one, or one for each of {', '.join(of.names)}, in this order"
        )
    latency = _latency(config, own, methods) if config.latency else None
    model = costs.cost_model(final, shape, of.names, unit_of, methods, latency=latency)
    reward = rewards.reward_of(config.reward, costs.largest(model))
    for arch in spaces.sample(space, jax.random.key(0), 1):  # before minutes are spent
        chains.prepare(space, arch, splits, config.train)
    return Plan(space, methods, splits, training, validation, augment, net, unit_of, of, final, latency, model, reward)


def _supernet(
    space: networks.NetworkSpace, channels: int, depth: int, num_classes: int, stem: Literal["small_image", "imagenet"]
) -> FoundNetwork:
    if isinstance(space, ChainSpace):
        return ChainNetwork(space, channels, num_classes, depth, stem)
    return nets.network_for(
        space, channels=channels, depth=depth, num_classes=num_classes, stem=stem, edge_strategy="switch"
    )


def _latency(config: QuantisedSearch, own: Sequence[Method], methods: Sequence[Method]) -> costs.Latency:
    if config.latency == MEASURED:
        return lambda layer, method: 1.0
    rates = costs.read_latency(config.latency)
    filters = config.method_growth, config.operator_growth, config.method_rank, config.operator_rank
    if UNQUANTISED not in own and not any("latency" in one for one in filters):
        rates = {str(UNQUANTISED): float("nan"), **rates}  # of no candidate
    return costs.by_products(rates, methods)


def with_latencies(config: QuantisedSearch, plan: Plan, path: pathlib.Path) -> Plan:
    """The plan with the latencies of this device, measured once and kept in the run; other plans are as they were."""
    if config.latency != MEASURED:
        return plan
    plan = plan._replace(latency=measured(path))
    model = costs_of(plan, plan.units, plan.unit_of)
    return plan._replace(costs=model, reward=rewards.reward_of(config.reward, costs.largest(model)))


def units_of(net: Any, shape: tuple[int, int, int], unit_of: UnitOf) -> Units:
    """The units of a supernet, from the shapes of its parameters."""
    return units(net, nets.shapes(net, shape)["params"], unit_of)


def costs_of(plan: Plan, of: Units, unit_of: UnitOf) -> costs.CostModel:
    """The cost model of the plan's final networks, by other units than the policy's."""
    shape = plan.splits.train.shape
    return costs.cost_model(plan.final, shape, of.names, unit_of, plan.methods, latency=plan.latency)


def policies_of(plan: Plan, methods: Sequence[Method]) -> PolicySpace:
    """Policies in which every unit may have these of the plan's methods."""
    return PolicySpace(plan.units.names, plan.methods, (tuple(methods),) * len(plan.units.names))


def own_policies(config: QuantisedSearch, plan: Plan) -> PolicySpace:
    """The policies of the settings, as part of all methods: columns keep their meaning."""
    if len(mixed := config.policy.split()) > 1:
        return PolicySpace(plan.units.names, plan.methods, tuple((method_of(text),) for text in mixed))
    return policies_of(plan, plan.methods[: 1 if config.policy else len(config.methods.split())])
