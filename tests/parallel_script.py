"""Every estimator under both schemes on several meshes; prints what they differ by. Run by test_parallel.py."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jnas import bilevel, distributed, nets, spaces, train
from jnas.bilevel import Bilevel, Point
from jnas.distributed.meshes import make_mesh
from jnas.recipes.supernet import supernet_problem
from jnas.types import Aux, Batches, Examples, Learner, Source

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_enable_x64", sys.argv[1] == "float64")
DTYPE = jnp.dtype(sys.argv[1])
KEY = jax.random.key(0)
FEATURES, HIDDEN, CLASSES, BATCH, EXAMPLES = 6, 8, 3, 16, 64
rng = np.random.default_rng(0)
X = rng.normal(size=(EXAMPLES, FEATURES)).astype(DTYPE)
Y = rng.integers(0, CLASSES, EXAMPLES).astype(np.int32)


def loss(weights, alpha, batch, context):
    """Two layers with batch normalisation between them, gated by alpha: a statistic that couples the examples."""
    hidden = batch.image @ weights["in"]
    mean = hidden.mean(0, keepdims=True)
    variance = ((hidden - mean) ** 2).mean(0, keepdims=True)
    hidden = (hidden - mean) / jnp.sqrt(variance + 0.1)
    gates = jax.nn.softmax(alpha["gates"])
    hidden = gates[0] * jnp.tanh(hidden) + gates[1] * hidden
    logits = hidden @ weights["out"]
    value = -jnp.mean(jnp.sum(jax.nn.log_softmax(logits) * jax.nn.one_hot(batch.label, CLASSES, dtype=DTYPE), -1))
    penalty = jnp.exp(alpha["decay"]) * (jnp.mean(weights["in"] ** 2) + jnp.mean(weights["out"] ** 2))
    return value + penalty, Aux({"mean": mean[0]}, {})


def init(key):
    first, second = jax.random.split(key)
    weights = {
        "in": jax.random.normal(first, (FEATURES, HIDDEN), DTYPE) / 2,
        "out": jax.random.normal(second, (HIDDEN, CLASSES), DTYPE) / 2,
    }
    alpha = {"gates": jnp.array([0.1, -0.1], DTYPE), "decay": jnp.array(-2.0, DTYPE)}
    return Point(weights, alpha), {"mean": jnp.zeros(HIDDEN, DTYPE)}


ESTIMATORS = {
    "first_order": bilevel.first_order(),
    "finite_difference": bilevel.finite_difference(),
    "unrolled": bilevel.unrolled(2),
    "neumann": bilevel.implicit(bilevel.neumann(2, damping=1.0)),
    "conjugate_gradient": bilevel.implicit(bilevel.conjugate_gradient(2, damping=5.0)),
}


def learners():
    problem, rate = Bilevel(loss, lambda w, a, b, c: loss(w, {**a, "decay": jnp.array(-9.0, DTYPE)}, b, c)), 0.1
    for name, estimator in ESTIMATORS.items():
        tx = optax.chain(bilevel.storm(0.5), optax.sgd(rate))
        yield f"simultaneous {name}", bilevel.simultaneous(problem, estimator, init, tx, learning_rate=rate)
        steps = (optax.sgd(rate), optax.sgd(rate))
        yield f"alternating {name}", bilevel.alternating(problem, estimator, init, *steps, learning_rate=rate)

    def with_v(key):  # not 0, or its products would be
        point, variables = init(key)
        return point._replace(adjoint=jax.tree.map(lambda leaf: leaf / 3, point.weights)), variables

    tx = optax.chain(bilevel.storm(0.5), optax.sgd(rate))
    yield "simultaneous single_loop", bilevel.simultaneous(problem, bilevel.single_loop(), with_v, tx)


def together(named):
    """One learner that does a step of each, so that a mesh is one compilation."""

    def update(states, batch, key):
        done = {name: learner.update(states[name], batch, key) for name, learner in named.items()}
        return {name: state for name, (state, _) in done.items()}, {}

    return Learner(lambda key: {name: learner.init(key) for name, learner in named.items()}, update)


def draw(arrays, step, key):
    rows = lambda n: jax.random.choice(jax.random.fold_in(jax.random.fold_in(key, step), n), EXAMPLES, (BATCH,))
    one = lambda n: Examples(arrays[0][rows(n)], arrays[1][rows(n)])
    return Batches(one(0), one(1))


def difference(one, other):
    """Largest relative difference of a floating-point leaf, of norms."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    floats = [(np.asarray(a), np.asarray(b)) for a, b in pairs if jnp.issubdtype(a.dtype, jnp.inexact)]
    return max(float(np.linalg.norm(a - b) / max(np.linalg.norm(a), 1e-3)) for a, b in floats)


