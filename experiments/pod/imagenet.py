"""A search on ImageNet, streamed from disk, on every device of a pod.

Each process reads and decodes only the images that its own devices work on. As PC-DARTS (Xu et al. 2020) does, it
searches on ImageNet itself: the training images are divided at random into the lower and the upper level, each epoch
visits every image once over all hosts, and the order is a function of the seed and the step alone, so that a job may go
on with another number of hosts and see the same batches (give it the `batch_size` that it began with). The found cell
is then trained by `jnas train` or by any other program.

Prepare the data once, where TensorFlow is installed, as array_record:
  tfds.builder("imagenet2012", data_dir=DIR, file_format="array_record").download_and_prepare()

TPU pod:  gcloud compute tpus tpu-vm ssh NAME --zone ZONE --worker=all --command="
              cd jnas && python experiments/pod/imagenet.py --distributed --data tfds:imagenet2012:/mnt/shared/tfds
              --out /mnt/shared/runs/imagenet"
SLURM:    srun --nodes=4 --gpus-per-node=8 --ntasks-per-node=8 --cpus-per-task=12 --requeue --signal=TERM@60
              python experiments/pod/imagenet.py --distributed --data tfds:imagenet2012:$SCRATCH/tfds
              --out $SCRATCH/runs/imagenet
By hand:  as `cifar10.py`, with --coordinator, --processes and --process.

Hardware and result: not yet run on a pod; tried in two processes on a CPU, with tiny images.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

import jax
import numpy as np

from jnas import data, distributed, nets, spaces, train
from jnas.cli import hosts
from jnas.data.stream import bilevel_stream_source, open_tfds, split_stream
from jnas.distributed.cache import enable_compilation_cache
from jnas.distributed.hosts import joined
from jnas.distributed.meshes import data_mesh
from jnas.errors import Diverged, Interrupted, UserError
from jnas.recipes import config, run_folder
from jnas.recipes.gradient import recipe as gradient
from jnas.recipes.gradient.settings import Search
from jnas.recipes.settings import share

PER_DEVICE = 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's channels


class Square:
    """Images brought to one size: the largest square in the middle, resized."""

    def __init__(self, source, side: int):
        self.source, self.side = source, side

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        from PIL import Image

        item = self.source[index]
        image = np.asarray(item["image"])
        height, width, channels = image.shape
        edge = min(height, width)
        top, left = (height - edge) // 2, (width - edge) // 2
        square = image[top : top + edge, left : left + edge]
        if edge != self.side:
            picture = Image.fromarray(square[..., 0] if channels == 1 else square)
            picture = picture.resize((self.side, self.side), Image.Resampling.BILINEAR)
            square = np.asarray(picture).reshape(self.side, self.side, channels)
        return {"image": square, "label": item["label"]}


def search(settings: Search, side: int, fraction: float, folder: pathlib.Path) -> str:
    """The genotype that is found; resumes."""
    space, mesh = spaces.by_name(settings.space), data_mesh()
    key = jax.random.key(settings.seed)
    source, num_classes = open_tfds(settings.data)
    if fraction < 1:
        source, _ = split_stream(source, jax.random.fold_in(key, 0), fraction)
    inner, outer = split_stream(
        Square(source, side), jax.random.fold_in(key, 1), 1 - share(settings.validation, len(source))
    )
    shape = (side, side, np.asarray(inner[0]["image"]).shape[2])
    change = settings.augmentation
    batches = bilevel_stream_source(
        inner,
        outer,
        batch_size=settings.batch_size,
        augment=data.Augment(change.crop, change.flip, change.cutout, MEAN[: shape[2]], STD[: shape[2]]),
        key=jax.random.fold_in(key, 2),
        num_further=settings.terms if settings.fresh_batches else settings.inner_steps - 1,
        read_ahead=2,
    )
    run_folder.begin(folder, settings, "search")
    steps = len(inner) // settings.batch_size
    net = nets.network_for(
        space,
        channels=settings.channels,
        depth=settings.depth,
        num_classes=num_classes,
        stem="imagenet" if side >= 64 else "small_image",
        remat=settings.remat,
        edge_strategy="auto",
        dtype=jax.numpy.dtype(settings.dtype).type,
    )

    def record(event: train.Event):
        alpha = jax.tree.map(np.asarray, event.state.point.alpha)
        genotype = spaces.to_string(space, spaces.discretise(space, alpha))
        return {"epoch": event.step // steps, "genotype": genotype, "alpha": alpha}

    state = train.fit(
        gradient.learner_of(settings, net, shape, settings.epochs * steps),
        batches,
        key=jax.random.fold_in(key, 3),
        num_steps=settings.epochs * steps,
        mesh=mesh,
        hooks=[
            *train.chunks_of(1),
            *train.standard_hooks(folder / "search", "search", *gradient.SHOWN),
            train.jsonl_each(folder / "search" / "genotypes.jsonl", steps, record),
        ],
        checkpoints=train.Saving(folder / "search" / "checkpoints", settings.checkpoint_every or steps),
    )
    arch = spaces.discretise(space, jax.tree.map(np.asarray, state.point.alpha))
    genotype = spaces.to_string(space, arch)
    run_folder.write_json(folder / "search" / "found.json", {"genotype": genotype, "steps": settings.epochs * steps})
    return genotype


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="key=value", help="settings over those of the preset darts-storm")
    parser.add_argument("--data", required=True, metavar="tfds:imagenet2012:DIR")
    parser.add_argument("--out", required=True, type=pathlib.Path, metavar="DIR", help="seen by all hosts")
    parser.add_argument("--side", type=int, default=112, help="of the images, in pixels (112)")
    parser.add_argument("--fraction", type=float, default=1.0, help="of the training images to search on (1)")
    parser.add_argument("--per-device", type=int, default=PER_DEVICE, help=f"examples a device ({PER_DEVICE})")
    hosts.add_arguments(parser, mesh=False)
    arguments = parser.parse_args(argv)
    enable_compilation_cache()
    try:
        with joined(hosts.from_arguments(arguments)), run_folder.as_user_input():
            batch_size = arguments.per_device * jax.device_count()
            here = {"data": arguments.data, "batch_size": batch_size, "dtype": "bfloat16"}
            words = config.read_words(arguments.words)
            settings = config.build(Search, config.read_preset("darts-storm"), here, words)
            genotype = search(settings, arguments.side, arguments.fraction, arguments.out)
            if distributed.is_first():
                print(genotype)
    except (UserError, Diverged, Interrupted) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr, flush=True)
        return {UserError: 2, Diverged: 1}.get(type(error), 143)
    return 0


if __name__ == "__main__":
    sys.exit(main())
