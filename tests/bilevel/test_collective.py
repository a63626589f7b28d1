"""A step under `jax.pmap` and under `jax.shard_map` against the step on the whole batch.

In a subprocess, for devices are counted and precision is chosen before JAX starts.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from compiling import FLAGS

SCRIPT = """
import json
import sys

import flax.linen as nn
import jax

jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

from jnas import bilevel
from jnas.bilevel import collective
from jnas.bilevel import Bilevel, Point
from jnas.nets import layers
from jnas.nets.layers import batch_norm
from jnas.recipes.gradient.settings import Search
from jnas.types import Aux, Batches, Examples

KEY, BATCH = jax.random.key(0), 16
rng = np.random.default_rng(0)
draw = lambda *shape: jnp.array(rng.normal(size=shape))
batch = Batches(*(Examples(draw(BATCH, 6), draw(BATCH, 3)) for _ in "ab"))
context_free = lambda weights, alpha, batch: (
    (a := jax.nn.softmax(alpha["gates"]))[0] * jnp.tanh(z := batch.image @ weights["in"]) + a[1] * z
) @ weights["out"]
square = lambda outputs, batch: jnp.mean((outputs - batch.label) ** 2)


def loss(weights, alpha, batch, context):
    outputs = context_free(weights, alpha, batch)
    decay = jnp.exp(alpha["decay"]) * jnp.mean(weights["in"] ** 2)
    return square(outputs, batch) + decay, Aux({"mean": outputs.mean(0)}, {"largest": jnp.mean(jnp.abs(outputs))})


def init(key):
    one, two = jax.random.split(key)
    weights = {"in": jax.random.normal(one, (6, 8)) / 2, "out": jax.random.normal(two, (8, 3)) / 2}
    return Point(weights, {"gates": jnp.array([0.1, -0.1]), "decay": jnp.array(-2.0)}), {"mean": jnp.zeros(3)}


problem = Bilevel(loss, lambda w, a, b, c: loss(w, a, b._replace(label=b.label[:, ::-1]), c))
model = bilevel.gauss_newton(lambda w, a, b, c: context_free(w, a, b), square)
estimators = {
    "first_order": lambda wrap: bilevel.first_order(),
    "finite_difference": lambda wrap: bilevel.finite_difference(),
    "unrolled": lambda wrap: bilevel.unrolled(2),
    "neumann": lambda wrap: bilevel.implicit(bilevel.neumann(2)),
    "conjugate_gradient": lambda wrap: bilevel.implicit(bilevel.conjugate_gradient(2, damping=5.0)),
    "gauss_newton": lambda wrap: bilevel.implicit(bilevel.neumann(2), curvature=wrap(model)),
}
NAME, mesh, result = "examples", jax.make_mesh((4,), ("examples",), axis_types=(jax.sharding.AxisType.Auto,)), {}


def learner_of(problem, estimator, scheme):
    if scheme == "simultaneous":
        tx = optax.chain(bilevel.storm(0.5), optax.sgd(0.1))
        return bilevel.simultaneous(problem, estimator, init, tx, learning_rate=0.1)
    return bilevel.alternating(problem, estimator, init, optax.sgd(0.1), optax.sgd(0.1), learning_rate=0.1)


def worst(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(float(np.abs(np.asarray(a) * 1.0 - np.asarray(b) * 1.0).max()) for a, b in pairs)


for name, make in estimators.items():
    for scheme in ("simultaneous", "alternating") if name == "unrolled" else ("simultaneous",):
        whole = learner_of(problem, make(lambda c: c), scheme)
        split = learner_of(collective.synchronised(problem, NAME), make(lambda c: collective.averaged(c, NAME)), scheme)
        step = jax.jit(whole.update)
        expected, metrics = step(step(whole.init(KEY), batch, KEY)[0], batch, KEY)  # two steps: storm's second point
        parts = jax.tree.map(lambda leaf: leaf.reshape(4, -1, *leaf.shape[1:]), batch)
        mapped = jax.pmap(split.update, NAME, in_axes=(0, 0, None))
        state = jax.tree.map(lambda leaf: jnp.stack([leaf] * 4), split.init(KEY))
        found, seen = mapped(mapped(state, parts, KEY)[0], parts, KEY)
        result[f"pmap {scheme} {name}"] = max(
            worst((expected, metrics), jax.tree.map(lambda leaf: np.asarray(leaf)[n], (found, seen))) for n in range(4)
        )
        if name == "neumann":
            specs = (P(), jax.tree.map(lambda leaf: P(NAME), batch), P())
            both = jax.jit(jax.shard_map(split.update, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False))
            found, seen = both(both(split.init(KEY), batch, KEY)[0], batch, KEY)
            result[f"shard_map {scheme} {name}"] = worst((expected, metrics), jax.device_get((found, seen)))
            local = learner_of(problem, make(lambda c: c), scheme)
            wrong = jax.pmap(lambda s, b, k: jax.lax.pmean(local.update(s, b, k), NAME), NAME, in_axes=(0, 0, None))
            bad = wrong(wrong(state, parts, KEY)[0], parts, KEY)
            result[f"mean at the end {scheme}"] = worst((expected, metrics), jax.tree.map(lambda leaf: leaf[0], bad))


class Normalised(nn.Module):
    @nn.compact
    def __call__(self, x, gates):
        h = nn.Dense(8, param_dtype=jnp.float64)(x)
        h = batch_norm((gates[0] * jnp.tanh(h) + gates[1] * h)[:, None, None], True, affine=False, dtype=jnp.float64)
        return nn.Dense(3, param_dtype=jnp.float64)(h[:, 0, 0])


def coupled(weights, alpha, batch, context):  # by the statistics of the batch
    variables = {"params": weights, "batch_stats": context.variables}
    outputs, updated = Normalised().apply(variables, batch.image, jax.nn.softmax(alpha), mutable=["batch_stats"])
    return square(outputs, batch), Aux(updated["batch_stats"], {})


def begin(key):
    variables = Normalised().init(key, batch.inner.image, jnp.ones(2))
    return Point(variables["params"], jnp.array([0.1, -0.1])), variables["batch_stats"]


sys.path.insert(0, sys.argv[1])
import pmap  # the script

for name in ("statistics of all", "statistics of each"):
    one, copies = pmap.both(Bilevel(coupled, coupled), begin, Search(), [batch] * 3, 4)
    result[name] = max(map(pmap.difference, one, copies))
    pmap.over_the_axis = layers.moments
print(json.dumps(result))
"""
PODS = pathlib.Path(__file__).parents[2] / "experiments/pod"


@pytest.fixture(scope="module")
def result():
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "4", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": FLAGS}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, PODS], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_mapped_step_is_the_step_on_the_whole_batch(result):
    mapped = {name: value for name, value in result.items() if name.startswith(("pmap", "shard_map"))}
    assert len(mapped) == 6 + 1 + 1
    assert max(mapped.values()) < 1e-12, mapped


def test_the_mean_of_what_the_devices_found_is_another_step(result):
    """What the wrapper is for: the mistake is far above the tolerance of the test before."""
    assert result["mean at the end simultaneous"] > 1e-4


def test_the_script_for_pmap_takes_the_steps_of_jit_with_shardings(result):
    """`experiments/pod/pmap.py`, with statistics over the axis; with those of each device the search is another."""
    assert result["statistics of all"] < 1e-12
    assert result["statistics of each"] > 1e-4
