"""How wrong is each hypergradient? Every estimator against the exact one along a search, in double precision.

A supernet of NAS-Bench-201 (4 channels, one cell a stage) on real CIFAR-10 images (128 for each level, halved to 16x16)
is searched for 120 steps with batches of 32; at points along that one trajectory the exact hypergradient is
computed on ALL images by conjugate gradients to convergence,

    h = grad_a L_val - (d_a d_w L_tr) (H + lambda I)^-1 grad_w L_val ,

and each estimator, given minibatches, is compared with it: the relative error sqrt(E |g - h|^2) / |h|, its bias (the
estimator on all images), and the cosine. The Hessian of this loss is indefinite, so that an undamped inverse is no
answer to any minimisation: lambda is the smallest damping that makes it positive definite at every point (times 1.2);
all estimators get the same. Momentum runs along the same trajectory, from its first step, on batches of its own, drawn
in the same way; costs are in gradient units.

Command:   python experiments/hypergradients/hypergradients.py --data cifar10.npz
Result, hardware, time: README.md beside this file. A row that is in the results is not measured again.
"""

import argparse
import functools
import json
import pathlib
import time

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

from jnas import bilevel, files, nets, spaces, train  # noqa: E402
from jnas.bilevel import Point  # noqa: E402
from jnas.distributed.cache import enable_compilation_cache  # noqa: E402
from jnas.recipes.supernet import supernet_problem  # noqa: E402
from jnas.types import Batches, Context, Examples  # noqa: E402

