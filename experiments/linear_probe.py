"""Records of pre-trained models on many tasks, as a grid, and the features by which a predictor reads them.

The columns: model, pretrained, upstream_dataset, samples_seen, gmacs_total, macts, dataset, fewshot_k (-1: all images),
lr, epochs, bs, lp_acc1. A *case* is a data set with a number of shots, a *candidate* a model with a setting (learning
rate, epochs). What is known of a new task before anything is trained on it: its number of images and classes (the
public `SIZES`; of a data set that is not listed the medians of the listed ones), and, with `probes`, what the cheapest
models reach on it with each setting. No accuracy of any other model on that task is read by the features.
"""

import csv
import gzip
import pathlib
from typing import NamedTuple

import numpy as np

# Classes and training images, as published with VTAB (arXiv:1910.04867), ImageNet and the CLIP benchmark's others.
SIZES = {
    "imagenet1k": (1000, 1281167), "caltech101": (102, 3060), "cifar10": (10, 45000), "cifar100": (100, 45000),
    "clevr_count_all": (8, 63000), "clevr_closest_object_distance": (6, 63000), "diabetic_retinopathy": (5, 35126),
    "dmlab": (6, 65550), "dsprites_label_orientation": (40, 589824), "dsprites_label_x_position": (32, 589824),
    "dtd": (47, 1880), "eurosat": (10, 16200), "flowers": (102, 1020), "kitti_closest_vehicle_distance": (4, 6347),
    "pcam": (2, 262144), "pets": (37, 2944), "resisc45": (45, 18900), "smallnorb_label_azimuth": (18, 24300),
    "smallnorb_label_elevation": (9, 24300), "sun397": (397, 76127), "svhn": (10, 65931), "cars": (196, 8144),
    "fgvc_aircraft": (100, 6667), "food101": (101, 75750), "gtsrb": (43, 26640), "mnist": (10, 60000),
    "fer2013": (7, 28709), "stl10": (10, 5000), "country211": (211, 31650), "voc2007": (20, 5011),
}  # fmt: skip
GROUPS = {
    "model": ("log compute", "log activations", "log images seen", "upstream"),
    "setting": ("log lr", "log epochs", "log steps", "log lr x steps"),
    "size": ("few shots", "log images", "log classes", "log images a class", "log steps", "log lr x steps"),
    "probe": ("probe",),
}


class Grid(NamedTuple):
    """All records of some files."""

    cases: list  # [cases] (data set, shots)
    models: list  # [models] (model, pretrained)
    settings: list  # [settings] (learning rate, epochs)
    score: np.ndarray  # [cases, models, settings] top-1 accuracy in [0, 1]; NaN: not there
    compute: np.ndarray  # [models] multiply-adds of an image, 1e9
    facts: list  # [models] (activations, images seen, upstream data set)

    @property
    def tasks(self):
        """[cases] the data set of each case."""
        return np.array([case[0] for case in self.cases])


def read(*paths):
    """The grid of one or several files of records."""
    rows = []
    for path in paths:
        opened = gzip.open if pathlib.Path(path).suffix == ".gz" else open
        with opened(path, "rt", newline="") as file:
            rows += list(csv.DictReader(file))
    cases = sorted({(row["dataset"], int(row["fewshot_k"])) for row in rows})
    about = {(row["model"], row["pretrained"]): row for row in rows}
    models = sorted(about)
    settings = sorted({(float(row["lr"]), int(row["epochs"])) for row in rows})
    score = np.full((len(cases), len(models), len(settings)), np.nan)
    for row in rows:
        at = (
            cases.index((row["dataset"], int(row["fewshot_k"]))),
            models.index((row["model"], row["pretrained"])),
            settings.index((float(row["lr"]), int(row["epochs"]))),
        )
        score[at] = float(row["lp_acc1"])
    # The column holds multiply-adds of the whole pre-training; those of one image are the cost of using the model.
    compute = np.array([float(about[m]["gmacs_total"]) / float(about[m]["samples_seen"]) for m in models]).round(2)
    facts = [(float(about[m]["macts"]), float(about[m]["samples_seen"]), about[m]["upstream_dataset"]) for m in models]
    return Grid(cases, models, settings, score, compute, facts)


