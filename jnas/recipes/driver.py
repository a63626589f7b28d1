"""What runs every recipe: settings become a plan, a plan what was found, and that the result and its page."""

import contextlib
import dataclasses
import functools
import pathlib
import types
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import jax
from jax.sharding import Mesh

from jnas import data, distributed, files, report, spaces
from jnas.data.shrink import shrunk
from jnas.errors import UserError
from jnas.files.locks import exclusive
from jnas.files.own import Own
from jnas.files.urls import masked
from jnas.recipes import reference, run_folder, train_network
from jnas.recipes.own_parts import space_of
from jnas.spaces import networks
from jnas.spaces.isomorphism import canonical
from jnas.types import Array

FOUND, SEARCH = "found.json", "search"  # what a search found, in this folder of the run


class Recipe(Protocol):
    """A kind of run, a module such as `recipes.joint.recipe`; one that has no `finish` is a `CellSearch`.

    One more name is looked for. `SHARED = True`: processes that are started in one folder share the work of `search`,
    of which `evaluations` says how much there was, and one of them finishes.
    """

    KIND: str  # of the run, in its config.yaml

    def plan(self, config: Any, mesh: Mesh | None) -> Any:
        """Build and check, touching no disk; a ValueError is an answer to the user."""

    def search(self, config: Any, plan: Any, path: pathlib.Path) -> dict[str, Any]:
        """Search in the folder of the run, or go on, and return what was found, values of JSON."""
        ...

    def finish(
        self, config: Any, plan: Any, found: dict[str, Any], path: pathlib.Path, mesh: Mesh | None
    ) -> dict[str, Any]:
        """Train what was found, or go on, and return the result: `found`, `random`, `data` and what else there is."""
        ...


class CellSearch(Protocol):
    """A search for a cell, a module such as `recipes.gradient.recipe`: what it finds is trained beside random cells.

    Where it has a function `allowed(config, plan, path)`, the random cells are of those that what it returns allows.
    """

    KIND: str  # of the run, in its config.yaml

    def plan(self, config: Any, splits: data.Splits, space: spaces.CellSpace, mesh: Mesh | None) -> Any:
        """Build and check, touching no disk; a ValueError is an answer to the user. A `storage` is handed on.

        Returns:
          A plan with `space`, `without`, the operators that are not derived, and `num_outer`, how many training images
          are the upper level's.
        """

    def search(self, config: Any, plan: Any, path: pathlib.Path) -> dict[str, Any]:
        """Search in the folder of the run, or go on.

        Returns:
          What was found, values of JSON: `genotype`, `steps`, `seconds`, `derivation` (the rule, in words),
          `connected`; of several runs also `runs`, `chosen`, `agreement`.
        """
        ...

    def describe(self, config: Any) -> str:
        """The method in the words of a table."""
        ...


def run(
    recipe: Recipe | CellSearch,
    config: Any,
    folder: str | pathlib.Path,
    *,
    mesh: Mesh | None = None,
    space: spaces.CellSpace | None = None,
    storage: str | None = None,
    worker: bool = False,
) -> dict[str, Any]:
    """Search, train what was found and what it is compared with in the same way, and write the report page.

    Run again in the same folder it goes on from the last checkpoint of whatever phase was cut off; a finished run is
    returned as it is. Of a recipe that is shared several processes may be started at once in the same folder.

    Args:
      recipe: of the search.
      config: its settings. With `num_runs` several searches are one program; the cell of the run whose supernet does
        best on its own upper level is kept, and every other cell that was found is trained too.
      folder: of the run.
      mesh: of the devices, from `make_mesh`; a run that was cut off may go on over another one.
      space: in place of the one that the settings name, such as one with operators of your own.
      storage: of trials, where they are, a URL or a path, see `open_study`; None: in the folder.
      worker: of a shared recipe only take part in the search.

    Returns:
      The result, as written to `result.json`, the page `report.html` beside it; from a process that left the end to
      another one `{"note": a sentence}`.

    Raises:
      UserError: for settings that do not fit each other, the data or the folder; nothing is written then.
      Diverged: if a metric is not finite.
      Interrupted: after a signal, when everything is saved.
    """
    shared = getattr(recipe, "SHARED", False)
    if shared and jax.process_count() > 1:
        raise UserError(
            f"{jax.process_count()} joined processes would each do the whole search: start the command several times, "
            "apart, with one --out or one --storage"
        )
    if space is not None:
        config = dataclasses.replace(config, space=Own(space.name, space))
    given = {} if storage is None else {"storage": storage}
    whole: Any = recipe if hasattr(recipe, "finish") else _whole(recipe)
    with run_folder.as_user_input():
        _check_batches(config, mesh)
        plan = whole.plan(config, mesh, **given)
    with (_together if shared else run_folder.alone)(folder, _without_passwords(config), recipe.KIND) as path:
        result = run_folder.read_json(path / run_folder.RESULT)
        if result is None or worker:
            found = whole.search(config, plan, path)
            if worker:
                return {"note": f"took part in a search of {found['evaluations']} trials"}
            with exclusive(path / ".last", wait=False) if shared else contextlib.nullcontext(True) as mine:
                if not mine:
                    return {"note": f"{path}: another process trains what was found"}
                result = whole.finish(config, plan, found, path, mesh)
                run_folder.write_json(path / run_folder.RESULT, result)
        distributed.from_first(lambda: str(report.write_report(path, space=space_of(config))))  # also if cut off before
        return result


