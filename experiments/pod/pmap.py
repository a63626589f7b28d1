"""A search under `jax.pmap`, each device with its part of every batch, beside the same search under `jax.jit`.

`jnas` splits batches by shardings under `jax.jit`: every loss is that of the whole batch, and nothing has to be said.
This is for programs that map by hand. Two things make the mapped search the same one: `synchronised` averages every
gradient map before it is differentiated again, and batch normalisation takes its statistics over the mapped axis.
(`jax.pmap` is built on `jax.jit` and `jax.shard_map` by now: a new program needs neither it nor this.)

Command:  python experiments/pod/pmap.py --devices 4 --steps 20 [--double] [key=value ...]
          The settings are those of the preset nasbench201. A CPU is divided into as many virtual devices; of an
          accelerator's --devices are the first.
Prints:   the outer loss of both searches at each step, and at the end by how much weights, alpha and v differ, as a
          share of the largest number of each: in double precision some 1e-12.
"""

import argparse
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from jnas import bilevel, nets, spaces
from jnas.bilevel import collective
from jnas.cli.hosts import make_cpu_devices
from jnas.distributed.meshes import make_mesh
from jnas.nets import layers
from jnas.recipes import config, run_folder
from jnas.recipes.gradient import recipe
from jnas.recipes.gradient.settings import Search
from jnas.recipes.supernet import supernet_problem

AXIS = "data"


def learner_of(problem, start, settings):
    """Weights, alpha and v follow averages of their directions, all from one point."""
    steps = {"weights": optax.sgd(settings.weights.learning_rate), "alpha": optax.adam(settings.alpha.learning_rate)}
    tx = optax.chain(
        bilevel.moving_average(bilevel.decaying()),
        optax.partition(steps | {"v": optax.sgd(1.0)}, bilevel.Point("weights", "alpha", "v")),
    )
    estimator = bilevel.single_loop(damping=settings.damping)
    return bilevel.simultaneous(problem, estimator, bilevel.with_adjoint(start), tx)


def over_the_axis(x, near):
    """Mean and variance of a batch norm, `jnas.nets.layers.moments`, of all devices together."""
    apart = x - near[None, None, None]
    first, second = jax.lax.pmean((apart.mean((0, 1, 2)), jnp.square(apart).mean((0, 1, 2))), AXIS)
    return near + first, second - jnp.square(first)


def both(problem, start, settings, batches, devices):
    """The points after a search over `batches` under `jax.jit`, and under `jax.pmap`, a copy a device."""
    mesh = make_mesh({AXIS: devices})
    everywhere, divided = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), (AXIS,)))
    whole = learner_of(problem, start, settings)
    part = learner_of(collective.synchronised(problem, AXIS), start, settings)
    step_whole = jax.jit(whole.update)
    step_part = jax.pmap(part.update, AXIS, in_axes=(0, 0, None), devices=list(mesh.devices.flat))
    key = jax.random.key(settings.seed)
    state = jax.jit(whole.init)(key)
    states = jax.tree.map(lambda x: jnp.stack([x] * devices), state)
    state = jax.device_put(state, everywhere)
    for step, batch in enumerate(batches):
        now = jax.random.fold_in(key, step)
        state, metrics = step_whole(state, jax.device_put(batch, divided), now)
        parts = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)
        with mock.patch.object(layers, "moments", over_the_axis):  # read when the step is traced, at its first call
            states, mapped = step_part(states, parts, now)
        print(f"step {step + 1}: jit {metrics['outer_loss']:.6f}, pmap {mapped['outer_loss'][0]:.6f}", flush=True)
    return state.point, states.point


def difference(one, copies):
    """The largest distance of a copy's number from that of the one, as a share of the largest of its array."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(copies), strict=True)
    return max(float(np.abs(np.asarray(a) - b).max() / np.abs(a).max()) for a, b in pairs)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="key=value", help="settings over those of the preset nasbench201")
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--double", action="store_true", help="in double precision")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", arguments.double)
    make_cpu_devices(arguments.devices)
    settings = config.build(Search, config.read_preset("nasbench201"), config.read_words(arguments.words))
    splits, space = run_folder.load_data(settings.data, settings.image_size), spaces.by_name(settings.space)
    dtype = jnp.float64 if arguments.double else jnp.float32
    cast = lambda tree: jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)
    net = nets.network_for(
        space, channels=settings.channels, depth=settings.depth, num_classes=splits.train.num_classes, dtype=dtype
    )

    def start(key):
        params, statistics = nets.initialise(net, key, splits.train.shape)
        return cast((bilevel.Point(params, spaces.init_alpha(space, key, settings.alpha_scale)), statistics))

    source, key = recipe.source_of(settings, splits), jax.random.key(settings.seed)
    batch_of = jax.jit(source.batch)
    batches = (cast(batch_of(source.arrays, jnp.int32(step), key)) for step in range(arguments.steps))
    for name, one, copies in zip(
        bilevel.Point._fields, *both(supernet_problem(net)[0], start, settings, batches, arguments.devices), strict=True
    ):
        print(f"{name} differ by {difference(one, copies):.1e}")


if __name__ == "__main__":
    main()