BATCH, DRAWS, TERMS = 32, 8, 2


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--results", default="experiments/hypergradients/hypergradients.jsonl")
    parser.add_argument("--work", default="runs/hypergradients", help="folder of the exact ones, to go on from")
    parser.add_argument("--rate", type=float, default=0.025, help="of SGD along the trajectory, momentum 0.9")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--every", type=int, default=30, help="steps between two points of comparison")
    parser.add_argument("--images", type=int, default=128, help="for each level")
    parser.add_argument("--seeds", type=int, default=2, help="sequences of batches for the momentum")
    arguments = parser.parse_args()
    enable_compilation_cache()
    results = pathlib.Path(arguments.results)
    files.prepare_folder(results.parent)
    measured = {(row["estimator"], row["rate"]) for row in read(results)}
    inner, outer = images(arguments.data, arguments.images)
    net = nets.network_for(spaces.nasbench201(), channels=4, depth=1, num_classes=10, dtype=jnp.float64)
    problem, gauss_newton = supernet_problem(net)
    points, variables = trajectory(problem, net, inner, outer, arguments)
    print(f"trajectory of {arguments.steps} steps", flush=True)
    context = Context(variables)  # batch norm uses the batch: running statistics enter no loss
    chosen = range(arguments.every, arguments.steps + 1, arguments.every)
    everything = Batches(inner, outer)

    def estimate_of(estimator, rate=arguments.rate):
        def estimate(point, batches):
            # Learning rate of the virtual step, where there is one: that of the trajectory.
            state = estimator.init(point)
            return estimator.estimate(problem, point, batches, context, state, learning_rate=rate)[0]

        return jax.jit(estimate)

    ends = [spectrum(problem, points[at], inner, context) for at in chosen]
    damping = 1.2 * max(-min(low for low, _ in ends), 0.02 * max(high for _, high in ends))
    print(
        f"eigenvalues of H: {min(e[0] for e in ends):.3f} to {max(e[1] for e in ends):.3f}; lambda {damping:.3f}",
        flush=True,
    )
    exact, residuals = {}, []
    solve = bilevel.implicit(bilevel.conjugate_gradient(250, damping=damping, tolerance=1e-10))
    solved = jax.jit(lambda point: solve.estimate(problem, point, everything, context, solve.init(point)))
    for at in chosen:
        began, kept = time.time(), pathlib.Path(f"{arguments.work}/exact-{arguments.rate}-{arguments.images}-{at}.npz")
        if not kept.exists():
            found, _, aux = solved(points[at])
            files.prepare_folder(kept.parent)
            np.savez(kept, hypergradient=flat(found.alpha), residual=aux.metrics["inverse_residual"])
        with np.load(kept) as stored:
            exact[at] = stored["hypergradient"]
            residuals.append(float(stored["residual"]))
        print(f"exact at step {at}: |h| {np.linalg.norm(exact[at]):.4f}, residual {residuals[-1]:.1e}, "
              f"{time.time() - began:.0f} s", flush=True)  # fmt: skip
    common = {
        "rate": arguments.rate, "steps": arguments.steps, "batch": BATCH, "damping": damping,
        "eigenvalues": [min(e[0] for e in ends), max(e[1] for e in ends)], "cg_residual": max(residuals),
    }  # fmt: skip

    def keep(name, units, errors, cosines, bias, began):
        row = {
            "estimator": name, "units": units, "error": rms(errors), "bias": None if bias is None else rms(bias),
            "cosine": float(np.mean(cosines)), "by_point": [round(rms(e), 4) for e in errors],
            "seconds": round(time.time() - began, 1), **common,
        }  # fmt: skip
        with results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{name}: error {row['error']:.3f}, bias {row['bias']}, cosine {row['cosine']:.3f}", flush=True)

    for name, (units, estimator, momentum, batch, share) in recursive(damping).items():
        if (name, arguments.rate) in measured:
            continue
        began, momentum = time.time(), optax.with_extra_args_support(momentum)
        step = jax.jit(functools.partial(moved, problem, context, estimator, momentum, share, arguments.rate))
        errors, cosines = {at: [] for at in chosen}, []
        for seed in range(arguments.seeds):
            # The trajectory moves weights and alpha; of the estimator is only v, where it has one.
            adjoint = jax.tree.map(jnp.zeros_like, points[0].weights) if share else ()
            first = points[0]._replace(adjoint=adjoint)
            kept = (estimator.init(first), jax.jit(momentum.init)(first), adjoint)
            for at in range(arguments.steps + 1):
                key = jax.random.fold_in(jax.random.key(seed), at)
                direction, kept = step(kept, points[at], minibatches(inner, outer, key, batch, 0))
                if at in exact:
                    errors[at].append(relative(flat(direction.alpha), exact[at]))
                    cosines.append(cosine(flat(direction.alpha), exact[at]))
        keep(name, units, list(errors.values()), cosines, None, began)

    for name, (units, estimator, batch, fresh) in plain(damping, gauss_newton).items():
        if (name, arguments.rate) in measured:
            continue
        began, estimate = time.time(), estimate_of(estimator)
        errors, cosines, bias = [], [], []
        for at in chosen:
            truth, rows = exact[at], []
            for draw in range(DRAWS):
                batches = minibatches(inner, outer, jax.random.key(1000 * at + draw), batch, fresh)
                rows.append(flat(estimate(points[at], batches).alpha))
            errors.append([relative(row, truth) for row in rows])
            cosines += [cosine(row, truth) for row in rows]
            whole = everything._replace(further=repeated(inner, fresh))
            bias.append([relative(flat(estimate(points[at], whole).alpha), truth)])
        keep(name, units, errors, cosines, bias, began)
    table(read(results))


def moved(problem, context, estimator, momentum, share, rate, kept, point, batches):
    """One step of the momentum at a point of the trajectory, and of v by this share of its largest safe step."""
    state, optimiser, adjoint = kept
    point = point._replace(adjoint=adjoint)
    estimate = lambda at, kept, refresh: estimator.estimate(
        problem, at, batches, context, kept, learning_rate=rate, refresh=refresh
    )  # fmt: skip
    direction, state, _ = estimate(point, state, True)
    direction, optimiser = momentum.update(
        direction, optimiser, point, grad_fn=lambda old: estimate(old, state, False)[0]
    )
    adjoint = jax.tree.map(lambda v, step: v - share * step, adjoint, direction.adjoint)
    return direction, (state, optimiser, adjoint)


