"""A step of a search in units of the gradient that it is made of: time, arithmetic and memory.

Command:  taskset -c 0 python experiments/steps/steps.py --out steps.jsonl [--cases ...] [--rounds 5] [key=value ...]
          python experiments/steps/steps.py --table steps.jsonl
          The words are settings over those of the cases, such as remat=false.
Time:     two minutes of compilation a case, and some minutes on one core.

The unit is the gradient of the inner loss in weights and alpha together. All programs of a case are compiled in one
process and called in turn; each round is one pairing. The single loop's power iteration, once in 16 steps, is in
neither time nor arithmetic of the line (a share of a product of 1 / 16 is added by `--table`).
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from jnas import bilevel
from jnas.bench import roofline, worker
from jnas.bilevel.problem import second_derivatives
from jnas.bilevel.single_loop import EVERY
from jnas.recipes import config, flat
from jnas.recipes.gradient.settings import Search
from jnas.recipes.supernet import supernet_problem
from jnas.train.program import split_key
from jnas.types import Context

CASES = {
    "nb201-c16-n1-b64": {"space": "nasbench201", "channels": 16, "depth": 1, "batch_size": 64},
    "darts-c8-l5-b32": {"space": "darts", "channels": 8, "depth": 5, "batch_size": 32},
    "darts-c16-l8-b64": {"space": "darts", "channels": 16, "depth": 8, "batch_size": 64},
    "nb201-c4-n1-b8": {"space": "nasbench201", "channels": 4, "depth": 1, "batch_size": 8},
}
STEPS = {
    "first order": {"estimator": "first_order", "momentum": "moving_average"},
    "single loop": {"estimator": "single_loop", "momentum": "moving_average"},
    "single loop, recursion": {"estimator": "single_loop", "momentum": "storm"},
}

PARTS = "gradient", "gradient of the weights", "gradient of alpha", "forward", "product", "gradient and both products"
PROGRAMS = [*PARTS, *STEPS]


def programs(names, *layers):
    """Name and compiled call of the parts and of the steps, with memory in bytes and floating-point operations."""
    settings = config.build(Search, {"data": "synthetic", "epochs": 1}, *layers)
    subject = worker.subject_of(settings)
    arrays, keys = jax.device_put(subject.source.arrays), split_key(jax.random.key(0))
    batches = jax.jit(subject.source.batch)(arrays, np.int32(0), keys.data)
    problem, _ = supernet_problem(subject.net, unravel=flat.unravel_of(subject.net, subject.shape))
    state = subject.learner.init(keys.init)
    point, context = state.point, Context(state.variables, keys.learner, jnp.int32(0))
    v = jax.tree.map(jnp.ones_like, point.weights)

    def gradient(point, batch, context):
        return jax.value_and_grad(problem.inner, (0, 1), has_aux=True)(point.weights, point.alpha, batch, context)

    def weights_only(point, batch, context):
        return jax.value_and_grad(problem.inner, has_aux=True)(point.weights, point.alpha, batch, context)

    def alpha_only(point, batch, context):
        return jax.value_and_grad(problem.inner, 1, has_aux=True)(point.weights, point.alpha, batch, context)

    def forward(point, batch, context):
        return problem.inner(point.weights, point.alpha, batch, context)

    def product(point, batch, context):
        return bilevel.hessian(problem.inner, point, batch, context, v)

    def joint(point, batch, context):
        return second_derivatives(problem, point, batch, context, v)

    parts = dict(zip(PARTS, (gradient, weights_only, alpha_only, forward, product, joint), strict=True))
    found = {}
    for name in names:
        print(f"compiling: {name}", file=sys.stderr, flush=True)
        if name in parts:
            found[name] = compiled(parts[name], (point, batches.inner, context), 1)
        else:
            own = dataclasses.replace(settings, **STEPS[name])
            learner = worker.subject_of(own).learner
            found[name] = compiled(learner.update, (learner.init(keys.init), batches, keys.learner), 0)
    return found


def compiled(function, operands, trips):
    """A call, its arithmetic and memory; of a step not the first one, which has eight power iterations."""
    begin = time.perf_counter()
    traced = jax.jit(function).trace(*operands)
    program = traced.lower().compile()
    seconds = time.perf_counter() - begin
    work = roofline.count(traced.jaxpr, trips=(trips,))
    first = jax.block_until_ready(program(*operands))
    if not trips:
        operands = first[0], *operands[1:]
    about = {"flops": work.flops, "temp_bytes": program.memory_analysis().temp_size_in_bytes}
    return lambda: jax.block_until_ready(program(*operands)), about | {"compile_s": round(seconds, 1)}


def race(name, words, names, rounds):
    """The lines of a case: seconds of each call in each round."""
    found = programs(names, CASES[name], config.read_words(words))
    times = {program: [] for program in found}
    for _ in range(rounds):
        for program, (call, _) in found.items():
            begin = time.perf_counter()
            call()
            times[program].append(time.perf_counter() - begin)
    for program, (_, about) in found.items():
        yield {"case": name, "words": words, "program": program, "seconds": times[program], **about}


def table(lines):
    """Medians of the paired ratios to the gradient, their quartiles, and the same of the arithmetic."""
    print("| case | settings | program | median [s] | in gradients (quartiles) | arithmetic | memory [MB] |")
    print("|---|---|---|---|---|---|---|")
    by = {(line["case"], *line["words"], line["program"]): line for line in lines}
    for line in lines:
        unit = by[line["case"], *line["words"], "gradient"]
        ratios = np.divide(line["seconds"], unit["seconds"])
        work = line["flops"] / unit["flops"]
        if line["program"].startswith("single loop"):
            share = by.get((line["case"], *line["words"], "product"), {"seconds": [0.0], "flops": 0.0})
            ratios += np.divide(share["seconds"], unit["seconds"]) / EVERY
            work += share["flops"] / unit["flops"] / EVERY
        low, median, high = np.percentile(ratios, (25, 50, 75))
        print(
            f"| {line['case']} | {' '.join(line['words'])} | {line['program']} | "
            f"{statistics.median(line['seconds']):.3f} | **{median:.2f}** ({low:.2f}-{high:.2f}) | {work:.2f} | "
            f"{line['temp_bytes'] / 1e6:.0f} |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="key=value")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["nb201-c16-n1-b64", "darts-c8-l5-b32"])
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=PROGRAMS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).with_name("steps.jsonl"))
    parser.add_argument("--table", type=pathlib.Path, nargs="+", metavar="JSONL")
    arguments = parser.parse_args()
    if arguments.table:
        table([json.loads(line) for path in arguments.table for line in path.read_text().splitlines()])
        return
    for name in arguments.cases:
        lines = list(race(name, arguments.words, arguments.programs, arguments.rounds))
        with arguments.out.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        table(lines)


if __name__ == "__main__":
    main()
