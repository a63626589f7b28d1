"""What the program computes, written down: a net under changes that must not change it.

The script gives the commands of the program small fixed tasks on the CPU, in one temporary folder and with data that it
makes itself, and compares what they leave with `golden.json` beside it: exit status and printed text, the names of the
files of each run, the first lines of its curves, the numbers of its JSON files, the shapes and the norm of its weights,
all help texts, the settings of all presets, and the sentences that answer bad input.

    python tests/golden/golden.py                    # compare; status 1 and a list of the differences if there are any
    python tests/golden/golden.py neumann export     # only these cases
    python tests/golden/golden.py --write            # store what the program does now (with names: only these cases)

Numbers agree if they differ by at most 1e-4 of the stored one plus 1e-6; everything else has to be equal. Times, hosts,
process numbers, devices, TensorBoard's numbers and what is inside the folders of checkpoints are left out. Genotypes
are compared only under the version of JAX with which they were stored, since another one may draw other random numbers;
help texts and sentences of argparse only under the same minor version of Python. On another kind of processor rounding
may differ, and after some steps exceed the tolerance: store on the machine on which you compare.

Write the file anew only when a change of behaviour is meant: a new option, another default, another random stream,
another name of a file. Look at the list of differences first, and say in the message of the commit why each is wanted.
Moving code is no reason. The compiled programs are kept in the system's temporary folder, in jnas-golden-cache.

The commands run inside this process, through `python -m jnas` as `runpy` runs it, so that the script knows nothing of
the modules; of the package it imports `jnas.exported` alone.
"""

import argparse
import contextlib
import hashlib
import io
import itertools
import json
import os
import pathlib
import re
import runpy
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

ROOT = pathlib.Path(__file__).resolve().parents[2]
STORED = pathlib.Path(__file__).with_suffix(".json")
RELATIVE, ABSOLUTE = 1e-4, 1e-6
FIRST = 3  # lines of curves that are kept; of other JSON lines the first
WHOLE = ("neumann", "train")  # cases of which all JSON files are kept

# The tasks -----------------------------------------------------------------------------------------------------------

SPACE = "cell-2:none,skip_connect,nor_conv_1x1,avg_pool_3x3"  # three edges
SKIPS = "|skip_connect~0|+|nor_conv_1x1~0|skip_connect~1|"
DATA = "data=images.npz"
TRAIN = ("train.channels=2", "train.depth=1", "train.epochs=1", "train.batch_size=16", "train.augmentation.crop=1")
GRADIENT = (
    "search", DATA, "channels=2", "depth=1", "steps=3", "batch_size=8", "random_cells=0", "augmentation.crop=1",
    "shrink=1", "alpha.warmup=0", "steps_per_call=1", *TRAIN,
    # The defaults of 0.5.0, whose outputs these are: others have taken their place.
    "estimator=neumann", "damping=0.0", "momentum=storm", "without_none=false", "beta_decay=0.0",
    "weights.learning_rate=0.2", "alpha.learning_rate=0.03", "alpha.final_learning_rate=0.03",
    *(f"{level}.coefficient.{word}" for level in ("weights", "alpha") for word in ("offset=100.0", "floor=0.1")),
)  # fmt: skip
SMALL = (*GRADIENT, f"space={SPACE}")
TRIALS = (
    "search", "trials", DATA, f"space={SPACE}", "num_evaluations=3", "population=2", "train_images=24", "rungs=1",
    "validation=16", "random_cells=0", "trial.channels=2", "trial.depth=1", "trial.epochs=1",
    "trial.batch_size=8", "trial.augmentation.crop=1", *TRAIN,
)  # fmt: skip
GROUPED = (
    "search", "grouped", DATA, f"space={SPACE}", "groups=skip_connect avg_pool_3x3, nor_conv_1x1", "batch_size=16",
    "first.channels=2", "second.channels=2", "first.depth=1", "second.depth=1", "first.epochs=1", "second.epochs=1",
    "augmentation.crop=1", "random_cells=0", "steps_per_call=1", *TRAIN,
)  # fmt: skip
SPACES = (
    "search", "space-search", DATA, "strategies.names=layer_types", "strategies.depth=2",
    "strategies.types=skip_connect max_pool_3x3 nor_conv_1x1", "samples=1", "examples=24", "validation=16",
    "judge.channels=2", "judge.epochs=1", "judge.batch_size=8", "judge.augmentation.crop=1", "outer.initial=2",
    "outer.budget=3", "inner.initial=2", "inner.budget=3", "random_cells=0", *TRAIN,
)  # fmt: skip
JOINT = (
    "search", "joint", DATA, "space=cell-2:skip_connect,nor_conv_1x1", "operators=", "methods=w4a8 w8a8",
    "method_threshold=0.9", "validation=0.25", "probes=1", "supernet.channels=2", "supernet.depth=1",
    "supernet.epochs=1", "supernet.batch_size=12", "augmentation.crop=1", "num_evaluations=4", "at_once=2",
    "compare=false", "searcher=reinforce", "score=accuracy", "networks=1", "beside=[]", *TRAIN,
)  # fmt: skip
LAYER = ("train", "chain:nor_conv_1x1", "space=chain-1:skip_connect,nor_conv_1x1", "channels=2", "stem=small_image")
DETECTION = (
    *LAYER, "--task", "detection", "--data", "photos", "height=16", "width=24", "strides=[4]", "head_channels=8",
    "head_depth=1", "train.batch_size=4", "train.epochs=1", "most_boxes=10", "threshold=0", "augmentation.smallest=1",
    "augmentation.largest=1", "augmentation.colour=0", "steps_per_call=1",
)  # fmt: skip
RECOGNITION = (
    *LAYER, "--task", "recognition", DATA, "dimension=4", "train.epochs=1", "train.batch_size=12",
    "augmentation.crop=1", "steps_per_call=1",
)  # fmt: skip
SELECT = (
    "select", "images.npz", "--zoo", "zoo", "frozen=[0.0,1.0]", "learning_rates=[0.05]", "epochs=[1]",
    "fine_tuning.batch_size=12", "fine_tuning.augmentation.crop=1", "trials=1",
)  # fmt: skip


