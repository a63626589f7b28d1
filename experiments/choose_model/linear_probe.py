"""Records of pre-trained models on many tasks, as a grid, and the features by which a predictor reads them.

The columns: model, pretrained, upstream_dataset, samples_seen, gmacs_total, macts, dataset, fewshot_k (-1: all images),
lr, epochs, bs, lp_acc1. A *case* is a data set with a number of shots, a *candidate* a model with a setting (learning
rate, epochs). What is known of a new task before anything is trained on it: its number of images and classes (the
public `SIZES`; of a data set that is not listed the medians of the listed ones), and, with `probes`, what the cheapest
models reach on it with each setting. No accuracy of any other model on that task is read by the features.
"""

import csv
import gzip
import io
import pathlib
import warnings
import zlib
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
COLUMNS = (
    "model", "pretrained", "upstream_dataset", "samples_seen", "gmacs_total", "macts", "dataset", "fewshot_k", "lr",
    "epochs", "lp_acc1",
)  # fmt: skip
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


def read(*paths, say=lambda sentence: None):
    """The grid of one or several files of records, plain or compressed; several records of one thing are averaged.

    Rows without a number where one is needed are left out; facts of a model that are missing are the median of the
    others'.

    Args:
      *paths: of the files; what the first one says of a model holds.
      say: is told, in a sentence, what was left out or made up.
    """
    records, about, skipped = {}, {}, 0
    for path in paths:
        for row in rows_of(path):
            try:
                case = row["dataset"].strip(), int(float(row["fewshot_k"]))
                setting, score = (float(row["lr"]), int(float(row["epochs"]))), float(row["lp_acc1"])
                if not (case[0] and 0 <= score <= 1 and 0 < setting[0] < np.inf and setting[1] > 0):
                    raise ValueError
            except (ValueError, OverflowError, AttributeError, TypeError):
                skipped += 1
                continue
            model = row["model"] or "", row["pretrained"] or ""
            about.setdefault(model, row)
            records.setdefault((case, model, setting), []).append(score)
    if skipped:
        say(f"{skipped} rows without a task, a setting or an accuracy in [0, 1] are left out")
    if not records:
        raise SystemExit(f"{', '.join(map(str, paths))} has no record: give rows with accuracies in [0, 1]")
    cases, models, settings = (sorted({key[at] for key in records}) for at in range(3))
    score = np.full((len(cases), len(models), len(settings)), np.nan)
    at = [{value: number for number, value in enumerate(axis)} for axis in (cases, models, settings)]
    for (case, model, setting), found in records.items():
        score[at[0][case], at[1][model], at[2][setting]] = np.mean(found)
    facts = {name: [positive(about[m].get(name)) for m in models] for name in ("gmacs_total", "samples_seen", "macts")}
    # The column holds multiply-adds of the whole pre-training; those of one image are the cost of using the model.
    compute = [total / seen for total, seen in zip(facts["gmacs_total"], facts["samples_seen"], strict=True)]
    columns = [filled(column) for column in (compute, facts["macts"], facts["samples_seen"])]
    if np.isnan([*compute, *facts["macts"], *facts["samples_seen"]]).any():
        say("facts of some models are missing: they are taken as the median of the others'")
    known = [
        (macts, seen, about[m]["upstream_dataset"] or "") for macts, seen, m in zip(*columns[1:], models, strict=True)
    ]
    return Grid(cases, models, settings, score, np.maximum(columns[0].round(2), 0.01), known)


def rows_of(path):
    """The rows of a file as dictionaries; one sentence if it is not such a file."""
    try:
        content = pathlib.Path(path).read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise SystemExit(f"cannot read {path} ({error}): give a CSV file of records, plain or compressed") from error
    if not rows:
        raise SystemExit(f"{path} has no row: give a CSV file with the columns {', '.join(COLUMNS)}")
    missing = [name for name in COLUMNS if name not in rows[0]]
    if missing:
        raise SystemExit(f"{path} has no column {', '.join(missing)}: give a CSV file with {', '.join(COLUMNS)}")
    return rows


def positive(text):
    """A positive number, or NaN."""
    try:
        value = float(text)
        return value if 0 < value < np.inf else np.nan
    except (ValueError, TypeError):
        return np.nan


def filled(column):
    """With the median in place of NaN; 1 if there is nothing else."""
    column = np.asarray(column, float)
    known = column[np.isfinite(column)]
    return np.where(np.isfinite(column), column, np.median(known) if len(known) else 1.0)


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


def features(grid, probes, upstream, train=None):
    """`(x [cases, models, settings, features], names)`.

    Args:
      grid: the records; of the probed models alone are scores read.
      probes: [n] models whose scores on a new task are known, all settings; empty: none.
      upstream: names of the upstream data sets, in order.
      train: [cases] bool, those that complete what is missing of the probes elsewhere; None: all.
    """
    shape = grid.score.shape
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
        known = completed(logit(grid.score[:, probes]), np.ones(shape[0], bool) if train is None else train)
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
    return np.stack([np.broadcast_to(c, shape) for c in columns.values()], -1).astype(float), list(columns)


def completed(known, train):
    """Scores of the probes `[cases, probes, settings]` with what is missing: the means of the cases of `train`, moved
    by as much as the case's other scores lie off theirs.
    """
    if not np.isnan(known).any():
        return known
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of an empty mean
        usual = np.nanmean(known[train], 0)
        usual = np.where(np.isnan(usual), np.nanmean(usual, 0), usual)  # a probe without that setting: the others'
        usual = np.nan_to_num(np.where(np.isnan(usual), np.nanmean(usual), usual))
        moved = np.nan_to_num(np.nanmean(known - usual, (1, 2)))[:, None, None]
    return np.where(np.isnan(known), usual + moved, known)


def size_of(dataset, shots):
    """`(classes, training images)` of a case."""
    medians = [float(np.median(column)) for column in zip(*SIZES.values(), strict=True)]
    classes, images = SIZES.get(name_of(dataset), medians)
    return (classes, min(images, classes * shots) if shots > 0 else images)


def name_of(dataset):
    """The name under which `SIZES` lists a data set."""
    return dataset.split("/")[-1].removesuffix("-unverified")


def is_listed(dataset):
    """Whether the size of a data set is known."""
    return name_of(dataset) in SIZES


def columns_of(group, names):
    """The columns of a group of `GROUPS`."""
    return [at for at, name in enumerate(names) if name.startswith(GROUPS[group])]
