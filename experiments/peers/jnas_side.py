"""The raced process of jnas; `race.py` starts it. It also draws the weights, the batches and the vector of a case."""

import importlib.metadata
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from cases import (
    ALPHA_BETAS,
    ALPHA_DECAY,
    ALPHA_RATE,
    CASES,
    CLIP,
    HEAVY_BALL,
    NUM_CLASSES,
    RADIUS,
    RECURSION,
    RECURSION_TERMS,
    SIDE,
    WEIGHT_DECAY,
    WEIGHT_RATE,
    terms,
)
from child import Work, serve

from jnas import bilevel, nets, spaces
from jnas.nets.stacking import per_edge
from jnas.recipes.supernet import supernet_problem
from jnas.types import Batches, Context, Examples


def prepare(task: dict[str, Any]) -> Work:
    case = CASES[task["case"]]
    space = spaces.by_name(case.space)
    size = {"channels": case.channels, "depth": case.depth, "num_classes": NUM_CLASSES}
    net = nets.network_for(space, **size, edge_strategy=task["edges"])
    if task["precision"] == "float32":
        jax.config.update("jax_default_matmul_precision", "highest")  # a GPU would take TF32
    problem, _ = supernet_problem(net)
    keys = jax.random.split(jax.random.key(0), 5)
    params, variables = nets.initialise(net, keys[0], (SIDE, SIDE, 3))
    # A spread of alpha as in the middle of a search: at the usual 1e-3 all mixtures would be even.
    point = bilevel.Point(params, spaces.init_alpha(space, keys[1], 0.3))
    inner, outer = batch(keys[2], case.batch), batch(keys[3], case.batch)
    batches, context = Batches(inner, outer), Context(variables)
    vector = random_like(keys[4], params)
    save_start(task["start"], net, point, batches, vector)

    what = task["what"]
    solver = bilevel.neumann(
        terms(what) if what.startswith("neumann") else RECURSION_TERMS, step_size=task["eta"], unroll=task["unroll"]
    )
    about = {"versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")}}

    if what == "gradient":

        @jax.jit
        def gradient(point, inner, context):
            loss = lambda weights: problem.inner(weights, point.alpha, inner, context)[0]
            return jax.value_and_grad(loss)(point.weights)

        def once():
            return jax.block_until_ready(gradient(point, inner, context))

        def check():
            loss, slope = once()
            return {"loss": np.asarray(loss), **torch_weights(net, slope)}

        return Work(once, check, about, device_bytes)
    if what == "hvp":

        @jax.jit
        def product(point, inner, context, vector):
            return bilevel.hessian(problem.inner, point, inner, context, vector)

        def once():
            return jax.block_until_ready(product(point, inner, context, vector))

        return Work(once, lambda: torch_weights(net, once()), about, device_bytes)
    if what.startswith("neumann"):
        estimator = bilevel.implicit(solver)

        @jax.jit
        def hypergradient(point, batches, context):
            return estimator.estimate(problem, point, batches, context, estimator.init(point))[0].alpha

        def once():
            return jax.block_until_ready(hypergradient(point, batches, context))

        return Work(once, lambda: alpha_arrays(once()), about, device_bytes)

    learner = learner_of(what, problem, solver, point, variables, task["unroll"])
    # Copies: the learner's state holds some arrays twice, and a buffer cannot be given away twice.
    state = jax.tree.map(jnp.copy, learner.init(keys[0]))
    update = jax.jit(learner.update, donate_argnums=0)
    key = jax.random.key(1)

    def step(batches):
        nonlocal state
        state, metrics = jax.block_until_ready(update(state, batches, key))
        return metrics

    def check_steps():
        step(batches)
        step(Batches(outer, inner))
        moved = jax.tree.map(jnp.subtract, state.point, point)
        return {**torch_weights(net, moved.weights), **alpha_arrays(moved.alpha)}

    return Work(lambda: step(batches), check_steps, about, device_bytes)