class Case(NamedTuple):
    """Commands that are given one after another in the common folder."""

    commands: Sequence[Sequence[str]]
    folders: Sequence[str] = ()  # that are looked at afterwards
    needs: Sequence[str] = ()  # cases whose folders it reads
    also: Callable[[], Any] | None = None  # a look at what the commands left
    quiet: bool = False  # whether what is printed is left out


def run_of(name: str, words: Sequence[str], *changes: str) -> Case:
    return Case([(*words, *changes, "--out", name)], [name])


def exported_answers() -> Any:
    """What the exported file says about four images."""
    import numpy as np

    from jnas import exported

    with np.load("images.npz") as arrays:
        answers = exported.load("network.jnas")(arrays["x_test"][:4, ..., None])
    return {name: value.tolist() for name, value in answers.items()}


CASES: dict[str, Case] = {
    "neumann": run_of("neumann", GRADIENT, "random_cells=1"),  # both levels at once, storm, two terms
    "first_order": run_of(
        "first_order", SMALL, "scheme=alternating", "estimator=first_order", "beta_decay=0.5", "momentum=none",
        "weights.heavy_ball=0.9",
    ),
    "gauss_newton": run_of("gauss_newton", SMALL, "curvature=gauss_newton", "damping=0.1", "fresh_batches=true"),
    "many": run_of("many", SMALL, "num_runs=2", "each.alpha.learning_rate=[0.01,0.1]"),
    "conjugate_gradient": run_of(
        "conjugate_gradient", SMALL, "estimator=conjugate_gradient", "momentum=moving_average"
    ),
    "unrolled": run_of("unrolled", SMALL, "estimator=unrolled", "terms=1", "momentum=none", "scheme=alternating"),
    "single_loop": run_of("single_loop", SMALL, "estimator=single_loop", "momentum=moving_average", "damping=3"),
    "single_loop_steps": run_of(
        "single_loop_steps", SMALL, "estimator=single_loop", "momentum=moving_average", "damping=3",
        "scheme=alternating", "inner_steps=2",
    ),
    "finite_difference": run_of("finite_difference", SMALL, "estimator=finite_difference"),
    "perturbation": run_of("perturbation", SMALL, "estimator=first_order", "selection=perturbation"),
    "darts": run_of("darts", GRADIENT, "space=darts", "steps=2", "estimator=first_order", "momentum=none"),
    "grouped": run_of("grouped", GROUPED),
    "trials_training": run_of("trials_training", TRIALS, "searcher=evolution", "costs.parameters=0.1"),
    "trials_own_training": run_of("trials_own_training", TRIALS, "objective=own_training", "searcher=random"),
    "trials_shared_weights": run_of(
        "trials_shared_weights", TRIALS, "objective=shared_weights", "searcher=gaussian_process"
    ),
    "trials_table": run_of(
        "trials_table", TRIALS, "objective=table", "table=table.csv", "searcher=tpe", "num_evaluations=6"
    ),
    "trials_front": run_of(
        "trials_front", TRIALS, "objective=table", "table=table.csv", "searcher=nsga2", "beside=[parameters]",
        "num_evaluations=6",
    ),
    "space_search": run_of("space_search", SPACES),
    "joint": run_of("joint", JOINT),
    "train": run_of(
        "train", ("train", SKIPS, DATA, f"space={SPACE}", *TRAIN), "train.drop_path=0.3", "train.auxiliary=0.4",
        "train.smoothing=0.1", "steps_per_call=1",
    ),
    "train_found": Case([("train", "neumann", *TRAIN, "--out", "again")], ["again"], ["neumann"]),
    "detection": Case(
        [
            (*DETECTION, "--out", "detection"),
            ("evaluate", "detection"),
            ("predict", "detection", "photos/JPEGImages/07.jpg", "--threshold", "0.01", "--out", "boxes"),
        ],
        ["detection", "boxes"],
    ),
    "recognition": Case(
        [
            (*RECOGNITION, "--out", "recognition"),
            ("evaluate", "recognition"),
            ("predict", "recognition", "image.png", "--top", "2"),
        ],
        ["recognition"],
    ),
    "evaluate": Case(
        [("evaluate", "neumann"), ("evaluate", "neumann/train/random-0", "--split", "train"),
         ("evaluate", "neumann", "--data", "images.npz")],
        needs=["neumann"],
    ),
    "predict": Case(
        [("predict", "neumann", "image.png", "--top", "3", "--out", "said")], ["said"], ["neumann"],
    ),
    "export": Case(
        [("export", "neumann", "--out", "network.jnas"), ("predict", "network.jnas", "image.png")],
        needs=["neumann"], also=exported_answers,
    ),
    "report": Case(
        [("report", "neumann"), ("report", "neumann", "--format", "markdown"), ("report", "neumann", "first_order")],
        needs=["neumann", "first_order"],
    ),
    "zoo": Case(
        [
            ("zoo", "add", "zoo", "neumann", "--name", "one", "--licence", "MIT"),
            ("zoo", "add", "zoo", "neumann/train/random-0", "--name", "two"),
            ("zoo", "add", "zoo", "results.csv", "--name", "table"),
            ("zoo", "list", "zoo", "--json"),
            ("zoo", "list", "zoo", "--max-params", "0.0015"),
            (*SELECT, "--out", "select"),
            ("zoo", "remove", "zoo", "two"),
        ],
        ["select", "zoo"], ["neumann"],
    ),
    "bench": Case(
        [("bench", "data=synthetic", f"space={SPACE}", "channels=2", "batch_size=4", "estimator=first_order",
          "--what", "gradient", "--repeats", "1", "--out", "bench.jsonl")],
        also=lambda: [sorted(json.loads(line)) for line in pathlib.Path("bench.jsonl").read_text().splitlines()],
        quiet=True,
    ),
    "spaces": Case([("spaces",), ("spaces", SPACE), ("spaces", "chain-2:skip_connect,nor_conv_1x1")]),
}  # fmt: skip

