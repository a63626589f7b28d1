"""What the commands do, for the command line and for Python alike: search, train and evaluate, and runs as values."""

import dataclasses
import functools
import importlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from jax.sharding import Mesh

from jnas import exported, report
from jnas.distributed.cache import enable_compilation_cache
from jnas.errors import UserError
from jnas.files.reading import wrong
from jnas.recipes import config, driver, models, own_parts, run_folder, train_one
from jnas.recipes.folders import folder_of
from jnas.recipes.tasks import detect, export, measure, predict, recognise, training
from jnas.recipes.tasks.settings import TrainDetector, TrainEmbedding
from jnas.recipes.train_one import TrainOne
from jnas.spaces import networks
from jnas.spaces.base import quoted
from jnas.spaces.conventions import is_numbers
from jnas.spaces.genotypes import PUBLISHED
from jnas.types import PyTree

RECIPES = {
    "search": ("gradient", "Search"), "grouped": ("grouped", "GroupedSearch"), "trials": ("trials", "TrialSearch"),
    "space_search": ("generated", "SpaceSearch"), "quantised": ("joint", "QuantisedSearch"),
}  # fmt: skip
Layer = str | Mapping[str, Any]  # a preset, FILE.yaml, key=value, or settings by their names
Space = str | networks.NetworkSpace | None  # the name of one, FILE.py:NAME, or itself


