"""What runs a search of any recipe: its data, its folder, the training of what it found, and the page."""

import dataclasses
import pathlib
from typing import Any, Protocol

import jax
from jax.sharding import Mesh

from jnas import data, distributed, report, spaces
from jnas.data.shrink import shrunk
from jnas.recipes import reference, run_folder, train_network
from jnas.spaces.isomorphism import canonical
from jnas.types import Array

FOUND, SEARCH = "found.json", "search"  # what a search found, in this folder of the run


class Recipe(Protocol):
    """A kind of search, a module such as `recipes.gradient.recipe`: settings become a plan, a plan what was found."""

    KIND: str  # of the run, in its config.yaml

    def plan(self, config: Any, splits: data.Splits, space: spaces.CellSpace, mesh: Mesh | None) -> Any:
        """Build and check, touching no disk; a ValueError is an answer to the user.

        Returns:
          A plan with `space`, `without`, the operators that are not derived, and `num_outer`, how many training images
          are the upper level's.
        """
        ...

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
    recipe: Recipe,
    config: Any,
    folder: str | pathlib.Path,
    *,
    mesh: Mesh | None = None,
    space: spaces.CellSpace | None = None,
) -> dict[str, Any]:
    """Search, derive, train the found cell and random ones in the same way, and write the report page.

    Run again in the same folder it goes on from the last checkpoint of whatever phase was cut off; a finished run is
    returned as it is.

    Args:
      recipe: of the search.
      config: its settings. With `num_runs` several searches are one program; the cell of the run whose supernet does
        best on its own upper level is kept, and every other cell that was found is trained too.
      folder: of the run.
      mesh: of the devices, from `make_mesh`; a run that was cut off may go on over another one.
      space: in place of the one that the settings name, such as one with operators of your own.

    Returns:
      The result, as written to `result.json`; the page is `report.html` beside it.

    Raises:
      UserError: for settings that do not fit each other, the data or the folder; nothing is written then.
      Diverged: if a metric is not finite.
      Interrupted: after a signal, when everything is saved.
    """
    with run_folder.as_user_input():
        config, splits, plan = _planned(recipe, config, mesh, space)
        key = jax.random.fold_in(jax.random.key(config.seed), 2)
        known = reference.cells(plan.space, splits, config.train)
        num_random = config.random_cells if config.random_cells is not None else 1 if known else 3
        randoms = train_network.random_cells(plan.space, key, num_random, plan.without)
        for arch in spaces.sample(plan.space, jax.random.key(0), 1):  # before hours are spent
            train_network.prepare(plan.space, arch, splits, config.train)
    with run_folder.alone(folder, config, recipe.KIND) as path:
        result = run_folder.read_json(path / run_folder.RESULT)
        if result is None:
            found = _found(recipe, config, plan, path)
            derived = _to_train(plan.space, found)
            named = [*derived, *((f"random-{n}", arch) for n, arch in enumerate(randoms))]
            trained = train_network.train_each(named, plan.space, splits, config, path / "train", mesh)
            if "runs" in found:
                _write_accuracies(plan.space, found, [trained[name] for name, _ in derived])
            result = {
                **found, "space": plan.space.name, "method": recipe.describe(config), "seed": config.seed,
                "found": trained["found"], "random": [trained[name] for name in trained if name.startswith("random-")],
                "data": train_network.describe(splits, plan.num_outer, getattr(config, "shrink", 1)),
                **({"reference": known} if known else {}),
            }  # fmt: skip
            run_folder.write_json(path / run_folder.RESULT, result)
        distributed.from_first(lambda: str(report.write_report(path, space=plan.space)))
        return result


def search(
    recipe: Recipe,
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
      See `Recipe.search`.

    Raises:
      UserError, Diverged, Interrupted: as `run`.
    """
    with run_folder.as_user_input():
        config, _, plan = _planned(recipe, config, mesh, space)
    with run_folder.alone(folder, config, recipe.KIND) as path:
        return _found(recipe, config, plan, path)


def _planned(
    recipe: Recipe, config: Any, mesh: Mesh | None, space: spaces.CellSpace | None
) -> tuple[Any, data.Splits, Any]:
    """The settings as the folder is to record them, the data, and the plan."""
    if space is None:
        space = spaces.by_name(config.space)
    else:
        config = dataclasses.replace(config, space=space.name)
    splits = run_folder.load_data(config.data, config.image_size)
    if mesh is not None:
        distributed.check_mesh(mesh, getattr(config, "num_runs", 1))
        distributed.check_batch(config.batch_size, mesh)
        distributed.check_batch(config.train.batch_size, mesh, "train.batch_size")
    shrink = getattr(config, "shrink", 1)
    searched = splits if shrink == 1 else splits._replace(train=shrunk(splits.train, shrink))
    return config, splits, recipe.plan(config, searched, space, mesh)


def _found(recipe: Recipe, config: Any, plan: Any, path: pathlib.Path) -> dict[str, Any]:
    """What the search found: kept in `search/found.json`, and not searched for again if it is there."""
    place = path / SEARCH / FOUND
    stored = run_folder.read_json(place)
    if stored is None:
        run_folder.write_json(place, _with_names(plan.space, recipe.search(config, plan, path)))
        stored = run_folder.read_json(place)  # as the next process will read it
    return stored


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