def search(
    recipe: CellSearch,
    config: Any,
    folder: str | pathlib.Path,
    *,
    mesh: Mesh | None = None,
    space: spaces.CellSpace | None = None,
) -> dict[str, Any]:
    """Only the search and the derivation, for comparisons that score a cell in another way; resumes like `run`.

    Args:
      recipe: of the search.
      config: its settings; those of the training are not used.
      folder: of the run.
      mesh: of the devices, see `run`.
      space: see `run`.

    Returns:
      See `CellSearch.search`.

    Raises:
      UserError, Diverged, Interrupted: as `run`.
    """
    config = config if space is None else dataclasses.replace(config, space=Own(space.name, space))
    with run_folder.as_user_input():
        _check_batches(config, mesh)
        _, plan = _planned(recipe, config, mesh)
    with run_folder.alone(folder, _without_passwords(config), recipe.KIND) as path:
        return _found(recipe, config, plan, path)


@contextlib.contextmanager
def _together(folder: str | pathlib.Path, settings: Any, kind: str) -> Iterator[pathlib.Path]:
    """Take up a run that other processes may have taken up, too."""
    parent = files.prepare_folder(pathlib.Path(folder).parent)
    with exclusive(parent):  # processes that begin at once
        path = run_folder.begin(folder, settings, kind)
    yield path
    run_folder.check_there(path)


def _check_batches(config: Any, mesh: Mesh | None) -> None:
    """Raises a UserError unless the devices divide every batch."""
    for name, part in {"": config, "train.": getattr(config, "train", None)}.items():
        if hasattr(part, "batch_size"):
            distributed.check_batch(part.batch_size, mesh, f"{name}batch_size")


def _without_passwords(config: Any) -> Any:
    """The settings as a folder keeps them."""
    return dataclasses.replace(config, **{k: masked(v) for k, v in vars(config).items() if isinstance(v, str)})


# What searches for a cell share ---------------------------------------------------------------------------------------


class _Comparison(NamedTuple):
    """The plan of a search for a cell, and what its cell is compared with."""

    own: Any
    splits: data.Splits
    known: dict[str, Any] | None  # a table of cells that were trained before
    num_random: int


def _whole(recipe: Any) -> Any:
    """The recipe of a search for a cell with what such searches share."""

    def find(config: Any, plan: _Comparison, path: pathlib.Path) -> dict[str, Any]:
        # The trials of processes that share them are kept where they were made.
        return recipe.search(config, plan.own, path) if shared else _found(recipe, config, plan.own, path)

    shared = getattr(recipe, "SHARED", False)
    return types.SimpleNamespace(
        plan=functools.partial(_compare, recipe), search=find, finish=functools.partial(_finish, recipe)
    )