def device_bytes() -> int | None:
    """Peak on the device since the process began, compilation and its trials of kernels included."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def learner_of(what, problem, solver, point, variables, unroll):
    init = lambda key: (point, variables)
    decayed = optax.add_decayed_weights
    adam = optax.chain(decayed(ALPHA_DECAY), optax.adam(ALPHA_RATE, b1=ALPHA_BETAS[0], b2=ALPHA_BETAS[1]))
    clip = optax.clip_by_global_norm(CLIP)
    if what == "double_recursion":
        tx = optax.chain(
            bilevel.storm(RECURSION),
            optax.partition(
                {"weights": optax.chain(clip, optax.sgd(WEIGHT_RATE)), "alpha": adam},
                bilevel.Point("weights", "alpha"),
            ),
        )
        return bilevel.simultaneous(problem, bilevel.implicit(solver), init, tx, unroll=unroll)
    estimator = {"step": bilevel.first_order(), "step_fd": bilevel.finite_difference(RADIUS)}[what]
    sgd = optax.chain(clip, decayed(WEIGHT_DECAY), optax.sgd(WEIGHT_RATE, momentum=HEAVY_BALL))
    return bilevel.alternating(problem, estimator, init, sgd, adam, learning_rate=WEIGHT_RATE)


def batch(key, size: int) -> Examples:
    image_key, label_key = jax.random.split(key)
    image = jax.random.normal(image_key, (size, SIDE, SIDE, 3))
    return Examples(image, jax.random.randint(label_key, (size,), 0, NUM_CLASSES))


def random_like(key, tree):
    """Normal numbers in the shapes of a tree, of unit length altogether."""
    leaves, treedef = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    drawn = jax.tree.unflatten(treedef, [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)])
    return optax.tree.scale(1 / optax.tree.norm(drawn), drawn)


def save_start(path, net, point, batches, vector) -> None:
    arrays = {**torch_weights(net, point.weights), **torch_weights(net, vector, "vector"), **alpha_arrays(point.alpha)}
    for level in ("inner", "outer"):
        examples = getattr(batches, level)
        arrays[f"{level}/image"] = np.ascontiguousarray(np.asarray(examples.image).transpose(0, 3, 1, 2))
        arrays[f"{level}/label"] = np.asarray(examples.label, np.int64)
    np.savez(path, **arrays)


def torch_weights(net, tree, group="weights") -> dict[str, np.ndarray]:
    """Weights, or anything of their structure, under the names and in the shapes of `torch_nets`."""
    by_edge = per_edge(net, jax.tree.map(np.asarray, tree))  # whatever arrays the supernet stacks
    leaves, _ = jax.tree.flatten_with_path(by_edge)
    return {f"{group}/{torch_name([entry.key for entry in path])}": torch_shape(leaf) for path, leaf in leaves}


NAMES = (
    (r"block_(\d+)/", r"blocks/\1/"),
    (r"/(\d+_\d+)_([a-z]\w+)/", r"/edges/\1/\2/"),
    (r"/(project_(\d)|reduce_(\d)_0)/", r"/input_\2\3/"),
    (r"stem/ConvNorm_0/", "stem/"),
    (r"classifier/", ""),
    (r"Linear_0/Dense_0/", "linear/"),
    (r"BatchNorm_0/", "norm/"),
    (r"DepthwiseConv_", "depthwise_"),
    (r"ConvNorm_", "conv_norm_"),
    (r"Conv_", "conv_"),
    (r"(kernel|scale)$", "weight"),
)


def torch_name(path: list[str]) -> str:
    name = "/".join(path)
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    return name.replace("/", ".")


def torch_shape(leaf) -> np.ndarray:
    """Kernels `[height, width, in, out]`, `[height, width, channels]` and `[in, out]` as PyTorch lays them out."""
    value = np.asarray(leaf)
    match value.ndim:
        case 4:
            value = value.transpose(3, 2, 0, 1)
        case 3:
            value = value.transpose(2, 0, 1)[:, None]
        case 2:
            value = value.T
    return np.ascontiguousarray(value)


def alpha_arrays(alpha) -> dict[str, np.ndarray]:
    return {f"alpha/{cell}": np.asarray(value) for cell, value in alpha.items()}


if __name__ == "__main__":
    serve(prepare)