COMMANDS = (
    "", "search", "train", "evaluate", "report", "bench", "predict", "export", "zoo", "zoo add", "zoo list",
    "zoo measure", "zoo show", "zoo remove", "select", "spaces",
)  # fmt: skip

MISTAKES = [
    ["search", "--nonsense"],
    ["sarch"],
    [],
    ["search", "chanels=3"],
    ["search", "train.epoch=3"],
    ["search", "channels=many"],
    ["search", "channels=0"],
    ["search", "estimator=magic"],
    ["search", "train=3"],
    ["search", "channels"],
    ["search", "missing.yaml"],
    ["search", "list.yaml"],
    ["search", "space=darts3"],
    ["search", "data=cifar11"],
    ["search", "data=missing.npz"],
    ["search", "data=torn.npz"],
    ["search", "batch_size=100000"],
    ["search", "momentum=storm", "weights.heavy_ball=0.9"],
    ["search", "each.terms=[1]"],
    ["search", "damping=-1"],
    ["search", "grouped", "trials"],
    ["search", "--worker"],
    ["search", "grouped", "groups=skip_connect"],
    ["search", "trials", "objective=table"],
    ["search", "trials", DATA, "train_images=24", "validation=16", "objective=table", "table=list.yaml"],
    ["search", "joint", "methods=w9"],
    ["search", "space-search", "outer.initial=1"],
    ["train", SKIPS, DATA, f"space={SPACE}", *TRAIN, "--out", "photos"],
    ["train", "|nor_conv_9x9~0|"],
    ["train", "DARTS_V9"],
    ["train", SKIPS, f"space={SPACE}", "--task", "detection"],
    ["evaluate", "nowhere"],
    ["report", "nowhere"],
    ["predict", "nowhere", "image.png"],
    ["predict", "nowhere", "image.png", "--top", "0"],
    ["export", "nowhere", "--out", "file"],
    ["zoo", "list", "nowhere"],
    ["select", "images.npz", "--zoo", "nowhere"],
    ["select", "images.npz", "--zoo", "nowhere", "--max-params", "-1"],
    ["bench", "--what", "everything"],
    ["spaces", "nowhere"],
]