def _planned(recipe: CellSearch, config: Any, mesh: Mesh | None, **given: Any) -> tuple[data.Splits, Any]:
    """The data, and the recipe's own plan."""
    space = networks.network_space(config.space)
    if not isinstance(space, spaces.CellSpace):
        raise UserError(f"space is {config.space!r}, a chain: search it with jnas search joint, or give one of cells")
    splits = run_folder.load_data(config.data, config.image_size)
    if mesh is not None:
        distributed.check_mesh(mesh, getattr(config, "num_runs", None if getattr(recipe, "SHARED", False) else 1))
    shrink = getattr(config, "shrink", 1)
    searched = splits if shrink == 1 else splits._replace(train=shrunk(splits.train, shrink))
    return splits, recipe.plan(config, searched, space, mesh, **given)


def _compare(recipe: CellSearch, config: Any, mesh: Mesh | None, **given: Any) -> _Comparison:
    splits, plan = _planned(recipe, config, mesh, **given)
    known = reference.cells(plan.space, splits, config.train)
    num_random = config.random_cells if config.random_cells is not None else 1 if known else 3
    for arch in spaces.sample(plan.space, jax.random.key(0), 1):  # before hours are spent
        train_network.prepare(plan.space, arch, splits, config.train)
    return _Comparison(plan, splits, known, num_random)


def _finish(
    recipe: CellSearch, config: Any, plan: _Comparison, found: dict[str, Any], path: pathlib.Path, mesh: Mesh | None
) -> dict[str, Any]:
    """The found cell and random ones, trained in the same way."""
    space, splits = plan.own.space, plan.splits
    derived, key = _to_train(space, found), jax.random.fold_in(jax.random.key(config.seed), 2)
    allowed = getattr(recipe, "allowed", lambda *_: None)(config, plan.own, path)
    randoms = train_network.random_cells(space, key, plan.num_random, plan.own.without, allowed)
    named = [*derived, *((f"random-{n}", arch) for n, arch in enumerate(randoms))]
    prepared = {name: train_network.prepare(space, arch, splits, config.train) for name, arch in named}
    trained = train_network.train_each(prepared, splits, config, path / "train", mesh)
    if "runs" in found:
        _write_accuracies(space, found, [trained[name] for name, _ in derived])
    return {
        **found, "space": space.name, "method": recipe.describe(config), "seed": config.seed,
        "found": trained["found"], "random": [trained[name] for name in trained if name.startswith("random-")],
        "data": train_network.describe(splits, plan.own.num_outer, getattr(config, "shrink", 1)),
        **({"reference": plan.known} if plan.known else {}),
    }  # fmt: skip


def _found(recipe: CellSearch, config: Any, plan: Any, path: pathlib.Path) -> dict[str, Any]:
    """What the search found: kept in `search/found.json`, and not searched for again if it is there."""
    return run_folder.kept(path / SEARCH / FOUND, lambda: _with_names(plan.space, recipe.search(config, plan, path)))


def _with_names(space: spaces.CellSpace, found: dict[str, Any]) -> dict[str, Any]:
    """What was found, each cell of several runs under a name that isomorphic cells share."""
    for row in found.get("runs", ()):
        row["canonical"] = canonical(space, spaces.from_string(space, row["genotype"]))
    return found


def _to_train(space: spaces.CellSpace, found: dict[str, Any]) -> list[tuple[str, Array]]:
    """`(name, architecture)` of the chosen cell and of every other sound one that is not the same but for its names."""
    if "runs" not in found:
        return [("found", spaces.from_string(space, found["genotype"]))]
    named, seen = [], set()
    for row in sorted(found["runs"], key=lambda row: row["seed"] != found["chosen"]):
        if (row["canonical"] not in seen and row["diverged_at"] is None) or not named:
            name = "found" if not named else f"run-{row['seed']}"
            named.append((name, spaces.from_string(space, row["genotype"])))
            seen.add(row["canonical"])
    return named


def _write_accuracies(space: spaces.CellSpace, found: dict[str, Any], trained: list[dict[str, Any]]) -> None:
    """Enter into each run's row the test accuracy of its cell, trained once for all runs that found it."""
    accuracies = {
        canonical(space, spaces.from_string(space, result["genotype"])): result["test_accuracy"] for result in trained
    }
    for row in found["runs"]:
        row["test_accuracy"] = accuracies.get(row["canonical"])