@dataclasses.dataclass(frozen=True, repr=False)
class Run:
    """A finished run: what it found, and the trained network, which is read when it is asked for.

    In a notebook it shows itself: its cell and its curves.

    Attributes:
      folder: of the run, or of one network in it.
      result: what `result.json` holds.
      space: of the user's own, in place of the one that the run names; None: it is found by its name.
    """

    folder: pathlib.Path
    result: dict[str, Any]
    space: networks.NetworkSpace | None = None

    @property
    def genotype(self) -> str:
        """The architecture that was found or trained, as text."""
        return self._ended["genotype"]

    @property
    def metrics(self) -> dict[str, float]:
        """What was measured of its network: `test_accuracy` and others as shares of 1, `parameters`, `seconds`."""
        found = self._ended.get("found", self.result)
        return {name: value for name, value in found.items() if isinstance(value, int | float)}

    @property
    def _ended(self) -> dict[str, Any]:
        if "genotype" not in self.result:
            raise models.unfinished(self.folder)
        return self.result

    @functools.cached_property
    def model(self) -> models.Model:
        """The trained network with everything that it needs."""
        return models.load_model(self.folder, space=self.space)

    @property
    def network(self) -> Any:
        """The Flax module: `run.network.apply(run.weights, pixels, train=False)`."""
        return self.model.net

    @property
    def weights(self) -> PyTree:
        """What the module is applied with, `{"params": ..., "batch_stats": ...}`."""
        return self.model.weights

    @functools.cached_property
    def _ask(self) -> Any:
        return predict.open_network(self.folder, space=self.space).ask

    def predict(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Looks at images; as an exported network does, see `exported.ExportedNetwork.__call__`.

        Args:
          images: `[batch, height, width, channels]` uint8, such as the network was trained on.

        Returns:
          Arrays with leading axis `[batch]`, of a classifier `probability [batch, num_classes]`.

        Raises:
          ValueError: if the images have another shape or dtype.
        """
        return self._ask(exported.checked(images, self.model.shape))

    def report(self) -> pathlib.Path:
        """Writes the page of the run anew and returns its path."""
        return report.write_report(self.folder, space=self.space)

    def export(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Writes the network to one file for CPU, GPU and TPU; returns its header, see `export.export_network`."""
        return export.export_network(self.model, path)

    def __repr__(self) -> str:
        found = self.metrics if "genotype" in self.result else {}
        shown = [f"{name}={found[name]:.4f}" for name in ("test_accuracy", "voc_ap50", "recall_at_1") if name in found]
        return f"Run({', '.join([repr(str(self.folder)), *shown, quoted(self.result.get('genotype', ''))])})"

    def _repr_html_(self) -> str:
        return report.sketch(self.folder, space=self.space)


class Asked(NamedTuple):
    """A run that was asked for: settings that fit, and nothing done yet."""

    recipe: Any  # for `driver.run`
    settings: Any
    kind: str  # of the run, as its config.yaml says it
    words: tuple[str, ...]  # that its folder is named with
    options: dict[str, Any]  # of `driver.run`: storage, worker

    def folder(self, out: str | os.PathLike[str] | None) -> pathlib.Path:
        """The folder that the user gave, or that the run is named with, see `folder_of`."""
        return folder_of(out, self.settings, self.kind, *self.words)

    def run(self, folder: pathlib.Path, mesh: Mesh | None = None) -> Run:
        """Do it, or go on with it, see `driver.run`."""
        if isinstance(self.settings, TrainDetector) and not self.settings.data:
            raise UserError("detection needs photos with boxes: give --data FOLDER in the layout of VOC or COCO")
        enable_compilation_cache()
        result = driver.run(self.recipe, self.settings, folder, mesh=mesh, **self.options)
        return Run(folder, result, own_parts.space_of(self.settings))


def recipe_of(kind: str) -> tuple[Any, type]:
    """The recipe of a search of this kind, for `driver.run`, and the class of its settings."""
    room, settings = RECIPES[kind]
    recipe, of = (importlib.import_module(f"jnas.recipes.{room}.{name}") for name in ("recipe", "settings"))
    return recipe, getattr(of, settings)


def kind_of(*layers: Layer) -> str:
    """Which of `config.KINDS` a search of these settings is.

    Raises:
      UserError: if they are of several kinds.
    """
    names = [layer for layer in layers if isinstance(layer, str) and "=" not in layer]
    kinds = {config.kind_of(name) for name in names} - {"search"}
    if len(kinds) > 1:
        raise UserError(f"the settings are of several kinds, {', '.join(sorted(kinds))}: name presets of one kind")
    return kinds.pop() if kinds else "search"


def settings_of(*layers: Layer) -> list[dict[str, Any]]:
    """Settings as `config.build` takes them: files under words and mappings, with parts of the user's own."""
    for layer in layers:
        if not isinstance(layer, str | Mapping):
            kind = type(layer).__name__
            raise UserError(f"settings are given as {kind}: give the name of a preset or file as text, or a mapping")
    files = [config.read_preset(layer) for layer in layers if isinstance(layer, str) and "=" not in layer]
    words = config.read_words(layer for layer in layers if isinstance(layer, str) and "=" in layer)
    return [*files, *(own_parts.typed(layer) for layer in (words, *layers) if isinstance(layer, Mapping))]


def asked_search(*layers: Layer, storage: str | None = None, worker: bool = False) -> Asked:
    """What `search_architecture` does, checked and not begun."""
    name = kind_of(*layers)
    recipe, kind = recipe_of(name)
    options = {key: value for key, value in (("storage", storage), ("worker", worker)) if value}
    for option in options.keys() - {"trials": {"storage", "worker"}, "quantised": {"worker"}}.get(name, set()):
        whose = {"storage": "searches by trials", "worker": "searches by trials and joint ones"}[option]
        raise UserError(f"--{option} is for {whose} and this is of kind {name!r}: leave it out")
    settings: Any = config.build(kind, *settings_of(*layers))
    usual: Any = kind
    method = name if name != "search" else settings.estimator if settings.estimator != usual.estimator else ""
    return Asked(recipe, settings, name, ("search", method), options)


def asked_training(what: str | os.PathLike[str], *layers: Layer, task: str = models.CLASSIFICATION) -> Asked:
    """What `train_architecture` does, checked and not begun."""
    known, given = _named(os.fspath(what)), settings_of(*layers)
    if task == models.CLASSIFICATION:
        recipe, kind, words = train_one, TrainOne, ("train",)
        known |= train_one.further(os.fspath(what)) if os.path.isdir(what) else {}
    else:
        tasks: dict[str, training.Task] = {detect.TASK: detect, recognise.TASK: recognise}
        if task not in tasks:
            raise UserError(f"task is {task!r}: give {models.CLASSIFICATION}, {' or '.join(tasks)}")
        module = tasks[task]
        recipe, kind, words = training.of(module), TrainDetector if module is detect else TrainEmbedding, (task,)
        # The photos of a detector are others than the images of a search; those of an embedding may be the same.
        kept = ("genotype", "space", "seed", *(() if module is detect else ("data", "image_size")))
        known = {name: known[name] for name in kept if name in known}
    settings = config.build(kind, known, *given)
    own_parts.check_recorded(known, settings, what)
    return Asked(recipe, settings, "train", words, {})


def search_architecture(
    *layers: Layer,
    out: str | os.PathLike[str] | None = None,
    mesh: Mesh | None = None,
    storage: str | None = None,
    worker: bool = False,
    **settings: Any,
) -> Run:
    """Searches for an architecture, trains it beside random ones and writes the page: `jnas search`.

    ```
    run = jnas.search_architecture("nasbench201-first-order", data="photos", image_size=32, train={"epochs": 30})
    ```

    Args:
      *layers: presets (`config.presets()`) and YAML files, over them `"key=value"`, over these settings as mappings; of
        each kind the later over the earlier.
      out: folder of the run, which an unfinished one goes on in; None: one named after the settings, in `runs`.
      mesh: of the devices, from `jnas.distributed.meshes.make_mesh`; None: the default device.
      storage: of a search by trials, where its workers share them, see `study.open_study`.
      worker: of trials or a joint search: do not train what was found.
      **settings: over all layers, groups as mappings. `space` and `data` may be values as well (`own_parts.typed`).

    Returns:
      The run.

    Raises:
      UserError: for settings that do not fit each other, the data or the folder; nothing is written then.
      Diverged, Interrupted: as `driver.run`.
    """
    asked = asked_search(*layers, settings, storage=storage, worker=worker)
    return asked.run(asked.folder(out), mesh)


def train_architecture(
    what: str | os.PathLike[str] | Run,
    *layers: Layer,
    task: Literal["classification", "recognition", "detection"] = "classification",
    out: str | os.PathLike[str] | None = None,
    mesh: Mesh | None = None,
    **settings: Any,
) -> Run:
    """Trains a found or named architecture: `jnas train`; `jnas.train` is the room of the gradient loop.

    Args:
      what: a run or its folder, the name of a published cell such as "DARTS_V2", or a genotype.
      *layers: as for `search_architecture`.
      task: what the network is put to.
      out: as for `search_architecture`.
      mesh: as for `search_architecture`.
      **settings: as for `search_architecture`.

    Returns:
      The run.

    Raises:
      UserError, Diverged, Interrupted: as `search_architecture`.
    """
    if isinstance(what, Run):
        settings = ({} if what.space is None else {"space": what.space}) | settings
        what = what.folder
    asked = asked_training(what, *layers, settings, task=task)
    return asked.run(asked.folder(out), mesh)


def load(run: str | os.PathLike[str], *, space: Space = None) -> Run:
    """A run that has trained a network.

    Args:
      run: its folder, or that of one network in it, `RUN/train/NAME`.
      space: of a run whose space is of the user's own: that space, or `FILE.py:NAME`.

    Returns:
      The run.

    Raises:
      UserError: if the folder holds no trained network. Of a run that is not finished, whose network may be trained
        already, the genotype and the metrics raise one as well.
    """
    models.network_folder(run)
    folder = pathlib.Path(run)
    return Run(folder, run_folder.read_json(folder / run_folder.RESULT) or {}, space_of(space))


def space_of(space: Space) -> networks.NetworkSpace | None:
    """The space that a user names or gives."""
    return None if space is None else networks.network_space(own_parts.typed({"space": space})["space"])


def evaluate(
    run: str | os.PathLike[str] | Run, *, data: Any = None, split: Literal["test", "train"] = "test",
    space: Space = None,
) -> dict[str, Any]:  # fmt: skip
    """Measures a trained network on a data set: `jnas evaluate`.

    Args:
      run: the run, or its folder or that of one network in it.
      data: their name, or a value, see `own_parts.typed`; None: those of the run.
      split: which of their images.
      space: see `load`.

    Returns:
      `network`, `data`, `split`, `examples`, and what was measured: of a classifier `accuracy` and `loss`.

    Raises:
      UserError: if there is no trained network, or the data do not fit it.
    """
    path = run.folder if isinstance(run, Run) else pathlib.Path(run)
    own = run.space if isinstance(run, Run) and space is None else space_of(space)
    if split not in ("test", "train"):
        raise UserError(f"split is {split!r}: give test or train")
    network = models.network_folder(path)
    given = own_parts.typed({} if data is None else {"data": data})
    enable_compilation_cache()
    if models.read_facts(network).get("task", models.CLASSIFICATION) != models.CLASSIFICATION:
        return measure.of_folder(network, given.get("data"), split, space=own)
    folder = network.parent.parent if network == path else path
    known = config.read_yaml(folder / run_folder.CONFIG)
    known = {name: value for name, value in known.items() if name in ("data", "image_size")}
    stored = config.build(TrainOne, {"genotype": ""}, given or known)
    own_parts.check_recorded(known, stored, folder)
    splits = run_folder.load_data(stored.data, stored.image_size)
    dataset = splits.test if split == "test" else splits.train
    said = {"network": str(network), "data": dataset.name, "split": split, "examples": len(dataset)}
    return said | models.measure(network, dataset, space=own)


def _named(text: str) -> dict[str, Any]:
    """What a run found, with its space, data and training; or a genotype."""
    if text.startswith("chain:"):  # its genotype is the name of the space that holds it alone
        return {"genotype": text, "space": text}
    if not os.path.isdir(text):  # a genotype may be longer than a path can be
        if not set("(|[") & set(text) and text.strip() not in PUBLISHED:
            raise UserError(
                f"there is no folder {quoted(text)}, and it is no genotype: name the folder of a run, or write "
                f"Genotype(normal=[...], ...) in quotes or {', '.join(PUBLISHED)}"
            )
        if is_numbers(text):  # pairs are of DARTS' cells
            return {"genotype": text, "space": "darts" if "),(" in text.replace(" ", "") else "nasbench201"}
        return {"genotype": text, **({"space": "darts"} if "nor_conv" not in text and "~" not in text else {})}
    folder = pathlib.Path(text)
    result = run_folder.read_json(folder / run_folder.RESULT)
    if result is None:
        raise UserError(
            f"{folder} holds no finished run ({run_folder.RESULT} is missing): finish it, or give a genotype"
        )
    known = config.read_yaml(folder / run_folder.CONFIG) | {
        name: result[name] for name in ("genotype", "space") if name in result
    }
    # Trained for another task, or chosen from a zoo, it has other settings.
    own = () if "task" in result else ("data", "image_size", *(() if "selection" in result else ("train",)))
    wanted = ("genotype", "space", "seed", *own)
    for name in wanted:
        if name not in known:
            raise wrong(folder / run_folder.CONFIG, name, "missing", "the setting of the run")
    return {name: known[name] for name in wanted}