def make_data() -> None:
    """Images of three classes, photos with boxes, a table of architectures and one of models, and damaged files."""
    import numpy as np
    from PIL import Image, ImageDraw

    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 48), ("test", 18)):
        labels = np.arange(count) % 3
        images = rng.integers(0, 120, (count, 8, 8))
        for image, label in zip(images, labels, strict=True):
            image[:, 2 * label : 2 * label + 3] += 100
        arrays |= {f"x_{part}": images.astype(np.uint8), f"y_{part}": labels}
    np.savez_compressed("images.npz", **arrays)
    Image.fromarray(arrays["x_test"][1]).save("image.png")

    photos = pathlib.Path("photos")
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (photos / part).mkdir(parents=True)
    for number in range(12):
        picture = Image.new("RGB", (48, 32))
        name, left, top, side = ("disc", "square")[number % 2], *(int(n) for n in rng.integers(2, 14, 3))
        box = [left, top, left + side + 3, top + side + 3]
        draw = ImageDraw.Draw(picture)
        (draw.ellipse if number % 2 == 0 else draw.rectangle)(box, fill="white")
        corners = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        inside = "".join(f"<{key}>{value + 1}</{key}>" for key, value in corners)
        picture.save(photos / "JPEGImages" / f"{number:02}.jpg")
        (photos / "Annotations" / f"{number:02}.xml").write_text(
            f"<annotation><object><name>{name}</name><bndbox>{inside}</bndbox></object></annotation>"
        )
    for part, numbers in (("train", range(8)), ("test", range(8, 12))):
        (photos / "ImageSets" / "Main" / f"{part}.txt").write_text("\n".join(f"{i:02}" for i in numbers))

    lines = ["architecture,score"]
    for number, ops in enumerate(itertools.product(SPACE.partition(":")[2].split(","), repeat=3)):
        lines.append("|{}~0|+|{}~0|{}~1|,{}".format(*ops, 0.5 + (37 * number % 64) / 128))
    pathlib.Path("table.csv").write_text("\n".join(lines) + "\n")
    pathlib.Path("results.csv").write_text("model,img_size,top1,param_count\nsmall,32,70.5,1.5\nlarge,32,80.25,25.1\n")
    pathlib.Path("list.yaml").write_text("- 3\n")
    pathlib.Path("torn.npz").write_bytes(b"PK\x03\x04 torn")


# Running and looking --------------------------------------------------------------------------------------------------


def set_up() -> None:
    """The environment of the runs; before JAX is imported."""
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",  # these programs are compiled for longer than they run
        "JNAS_CACHE_DIR": str(pathlib.Path(tempfile.gettempdir()) / "jnas-golden-cache"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "COLUMNS": "100",
        "NO_COLOR": "1",
    }
    sys.path.insert(0, str(ROOT))