def plain(damping, gauss_newton):
    """Name -> (units, estimator, batch, fresh batches)."""
    series = lambda terms, **more: bilevel.implicit(bilevel.neumann(terms, damping=damping), **more)
    rows = {
        "first order": (2, bilevel.first_order(), BATCH, 0),
        "first order, batch 64": (4, bilevel.first_order(), 2 * BATCH, 0),
        "finite difference": (4, bilevel.finite_difference(), BATCH, 0),
        "unrolled(1)": (4, bilevel.unrolled(1), BATCH, 0),
        "unrolled(5)": (20, bilevel.unrolled(5), BATCH, 0),
    }
    # Two units for the power iteration that chooses the step size.
    for terms in (0, 1, 2, 5, 10, 20):
        rows[f"neumann({terms})"] = (2 * terms + 6, series(terms), BATCH, 0)
    return rows | {
        "neumann(2), batch 64": (20, series(TERMS), 2 * BATCH, 0),
        "neumann(2), fresh batches": (10, series(TERMS), BATCH, TERMS),
        "neumann(10), fresh batches": (26, series(10), BATCH, 10),
        "neumann(2), Gauss-Newton": (10, series(TERMS, curvature=gauss_newton), BATCH, 0),
        "neumann(10), Gauss-Newton": (26, series(10, curvature=gauss_newton), BATCH, 0),
        "conjugate gradient(5)": (
            14, bilevel.implicit(bilevel.conjugate_gradient(5, damping=damping)), BATCH, 0,
        ),
    }  # fmt: skip


def recursive(damping):
    """Name -> (units, estimator, momentum, batch, share of the safe step by which v moves; 0: there is no v)."""
    coefficient = bilevel.decaying(0.9, offset=100, power=2 / 3, floor=0.1)
    series = bilevel.implicit(bilevel.neumann(TERMS, damping=damping))
    rows = {
        "neumann(2) + EMA": (10, series, bilevel.moving_average(coefficient), BATCH, 0),
        "neumann(2) + STORM": (18, series, bilevel.storm(coefficient), BATCH, 0),
        "neumann(2) + EMA, coefficient 0.1": (10, series, bilevel.moving_average(0.1), BATCH, 0),
        "neumann(2) + STORM, coefficient 0.1": (18, series, bilevel.storm(0.1), BATCH, 0),
    }
    rows |= {
        "first order + EMA": (2, bilevel.first_order(), bilevel.moving_average(coefficient), BATCH, 0),
        "first order + EMA, coefficient 0.1": (2, bilevel.first_order(), bilevel.moving_average(0.1), BATCH, 0),
        "first order + STORM": (4, bilevel.first_order(), bilevel.storm(coefficient), BATCH, 0),
    }
    # The damping of the reference is fixed, and so is that of the loop: the curvature's lower end is above it.
    loop = bilevel.single_loop(damping=damping)
    nothing = bilevel.single_loop(damping=damping - 1, curvature=bilevel.identity, largest=1.0)
    average = lambda alpha, adjoint: bilevel.moving_average(Point(1.0, alpha, adjoint))
    return rows | {
        "single loop": (4.125, loop, average(1.0, 1.0), BATCH, 1.0),
        "single loop, half steps of v": (4.125, loop, average(1.0, 1.0), BATCH, 0.5),
        "single loop + EMA, coefficient 0.1": (4.125, loop, average(0.1, 1.0), BATCH, 1.0),
        "single loop + EMA on v too, coefficient 0.1": (4.125, loop, average(0.1, 0.1), BATCH, 1.0),
        "single loop + EMA, coefficient 0.1, batch 64": (8.25, loop, average(0.1, 1.0), 2 * BATCH, 1.0),
        "single loop + EMA on v too, coefficient 0.1, batch 72": (9.28, loop, average(0.1, 0.1), 72, 1.0),
        "single loop, damping doubled + EMA, coefficient 0.1": (
            4.125, bilevel.single_loop(damping=2 * damping), average(0.1, 1.0), BATCH, 1.0,
        ),
        "single loop + STORM, coefficient 0.45": (8.25, loop, bilevel.storm(Point(1.0, 0.45, 0.45)), BATCH, 1.0),
        "identity + EMA, coefficient 0.1": (4, nothing, average(0.1, 0.1), BATCH, 1.0),
    }  # fmt: skip


