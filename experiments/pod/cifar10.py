"""CIFAR-10 on every device of a pod: the DARTS space by the double recursion, then the found cell trained.

The same command runs in every process; they find one another by the environment (Cloud TPU, SLURM, Open MPI). The
batch, 64 a device unless `batch_size=N` is given, is split over all devices of all hosts, with the gradients and
batch-norm statistics of the global batch. The data, prepared once as array_record (see `jnas.data.load`), and the run
folder must lie where all hosts see them. A preempted, killed or failed job goes on from its last checkpoint with the
same command; on another number of devices, with the `batch_size` that it began with.

TPU pod:  gcloud compute tpus tpu-vm ssh NAME --zone ZONE --worker=all --command="
              cd jnas && python experiments/pod/cifar10.py --distributed --data tfds:cifar10:/mnt/shared/tfds
              --out /mnt/shared/runs/cifar10"
          `--worker=all` starts it on every host of the slice; /mnt/shared is a disk or bucket mounted on all of them.
SLURM:    srun --nodes=4 --gpus-per-node=8 --ntasks-per-node=8 --requeue --signal=TERM@60
              python experiments/pod/cifar10.py --distributed --data tfds:cifar10:$SCRATCH/tfds
              --out $SCRATCH/runs/cifar10
          One process a GPU; SIGTERM a minute before the time limit saves at a common step.
By hand:  python experiments/pod/cifar10.py --coordinator 10.0.0.1:8476 --processes 2 --process 0 --data ... --out ...
          and the same with `--process 1` on the other host.

Hardware and result: not yet run on a pod.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from jnas import distributed
from jnas.cli import hosts
from jnas.distributed.cache import enable_compilation_cache
from jnas.distributed.hosts import joined
from jnas.distributed.meshes import data_mesh
from jnas.errors import Diverged, Interrupted, UserError
from jnas.recipes import config, driver
from jnas.recipes.gradient import recipe as gradient
from jnas.recipes.gradient.settings import Search

PER_DEVICE = 64


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="key=value", help="settings over those of the preset darts-storm")
    parser.add_argument("--data", required=True, metavar="tfds:cifar10:DIR | FILE.npz")
    parser.add_argument("--out", required=True, type=pathlib.Path, metavar="DIR", help="seen by all hosts")
    hosts.add_arguments(parser, mesh=False)
    arguments = parser.parse_args(argv)
    enable_compilation_cache()
    try:
        with joined(hosts.from_arguments(arguments)):
            mesh = data_mesh()
            retraining = -(-96 // mesh.size) * mesh.size  # 96 as DARTS has it, rounded up to what the devices divide
            here = {
                "data": arguments.data, "batch_size": PER_DEVICE * mesh.size, "train": {"batch_size": retraining},
            }  # fmt: skip
            words = config.read_words(arguments.words)
            settings = config.build(Search, config.read_preset("darts-storm"), here, words)
            result = driver.run(gradient, settings, arguments.out, mesh=mesh)
            if distributed.is_first():
                print(f"{result['genotype']}: {100 * result['found']['test_accuracy']:.2f} % on the test images")
    except (UserError, Diverged, Interrupted) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr, flush=True)
        return {UserError: 2, Diverged: 1}.get(type(error), 143)
    return 0


if __name__ == "__main__":
    sys.exit(main())
