"""A zoo of 24 unlike networks, and eight small new tasks for them: what `table.py` measures.

Three sources, of 16 x 16 pixels: the first five classes of CIFAR-10, of Fashion-MNIST and of MNIST. On each of them a
search by gradient on NAS-Bench-201's space finds a cell, which is trained at two widths and, narrow, at twice the
depth; beside it stand DARTS_V2 at two sizes, a cell of pools and 1 x 1 convolutions, and two chains. The tasks have the
other classes, all five or three of them, and the cells of blood of the detection photos: 600 images each to learn from.

    python experiments/zoo/build.py data --cifar10 A.npz --fashion B.npz --mnist C.npz --photos FOLDER --out runs/zoo
    python experiments/zoo/build.py networks --out runs/zoo

A.npz, B.npz, C.npz: x_train, y_train, x_test, y_test, uint8, ten classes each; `--fashion` has images that are not
embedded. FOLDER: photos with boxes of three classes in VOC's layout. `--only SOURCE` trains the networks of some
sources, so that several processes share the work. What is done is not done again.

Result, hardware, time: README.md beside this file.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import numpy as np
from PIL import Image

from jnas.data.detection.voc import read_voc
from jnas.recipes.zoo import entries

SIZE = 16  # pixels of a side
SOURCES = {"cifar10": 6, "fashion": 20, "mnist": 12}  # and the epochs of their trainings: about as many steps
TASKS = {
    "cifar10-5": ("cifar10", (5, 6, 7, 8, 9)), "cifar10-animals": ("cifar10", (5, 6, 7)),
    "cifar10-others": ("cifar10", (6, 8, 9)), "fashion-5": ("fashion", (5, 6, 7, 8, 9)),
    "fashion-shoes": ("fashion", (5, 7, 9)), "mnist-5": ("mnist", (5, 6, 7, 8, 9)), "mnist-3": ("mnist", (5, 6, 8)),
}  # fmt: skip
SOURCE_TRAIN, SOURCE_TEST = 10_000, 2000  # images of a source at most, in equal numbers for all classes
TRAIN, TEST = 600, 1000  # images of a task
SEARCH = (
    "nasbench201", "estimator=first_order", "scheme=alternating", "momentum=none", "channels=4", "random_cells=0",
    "weights.learning_rate=0.2", "alpha.learning_rate=0.03", "alpha.final_learning_rate=0.03", "alpha.warmup=0.4",
    "beta_decay=0", "without_none=false", "steps=150", "train.channels=8",
)  # fmt: skip
LIGHT = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|skip_connect~0|none~1|nor_conv_1x1~2|"
# What is trained beside the cell that was found: the words of `jnas train`.
TRAININGS = {
    "wide": ("RUN", "train.channels=12"), "deep": ("RUN", "train.channels=4", "train.depth=2"),
    "darts": ("DARTS_V2", "train.channels=4", "train.depth=3"),
    "darts-wide": ("DARTS_V2", "train.channels=8", "train.depth=2"),
    "light": (LIGHT, "space=nasbench201", "train.channels=8"),
    "chain": ("chain:nor_conv_3x3+conv_3x3-w2+max_pool_3x3+conv_3x3-e2-dw-w2+conv_3x3-w4", "train.channels=8"),
    "slim": ("chain:nor_conv_3x3+conv_5x5-dw+sep_conv_3x3+skip_connect", "train.channels=12"),
}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    of_data = actions.add_parser("data")
    for name in SOURCES:
        of_data.add_argument(f"--{name}", required=True, type=pathlib.Path)
    of_data.add_argument("--photos", required=True, type=pathlib.Path)
    of_networks = actions.add_parser("networks")
    of_networks.add_argument("--only", nargs="*", choices=SOURCES, default=list(SOURCES))
    of_networks.add_argument("--batch", type=int, default=64, help="of a step that is measured")
    for action in (of_data, of_networks):
        action.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/zoo"))
    arguments = parser.parse_args()
    if arguments.action == "data":
        write_data(arguments)
    else:
        for source in arguments.only:
            train_networks(arguments.out, source, arguments.batch)


def write_data(arguments):
    """The sources and the tasks."""
    read, random = {name: halved(getattr(arguments, name)) for name in SOURCES}, np.random.default_rng(0)
    for name, parts in read.items():
        few = {"train": SOURCE_TRAIN // 5, "test": SOURCE_TEST // 5}
        chosen_parts = {part: chosen(*parts[part], range(5), few[part], random) for part in few}
        write(arguments.out / "sources" / f"{name}.npz", chosen_parts)
    for name, (source, classes) in TASKS.items():
        few = {"train": TRAIN // len(classes), "test": TEST // len(classes)}
        parts = {part: chosen(*read[source][part], classes, few[part], random) for part in few}
        write(arguments.out / "tasks" / f"{name}.npz", parts)
    cells = crops(arguments.photos)
    few = {"train": TRAIN // 3, "test": TEST // 3}
    parts = {part: chosen(*cells[part], range(3), few[part], random) for part in few}
    write(arguments.out / "tasks" / "blood.npz", parts)


def halved(path):
    """Images of a file at 16 x 16 pixels, means of 2 x 2, after a black border where they have 28 x 28, and labels."""
    with np.load(path) as file:
        found = {part: (file[f"x_{part}"], file[f"y_{part}"].ravel().astype(np.int64)) for part in ("train", "test")}
    for part, (x, y) in found.items():
        x = x.reshape(*x.shape[:3], -1)
        border = (2 * SIZE - x.shape[1]) // 2
        x = np.pad(x, ((0, 0), (border, border), (border, border), (0, 0)))
        means = x.reshape(len(x), SIZE, 2, SIZE, 2, -1).mean((2, 4))
        found[part] = np.round(means).astype(np.uint8), y
    return found


def crops(folder):
    """The boxes of photos at 16 x 16 pixels, to learn from those of the training part."""
    names, photos = read_voc(folder)
    found = {"train": ([], []), "test": ([], [])}
    for part, listed in photos.items():
        x, y = found["train" if part == "train" else "test"]
        for photo in listed:
            with Image.open(photo.file) as image:
                for box in photo.boxes:
                    if not box.degenerate:
                        x.append(
                            np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX, box.corners))
                        )
                        y.append(names.index(box.name))
    return {part: (np.array(x), np.array(y)) for part, (x, y) in found.items()}


def chosen(x, y, classes, most=None, random=None):
    """The images of some classes, at most so many of each and drawn at random, and labels from 0 on."""
    rows = [np.flatnonzero(y == label) for label in classes]
    if most is not None:
        rows = [random.permutation(of)[:most] for of in rows]
    return x[np.concatenate(rows)], np.repeat(np.arange(len(rows)), [len(of) for of in rows])


def write(path, parts):
    """A data set as one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{f"{kind}_{part}": values[at] for part, values in parts.items() for at, kind in enumerate("xy")})
    print(path, {part: values[0].shape for part, values in parts.items()}, flush=True)