def images(path, count):
    with np.load(path) as whole:
        chosen = np.random.default_rng(0).permutation(len(whole["x_train"]))[: 2 * count]
        pixels, labels = whole["x_train"][chosen] / 255.0, whole["y_train"][chosen].astype(np.int32)
    pixels = pixels.reshape(-1, 16, 2, 16, 2, 3).mean((2, 4))
    pixels = jnp.asarray((pixels - pixels.mean((0, 1, 2))) / pixels.std((0, 1, 2)))
    labels = jnp.asarray(labels.reshape(-1))
    return Examples(pixels[:count], labels[:count]), Examples(pixels[count:], labels[count:])


def minibatches(inner, outer, key, batch, fresh):
    """Drawn without replacement within a batch; `fresh` further inner ones for the terms of a series."""
    keys = jax.random.split(key, fresh + 2)
    take = lambda examples, k: jax.tree.map(
        lambda leaf: leaf[jax.random.permutation(k, len(leaf))[:batch]], examples
    )  # fmt: skip
    curvature = None
    if fresh:
        curvature = jax.tree.map(lambda *rows: jnp.stack(rows), *(take(inner, k) for k in keys[2:]))
    return Batches(take(inner, keys[0]), take(outer, keys[1]), curvature)


def repeated(examples, fresh):
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * fresh), examples) if fresh else None


def trajectory(problem, net, inner, outer, arguments):
    """The points of a first-order search, from the initial one: SGD with momentum and Adam, as DARTS."""
    params, stats = nets.initialise(net, jax.random.key(0), inner.image.shape[1:])
    double = lambda tree: jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tree)
    alpha = double(spaces.init_alpha(net.space, jax.random.key(1)))
    tx = optax.partition(
        {"weights": optax.chain(optax.clip_by_global_norm(5.0), optax.sgd(arguments.rate, 0.9)),
         "alpha": optax.adam(0.4 * arguments.rate, 0.5, 0.999)},
        Point("weights", "alpha"),
    )  # fmt: skip
    learner = bilevel.simultaneous(
        problem, bilevel.first_order(), lambda key: (Point(double(params), alpha), double(stats)), tx
    )
    points = [Point(double(params), alpha)]
    save = train.Hook(steps=lambda event: points.append(jax.tree.map(jnp.array, event.state.point)))
    train.fit(
        learner,
        lambda step, key: minibatches(inner, outer, key, BATCH, 0),
        key=jax.random.key(2),
        num_steps=arguments.steps,
        hooks=[*train.chunks_of(1), save],
    )
    return points, double(stats)


def spectrum(problem, point, inner, context):
    """Smallest and largest eigenvalue of the Hessian in the weights, by 40 steps of Lanczos."""
    swapped = lambda alpha, weights, batch, context: problem.inner(weights, alpha, batch, context)
    found = _lanczos(swapped, Point(point.alpha, point.weights), inner, context)
    return float(found.smallest), float(found.largest)


_CACHE = {}


def _lanczos(loss, point, batch, context):
    if "jit" not in _CACHE:
        _CACHE["jit"] = jax.jit(lambda p, b, c: bilevel.alpha_eigenvalues(
            loss, p, b, c, jax.random.key(3), num_iterations=40
        ))  # fmt: skip
    return _CACHE["jit"](point, batch, context)


def flat(tree):
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)])


def relative(found, truth):
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


def cosine(found, truth):
    return float(found @ truth / (np.linalg.norm(found) * np.linalg.norm(truth)))


def rms(values):
    return float(np.sqrt(np.mean(np.square(np.concatenate([np.ravel(v) for v in values])))))


def read(path):
    return [json.loads(line) for line in path.open()] if path.exists() else []


def table(rows):
    """The table as Markdown."""
    print("| estimator | units | relative error | of it bias | cosine | error x sqrt(units) |\n" + "|---" * 6 + "|")
    for row in sorted(rows, key=lambda row: (row["rate"], row["units"])):
        bias = "–" if row["bias"] is None else f"{row['bias']:.3f}"
        scaled = row["error"] * row["units"] ** 0.5
        print(f"| {row['estimator']} (rate {row['rate']}) | {row['units']} | {row['error']:.3f} | {bias} | "
              f"{row['cosine']:.3f} | {scaled:.2f} |")  # fmt: skip


if __name__ == "__main__":
    main()