def run(*words: str) -> tuple[int, str, str]:
    """`python -m jnas WORDS` inside this process: exit status and what it printed on both streams."""
    before, leave, status = sys.argv, os._exit, 0

    def stop(code: int) -> NoReturn:  # of a program that ends its process, which is ours
        raise SystemExit(code)

    out, err = io.StringIO(), io.StringIO()
    sys.argv, os._exit = ["jnas", *words], stop
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_module("jnas", run_name="__main__", alter_sys=False)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv, os._exit = before, leave
    return status, out.getvalue(), err.getvalue()


TIMED = re.compile(
    r"second|time|latency|device|host|pid|started|throughput|digest|added|ended|sha256|jax|version", re.I
)


def lasting(value: Any) -> Any:
    """A value of JSON without times and the like; floats in six digits."""
    if isinstance(value, dict):
        return {name: lasting(part) for name, part in value.items() if not TIMED.search(name)}
    if isinstance(value, list):
        return [lasting(part) for part in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def printed(text: str) -> list[Any]:
    """The lines of an output: values of JSON, rows of tables without their columns of times, and text."""
    lines, found, number = text.replace(os.getcwd(), "FOLDER").splitlines(), [], 0
    while number < len(lines):
        line = lines[number]
        rules = lines[number + 1] if number + 1 < len(lines) else ""
        if line.startswith("{"):
            found.append(lasting(json.loads(line)))
        elif re.fullmatch(r"-+(  -+)+", rules):
            spans = [match.span() for match in re.finditer("-+", rules)]
            heads = [line[slice(*span)].strip() for span in spans]
            kept = [span for span, head in zip(spans, heads, strict=True) if "[s]" not in head]
            while number < len(lines) and lines[number]:
                if lines[number] != rules:
                    found.append([lines[number][slice(*span)].strip() for span in kept])
                number += 1
            continue
        elif line.startswith("| ") and rules.startswith("| -"):
            heads = line.split("|")
            kept = [place for place, head in enumerate(heads) if "[s]" not in head]
            while number < len(lines) and lines[number].startswith("|"):
                cells = lines[number].split("|")
                found.append([cells[place].strip() for place in kept])
                number += 1
            continue
        elif line:
            found.append(line)
        number += 1
    return found


def look(folder: pathlib.Path, whole: bool, named: bool) -> dict[str, Any]:
    """What is kept of a folder.

    Args:
      folder: of a run.
      whole: whether all JSON files are kept, or of those of the run only `result.json` without repetitions.
      named: whether every array is named, or only their number, the digest of names and shapes, and their norm.
    """
    import numpy as np

    names = set()
    found: dict[str, Any] = {"files": [], "lines": {}, "json": {}, "arrays": {}}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        shown = re.sub(r"(^|/)checkpoints/.*", r"\1checkpoints/", re.sub(r"tfevents\..*", "tfevents", name))
        shown = re.sub(r"(costs|records)/(.*/)?[^/]*\.json$", r"\1/\2*.json", shown)
        names.add(shown)
        if shown.endswith(("checkpoints/", "*.json")) or path.name == "environment.json":
            continue
        if path.suffix == ".jsonl":
            rows = [lasting(json.loads(line)) for line in path.read_text().splitlines()]
            first = rows[: FIRST if path.name == "metrics.jsonl" else 1]
            same = len(first) > 1 and all(row.keys() == first[0].keys() for row in first)
            found["lines"][name] = {
                "count": len(rows),
                "first": {key: [row[key] for row in first] for key in first[0]} if same else first,
            }
        elif path.suffix == ".json" and (whole or path.name not in ("network.json", "found.json", "choice.json")):
            if not re.fullmatch(r"train/.*/result\.json", name):  # which the run's own repeats
                value = lasting(json.loads(path.read_text()))
                found["json"][name] = value if whole else once(value)
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                shapes = {key: f"{value.dtype}{list(value.shape)}" for key, value in sorted(arrays.items())}
                norms = [np.linalg.norm(np.asarray(v, np.float64)) for v in arrays.values() if v.dtype.kind in "fiu"]
            text = json.dumps(shapes).encode()
            found["arrays"][name] = {
                "count": len(shapes),
                "norm": lasting(float(np.linalg.norm(norms))),
                "shapes": shapes if named else hashlib.sha256(text).hexdigest()[:12],
            }
    parts: dict[str, list[str]] = {}
    for name in sorted(names):
        place, _, last = name.removesuffix("/").rpartition("/")
        parts.setdefault(place or ".", []).append(last)
    found["files"] = {place: " ".join(last) for place, last in parts.items()}
    return {name: part for name, part in found.items() if part}


def once(value: Any, above: Any = None) -> Any:
    """A value of JSON without what the mapping above it says, too, and without the description of the data."""
    if isinstance(value, dict):
        kept = {key: part for key, part in value.items() if key != "data" and (above or {}).get(key, ...) != part}
        return {key: once(part, value) for key, part in kept.items()}
    return [once(part, above) for part in value] if isinstance(value, list) else value


def do(name: str) -> dict[str, Any]:
    """Give the commands of a case and look at what they leave."""
    case = CASES[name]
    found: dict[str, Any] = {"commands": []}
    for words in case.commands:
        status, out, err = run(*words)
        told: dict[str, Any] = {"status": status, **({} if case.quiet else {"out": printed(out)})}
        found["commands"].append({**told, "err": err.replace(os.getcwd(), "FOLDER").splitlines()} if status else told)
    for folder in case.folders:
        found[f"folder {folder}"] = look(pathlib.Path(folder), whole=name in WHOLE, named=name == "train")
    if case.also is not None:
        found["also"] = lasting(case.also())
    return found


def helps() -> dict[str, Any]:
    """The help text of the program and of each of its commands; runs of spaces count as one."""
    texts = {command or "jnas": run(*command.split(), "--help")[1] for command in COMMANDS}
    return {name: re.sub(" +", " ", text).splitlines() for name, text in texts.items()}


def mistakes() -> dict[str, Any]:
    """How bad input is answered: exit status and the lines on the error stream."""
    found = {}
    for words in MISTAKES:
        status, out, err = run(*words)
        lines = err.replace(os.getcwd(), "FOLDER").splitlines()
        found[" ".join(words)] = [status, *lines, *(["printed: " + out] if out else [])]
    return found


def presets() -> dict[str, Any]:
    """The settings that each preset stands for: the digest of the text, and of searches by gradient what it changes."""
    import yaml

    def flat(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
        for name, value in values.items():
            if isinstance(value, dict) and value:
                yield from flat(value, f"{prefix}{name}.")
            else:
                yield prefix + name, value

    found: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    names = sorted(path.stem for path in next(ROOT.glob("jnas/**/presets")).glob("*.yaml"))
    for name in sorted(names, key=lambda name: (name != "double-recursion", name)):
        status, out, err = run("search", name, "--show")
        digest = hashlib.sha256(out.encode()).hexdigest()[:12]
        found[name] = {"status": status, "text": digest, **({"err": err} if err else {})}
        values = dict(flat(yaml.safe_load(out) or {}))
        if not plain or plain.keys() == values.keys():
            found[name]["settings"] = lasting({key: v for key, v in values.items() if plain.get(key, ...) != v})
        plain = plain or values
    return found


TEXTS: dict[str, Callable[[], dict[str, Any]]] = {"help": helps, "mistakes": mistakes, "presets": presets}

# Comparing ------------------------------------------------------------------------------------------------------------


def differences(old: Any, new: Any, where: str, same_jax: bool) -> Iterator[str]:
    """Sentences that say what differs."""
    number = lambda value: isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            here = f"{where} / {key}"
            if key not in new:
                yield f"{here}: is missing now, stored {brief(old[key])}"
            elif key not in old:
                yield f"{here}: is new, {brief(new[key])}"
            else:
                yield from differences(old[key], new[key], here, same_jax)
    elif isinstance(old, list) and isinstance(new, list):
        strings = all(isinstance(part, str) for part in (*old, *new))
        if strings and len(old) != len(new):
            for part in [part for part in old if part not in new]:
                yield f"{where}: is missing now, {part!r}"
            for part in [part for part in new if part not in old]:
                yield f"{where}: is new, {part!r}"
            if set(old) == set(new):
                yield f"{where}: stored {len(old)} lines, now {len(new)}"
            return
        if len(old) != len(new):
            yield f"{where}: stored {len(old)} values, now {len(new)}: {brief(old)} and {brief(new)}"
        for place, (one, other) in enumerate(zip(old, new, strict=False)):
            yield from differences(one, other, f"{where} / {place}", same_jax)
    elif number(old) and number(new):
        close = old == new or abs(old - new) <= ABSOLUTE + RELATIVE * abs(old) or (old != old and new != new)
        if not close:
            yield f"{where}: stored {old}, now {new}"
    elif old != new and (same_jax or not is_genotype(old)):
        yield f"{where}: stored {brief(old)}, now {brief(new)}"


def is_genotype(value: Any) -> bool:
    return isinstance(value, str) and any(mark in value for mark in ("~0|", "Genotype(", "chain:"))


def brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else text[:157] + "..."


def as_text(found: dict[str, Any]) -> str:
    """JSON with a line for each part of a case."""
    dump = lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    cases = []
    for name, value in found.items():
        if isinstance(value, dict):
            parts = ",\n".join(f"  {dump(key)}: {dump(part)}" for key, part in value.items())
            cases.append(f" {dump(name)}: {{\n{parts}\n }}")
        else:
            cases.append(f" {dump(name)}: {dump(value)}")
    return "{\n" + ",\n".join(cases) + "\n}\n"


def main() -> int:
    """Compare with the stored result, or store it."""
    parser = argparse.ArgumentParser(description="Compare what the program does with what is stored.")
    parser.add_argument("names", nargs="*", metavar="CASE", help=f"of {', '.join([*TEXTS, *CASES])}; default: all")
    parser.add_argument("--write", action="store_true", help="store what the program does now")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(TEXTS) - set(CASES):
        parser.error(f"there is no case {', '.join(sorted(unknown))}: choose among {', '.join([*TEXTS, *CASES])}")
    set_up()
    import jax

    # In the order of the table, whose later rows read the folders of earlier ones.
    wanted = [name for name in (*TEXTS, *CASES) if not arguments.names or name in arguments.names]
    needed = {need for name in wanted if name in CASES for need in CASES[name].needs}
    old = json.loads(STORED.read_text()) if STORED.is_file() else {}
    new: dict[str, Any] = {
        "tolerance": f"{RELATIVE:g} of the stored number plus {ABSOLUTE:g}",
        "jax": jax.__version__,
        "python": ".".join(map(str, sys.version_info[:2])),
    }
    with tempfile.TemporaryDirectory(prefix="jnas-golden-") as folder, contextlib.chdir(folder):
        make_data()
        for name in (*TEXTS, *CASES):
            if name in wanted or name in needed:
                started, worked = time.perf_counter(), time.process_time()
                new[name] = TEXTS[name]() if name in TEXTS else do(name)
                took = f"{time.perf_counter() - started:6.1f} s, {time.process_time() - worked:6.1f} s of a processor"
                print(f"{name:22} {took}", file=sys.stderr, flush=True)
    if arguments.write:
        kept = {**old, **{name: part for name, part in new.items() if name in wanted or name not in (*TEXTS, *CASES)}}
        order = [name for name in ("tolerance", "jax", "python", *TEXTS, *CASES) if name in kept]
        STORED.write_text(as_text({name: kept[name] for name in order}))
        print(f"wrote {STORED.name}, {STORED.stat().st_size:,} bytes")
        return 0
    same_jax, same_python = (old.get(name) == new[name] for name in ("jax", "python"))
    lines = []
    for name in wanted:
        if name in ("help", "mistakes") and not same_python:
            print(f"{name} is not compared: stored with Python {old.get('python')}, this is {new['python']}")
        elif name not in old:
            lines.append(f"{name}: nothing is stored, run with --write")
        else:
            lines += differences(old[name], json.loads(json.dumps(new[name])), name, same_jax)
    if not arguments.names:
        lines += [f"{name}: is stored and no case now" for name in old if name not in new]
    if not same_jax:
        print(f"genotypes are not compared: stored with JAX {old.get('jax')}, this is {new['jax']}")
    print("\n".join(lines) if lines else f"{len(wanted)} cases agree")
    if lines:
        print(f"{len(lines)} differences")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