def supernet():
    """A real supernet, its convolutions and pools partitioned by the compiler."""
    three, space = ("skip_connect", "dil_conv_3x3", "avg_pool_3x3"), spaces.darts()
    space = spaces.narrow(space, {cell: [three] * len(space.edges(cell)) for cell in space.cells})
    net = nets.network_for(space, channels=4, depth=1, num_classes=CLASSES, dtype=DTYPE.type)
    problem, _ = supernet_problem(net)

    def start(key):
        params, stats = nets.initialise(net, key, (8, 8, 3))
        cast = lambda tree: jax.tree.map(lambda leaf: leaf.astype(DTYPE), tree)
        return Point(cast(params), cast(spaces.init_alpha(space, key))), cast(stats)

    tx = optax.chain(bilevel.storm(0.5), optax.sgd(0.1))
    learner = bilevel.simultaneous(problem, bilevel.implicit(bilevel.neumann(1, step_size=0.01)), start, tx)
    images = rng.normal(size=(2, BATCH, 8, 8, 3)).astype(DTYPE)
    both = [Examples(images[level], Y[:BATCH]) for level in range(2)]
    return learner, Source(lambda arrays, step, key: Batches(*arrays), both)


ONE_STEP = {"num_steps": 1, "hooks": train.chunks_of(1)}
result, source = {}, Source(draw, (X, Y))
every = together(dict(learners()))
alone = train.fit(every, source, key=KEY, **ONE_STEP)
for size in map(int, sys.argv[2].split(",")):
    mesh = make_mesh({"data": size})
    spread = train.fit(every, source, key=KEY, mesh=mesh, **ONE_STEP)
    result[f"data={size}"] = {name: difference(alone[name], spread[name]) for name in alone}

if "runs" in sys.argv:
    chosen = ("simultaneous neumann", "alternating unrolled")
    two = together({name: learner for name, learner in learners() if name in chosen})
    mesh = make_mesh({"run": 4, "data": 2})
    many = distributed.to_host(train.fit(two, source, key=KEY, mesh=mesh, runs=train.Several(4), **ONE_STEP).state)
    for r in range(4):
        own = train.fit(two, source, key=jax.random.fold_in(KEY, r), **ONE_STEP)
        part = jax.tree.map(lambda leaf, r=r: leaf[r], many)
        result[f"run {r} of 4x2"] = {name: difference(own[name], part[name]) for name in own}
    after = train.fit(two, source, key=KEY, num_steps=50, hooks=train.chunks_of(50), mesh=make_mesh({"data": 8}))
    alphas = [leaf for name in after for leaf in jax.tree.leaves(after[name].point.alpha)]
    pairs = [(leaf.addressable_shards[0].data, shard.data) for leaf in alphas for shard in leaf.addressable_shards]
    result["shards"] = len(pairs)
    result["shards differ"] = sum(not np.array_equal(one, other) for one, other in pairs)
    result["moved"] = min(float(np.abs(np.asarray(after[n].point.alpha["gates"]) - [0.1, -0.1]).max()) for n in after)
    net_learner, net_source = supernet()
    one = train.fit(net_learner, net_source, key=KEY, **ONE_STEP)
    four = train.fit(net_learner, net_source, key=KEY, mesh=make_mesh({"data": 4}), **ONE_STEP)
    result["supernet data=4"] = difference(one, four)
print(json.dumps(result))
