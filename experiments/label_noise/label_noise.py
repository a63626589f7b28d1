"""Bilevel optimisation outside architecture search: weights of classes of examples under label noise.

Two thirds of the training images of the embedded Fashion-MNIST slice get labels from six annotators, of whom two
label at random. Alpha is one logit an annotator; the inner loss weights each example by its annotator's softmax
weight, the outer loss is that of a small clean set. The hypergradient of `jnas.bilevel` finds out whom to trust.
Nothing of this is about architectures: weights and alpha are any pytrees.

Command:  python experiments/label_noise/label_noise.py --seeds 5
Result:   README.md beside this file.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jnas
from jnas import bilevel
from jnas.data.load import load

ANNOTATORS, RANDOM = 6, (1, 4)  # the second and the fifth label at random
LOOPS = (bilevel.single_loop(damping=0.1), bilevel.single_loop(damping=1.0))  # their points have an adjoint


def corrupted(seed, num_train=3000, num_clean=500):
    """Images in [0, 1], labels, annotators; and the clean and the test set."""
    splits = load("fashion-mnist-slice")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(splits.train))
    take = lambda rows: (jnp.asarray(splits.train.images[rows] / 255, jnp.float32), splits.train.labels[rows].copy())
    (x, y), clean = take(order[:num_train]), take(order[num_train : num_train + num_clean])
    who = rng.integers(0, ANNOTATORS, num_train)
    wrong = np.isin(who, RANDOM)
    y[wrong] = rng.integers(0, 10, wrong.sum())
    test = (jnp.asarray(splits.test.images / 255, jnp.float32), jnp.asarray(splits.test.labels))
    return (x, jnp.asarray(y), jnp.asarray(who)), (clean[0], jnp.asarray(clean[1])), test


def logits(w, x):
    return jax.nn.relu(x @ w["w1"] + w["b1"][None]) @ w["w2"] + w["b2"][None]


def init(key):
    one, two = jax.random.split(key)
    weights = {
        "w1": jax.random.normal(one, (784, 64)) / 28, "b1": jnp.zeros(64),
        "w2": jax.random.normal(two, (64, 10)) / 8, "b2": jnp.zeros(10),
    }  # fmt: skip
    return bilevel.Point(weights, jnp.zeros(ANNOTATORS)), ()


def inner(w, alpha, batch, context):
    x, y, who = batch
    trust = ANNOTATORS * jax.nn.softmax(alpha)[who]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits(w, x), y)
    decay = 1e-3 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(w))
    return jnp.mean(trust * losses) + decay, bilevel.Aux()


def outer(w, alpha, batch, context):
    x, y = batch
    return optax.softmax_cross_entropy_with_integer_labels(logits(w, x), y).mean(), bilevel.Aux()


def run(estimator, seed, num_steps=600, batch=100):
    """Trust in the annotators [6] and the test accuracy; without an estimator trust stays even."""
    train, clean, test = corrupted(seed)

    def batches(step, key):
        row_key, held_key = jax.random.split(key)
        rows = jax.random.randint(row_key, (batch,), 0, 3000)
        held = jax.random.randint(held_key, (batch,), 0, 500)
        return bilevel.Batches(jax.tree.map(lambda a: a[rows], train), jax.tree.map(lambda a: a[held], clean))

    moves = optax.set_to_zero() if estimator is None else optax.adam(0.005)
    steps = {"weights": optax.sgd(0.1), "alpha": moves, "adjoint": optax.sgd(1.0)}
    tx = optax.chain(
        bilevel.storm(bilevel.decaying()), optax.partition(steps, bilevel.Point("weights", "alpha", "adjoint"))
    )
    learner = bilevel.simultaneous(
        bilevel.Bilevel(inner, outer),
        estimator or bilevel.first_order(),
        bilevel.with_adjoint(init) if estimator in LOOPS else init,
        tx,
        learning_rate=0.1,
    )
    state = jnas.fit(learner, batches, key=jax.random.key(seed), num_steps=num_steps)
    accuracy = jnp.mean((jnp.argmax(logits(state.point.weights, test[0]), -1) == test[1]).astype(jnp.float32))
    return np.asarray(jax.nn.softmax(state.point.alpha)), float(accuracy)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    methods = {
        "even trust": None,
        "first order": bilevel.first_order(),
        "Neumann, 5 terms": bilevel.implicit(bilevel.neumann(5)),
        "unrolled, 5 steps": bilevel.unrolled(5),
        "single loop, damping 0.1": LOOPS[0],
        "single loop, damping 1": LOOPS[1],
    }
    for name, estimator in methods.items():
        started = time.time()
        trust, accuracies = zip(*(run(estimator, seed) for seed in seeds), strict=True)
        random_share = [float(t[list(RANDOM)].sum()) for t in trust]
        spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
        print(
            f"{name}: test accuracy {100 * statistics.mean(accuracies):.2f} +- {100 * spread:.2f} %, "
            f"trust in the random annotators {statistics.mean(random_share):.3f} (even: 0.333), "
            f"{len(accuracies)} seeds, {time.time() - started:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