def train_networks(out, source, batch):
    """Search, train, add and measure what the zoo does not have of a source."""
    data, zoo, runs = out / "sources" / f"{source}.npz", out / "zoo", out / "runs"
    search, epochs = runs / f"{source}-found", f"train.epochs={SOURCES[source]}"
    jnas("search", *SEARCH, f"data={data}", epochs, "--out", search)
    add(zoo, source, "found", search, batch)
    for name, (genotype, *words) in TRAININGS.items():
        run = runs / f"{source}-{name}"
        what = search if genotype == "RUN" else genotype
        jnas("train", what, *words, f"data={data}", epochs, "--out", run)
        add(zoo, source, name, run, batch)


def add(zoo, source, name, run, batch):
    """Put a network into the zoo and measure it, once."""
    entry = f"{source}-{name}"
    if entry in entries.names(zoo, entries.NETWORKS):
        return
    jnas("zoo", "add", zoo, run, "--name", entry, "--data", f"{source}, first 5 classes, 16 x 16")
    jnas("zoo", "measure", zoo, entry, "--batch", batch)
    facts, _ = entries.read(zoo, entries.NETWORKS, entry)
    kept = ("accuracy", "parameters", "flops", "genotype", "space")
    print(json.dumps({"network": entry, **{key: facts[key] for key in kept}}), flush=True)


def jnas(*words):
    """A command, with its progress."""
    subprocess.run([sys.executable, "-m", "jnas", *map(str, words)], check=True)


if __name__ == "__main__":
    main()
