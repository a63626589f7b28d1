"""What several seeds in one program cost: time a step of R runs against R times that of one, and the compilations.

Command:  python experiments/many_seeds/many_runs.py --runs 8 [--repeats 5] [key=value ...]
Result, hardware, time: README.md beside this file.

One run and R runs, mapped one by one and all at once, are compiled as `fit` compiles them and called in turn; the state
of R runs after these steps is compared with that of run 0 alone. Settings are those of `jnas search`.
"""

import argparse
import dataclasses
import json
import statistics
import time

import jax
import numpy as np

from jnas import distributed
from jnas.data.load import load
from jnas.distributed.sharding import Place, home
from jnas.recipes import config
from jnas.recipes.gradient import many
from jnas.recipes.gradient import recipe as gradient
from jnas.recipes.gradient.settings import Search
from jnas.train.program import Each, compile_steps, split_key


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="key=value")
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ways", nargs="+", default=["one_by_one", "all_at_once"])
    arguments = parser.parse_args()
    settings = config.build(Search, config.read_words([*arguments.words, f"num_runs={arguments.runs}"]))
    splits = load(settings.data)
    single = gradient.source_of(dataclasses.replace(settings, num_runs=1, each={}), splits)
    several = gradient.source_of(settings, splits)
    net = gradient.supernet_of(gradient.spaces.by_name(settings.space), settings, splits.train.num_classes)
    learner = gradient.learner_of(settings, net, splits.train.shape, 1000)

    cases = {}
    for name in ("one", *arguments.ways):
        alone = name == "one"
        place = Place() if alone else Place(None, arguments.runs, None, getattr(distributed, name))
        keys = split_key(many.keys(settings, 3)[0] if alone else many.keys(settings, 3))
        source = single if alone else several
        arrays = jax.device_put(source.arrays, home(None))
        given = arrays if alone else Each(arrays, None, jax.device_put(source.per_run, home(None)))
        program = compile_steps(learner, source.batch, False, 1, place)
        started = time.perf_counter()
        state = program.init(keys.init)
        init = time.perf_counter() - started
        step = program.run.lower(state, np.int32(0), np.int32(1), given, keys)
        compiled = step.compile()
        print(f"{name}: compiled in {time.perf_counter() - started - init:.1f} s, started in {init:.1f} s", flush=True)
        memory = compiled.memory_analysis()
        cases[name] = [compiled, state, given, keys, [], (memory.temp_size_in_bytes if memory else 0)]
    for repeat in range(arguments.repeats + 1):
        for case in cases.values():
            compiled, state, given, keys, times, _ = case
            started = time.perf_counter()
            case[1], metrics = compiled(state, np.int32(repeat), np.int32(repeat + 1), given, keys)
            jax.block_until_ready(metrics)
            times.append(time.perf_counter() - started)
    medians = {name: statistics.median(case[4][1:]) for name, case in cases.items()}
    first = jax.tree.leaves(cases["one"][1].point.alpha)[0]
    for name in arguments.ways:
        other = jax.tree.leaves(cases[name][1].state.point.alpha)[0][0]
        pairs = zip(cases[name][4][1:], cases["one"][4][1:], strict=True)
        ratios = sorted(a / b for a, b in pairs)
        print(json.dumps({
            "way": name, "runs": arguments.runs, "one_s": round(medians["one"], 3), "all_s": round(medians[name], 3),
            "ratio": round(medians[name] / medians["one"], 2), "ratio_range": [round(ratios[n], 2) for n in (0, -1)],
            "temp_MB": [round(cases[n][5] / 1e6) for n in ("one", name)],
            "alpha_difference": float(np.abs(np.asarray(first) - np.asarray(other)).max()),
        }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
