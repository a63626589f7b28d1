"""Trials by one program for all cells against one for each: seconds of the first call, milliseconds of a step.

Command:  python experiments/trials/programs.py --channels 6
Result, hardware, time: README.md beside this file.

Processor time. Three cells of NAS-Bench-201, from all 3x3 convolutions to three skip connections, alternate, and so do
the two programs. A training takes 16 steps; the first one of each compiles.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from jnas import spaces
from jnas.data.load import load
from jnas.recipes import trainer
from jnas.recipes.settings import Training
from jnas.recipes.trials import objectives

STEPS = 16
CELLS = (
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|",
    "|skip_connect~0|+|avg_pool_3x3~0|avg_pool_3x3~1|+|nor_conv_1x1~0|nor_conv_1x1~1|nor_conv_3x3~2|",
    "|skip_connect~0|+|none~0|skip_connect~1|+|none~0|skip_connect~1|none~2|",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    space, train = spaces.nasbench201(), load("fashion-mnist-slice").train.part(np.arange(1024))
    training = Training(channels=arguments.channels, batch_size=32)
    net, augment = objectives._supernet(space, train, training, affine=True)
    one, jobs = objectives._job(net, train, training, augment), {}
    for number, cell in enumerate(CELLS):
        arch = spaces.from_string(space, cell)
        given = one.source._replace(arrays=(one.source.arrays[0], spaces.one_hot_alpha(space, jnp.asarray(arch))))
        jobs[number, "one program"] = one._replace(source=given)
        own = objectives._network(spaces.fix(space, arch), train, training)
        jobs[number, "its own"] = objectives._job(own, train, training, augment)
    seconds: dict[tuple[int, str], list[float]] = {name: [] for name in jobs}
    for repeat in range(arguments.repeats + 1):
        for name, job in jobs.items():
            started = time.process_time()
            trainer.train(job._replace(num_steps=STEPS), jax.random.key(repeat), steps_per_call=STEPS)
            seconds[name].append(time.process_time() - started)
    for (number, program), (first, *others) in seconds.items():
        steps = [1000 * took / STEPS for took in others]
        print(
            f"{arguments.channels} channels, cell {number}, {program}: {first:.1f} s, "
            f"{statistics.median(steps):.1f} ms a step ({min(steps):.1f} to {max(steps):.1f})"
        )


if __name__ == "__main__":
    main()