def cheapest(grid, number):
    """The models to probe: the cheapest of each upstream data set, the cheapest of these first, names breaking ties."""
    order = sorted(range(len(grid.models)), key=lambda m: (grid.compute[m], grid.models[m]))
    firsts, seen = [], set()
    for model in order:
        if grid.facts[model][2] not in seen:
            seen.add(grid.facts[model][2])
            firsts.append(model)
    return firsts[:number]


def logit(share):
    """Log odds, of shares kept off 0 and 1."""
    held = np.clip(share, 0.005, 0.995)
    return np.log(held / (1 - held))


def features(grid, probes, upstream):
    """`(x [cases, models, settings, features], names)`.

    Args:
      grid: the records; of the probed models alone are scores read.
      probes: [n] models whose scores on a new task are known, all settings; empty: none.
      upstream: names of the upstream data sets, in order.
    """
    sizes = [size_of(*case) for case in grid.cases]
    classes, images = (np.array(part, float)[:, None, None] for part in zip(*sizes, strict=True))
    few = np.array([shots > 0 for _, shots in grid.cases], float)[:, None, None]
    rate = np.log10([lr for lr, _ in grid.settings])[None, None]
    epochs = np.log10([epochs for _, epochs in grid.settings])[None, None]
    steps = np.log10(np.maximum(images / 256, 1)) + epochs
    columns = {
        "log compute": np.log10(grid.compute)[None, :, None],
        "log activations": np.log10([fact[0] for fact in grid.facts])[None, :, None],
        "log images seen": np.log10([fact[1] for fact in grid.facts])[None, :, None],
        **{f"upstream {u}": np.array([float(f[2] == u) for f in grid.facts])[None, :, None] for u in upstream},
        "log lr": rate, "log epochs": epochs, "few shots": few, "log images": np.log10(images),
        "log classes": np.log10(classes), "log images a class": np.log10(images / classes), "log steps": steps,
        "log lr x steps": rate + steps,
    }  # fmt: skip
    if len(probes):
        known = logit(grid.score[:, probes])  # [cases, probes, settings]
        if np.isnan(known).any():
            case = grid.cases[int(np.argwhere(np.isnan(known))[0][0])]
            raise SystemExit(f"{case[0]} with {case[1]} shots has no record of a probed model: give its whole grid")
        mean, best = known.mean(1), known.max(-1)
        columns |= {
            "probe same setting": mean[:, None],
            "probe best setting": mean.max(-1)[:, None, None],
            "probe setting against its best": (mean - mean.max(-1, keepdims=True))[:, None],
        }
        if len(probes) > 1:  # what was learned upstream suits some tasks better than others
            ups = [grid.facts[p][2] for p in probes]
            own = np.array([ups.index(f[2]) if f[2] in ups else 0 for f in grid.facts])
            columns |= {
                "probe of the upstream, same setting": known[:, own],
                "probe of the upstream, advantage": (best - best.mean(1, keepdims=True))[:, own][..., None],
            }
    shape = grid.score.shape
    return np.stack([np.broadcast_to(c, shape) for c in columns.values()], -1).astype(float), list(columns)


def size_of(dataset, shots):
    """`(classes, training images)` of a case."""
    name = dataset.split("/")[-1].removesuffix("-unverified")
    medians = [float(np.median(column)) for column in zip(*SIZES.values(), strict=True)]
    classes, images = SIZES.get(name, medians)
    return (classes, min(images, classes * shots) if shots > 0 else images)


def columns_of(group, names):
    """The columns of a group of `GROUPS`."""
    return [at for at, name in enumerate(names) if name.startswith(GROUPS[group])]
