"""Search for an architecture and a quantisation policy together, by reward, with weights that the candidates share."""

import functools
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jnas import data, files, report
from jnas.errors import UserError
from jnas.files.locks import exclusive
from jnas.nets.quant.units import Units
from jnas.recipes import run_folder, train_network, trainer
from jnas.recipes.joint import training, weight_sharing
from jnas.recipes.joint.filters import filtered
from jnas.recipes.joint.plan import Plan, make_plan, own_policies, policies_of
from jnas.recipes.joint.search import JOINT, searches
from jnas.recipes.joint.settings import QuantisedSearch
from jnas.recipes.optimisers import optimiser_of
from jnas.spaces.policy import EIGHT

SUPERNET = "supernet"  # folder of the supernet's training


def run(
    config: QuantisedSearch, folder: str | pathlib.Path, *, mesh: Mesh | None = None, worker: bool = False
) -> dict[str, Any]:
    """Search, train what was found with quantisation, compare at equal cost, and write the report page.

    1. A supernet is trained on random single paths and random policies of the space.
    2. If a threshold is set, sensitivities are measured on validation images, and the spaces narrowed.
    3. A searcher asks for candidates; each is scored on the validation images with the supernet's weights, and its
       reward is what the searcher is told. It ends after `num_evaluations`, or when the reward stands still.
    4. The found network is trained from scratch under its policy. With `compare` so are the best architecture for 8
       bits everywhere, from a search of its own with as many evaluations, and the best architecture at 8 bits from half
       of the evaluations under the best policy for it from the other half.

    Run again in the same folder it goes on from where it was cut off; a finished run is returned as it is. Run several
    times at once in the same folder, the processes share the trials; one trains the supernet, and one what was found.

    Args:
      config: the settings.
      folder: of the run.
      mesh: None; this search runs on one device.
      worker: take part in the trials, train the supernet if nobody has, and leave the found networks to others.

    Returns:
      The result, as written to `result.json`; from a process that only took part in the trials `{"note": a sentence}`.

    Raises:
      UserError: for settings that do not fit each other, the data or the folder; nothing is written then.
      Diverged: if a metric is not finite.
      Interrupted: after a signal, when everything is saved.
    """
    if mesh is not None:
        raise UserError("a quantised search runs on one device: leave out --mesh")
    if jax.process_count() > 1:
        raise UserError(
            f"{jax.process_count()} joined processes would each do the whole search: start the command several times, "
            "apart, with one --out"
        )
    with run_folder.as_user_input():
        plan = make_plan(config)
    path = pathlib.Path(folder)
    files.prepare_folder(path.parent)
    with exclusive(path.parent):  # processes that begin at once
        run_folder.begin(path, config, "quantised")
    result = run_folder.read_json(path / run_folder.RESULT)
    if result is not None and not worker:
        report.write_report(path)
        return result
    started = time.monotonic()
    with exclusive(path / ".supernet"):  # one trains, the others wait and find it done
        score = _supernet(config, plan, path / SUPERNET)
        with run_folder.as_user_input():
            space, policies = filtered(config, plan, score, path)
    found = searches(config, plan, space, policies, score, path)
    if worker:
        return {"note": f"took part in searches of {sum(one['evaluations'] for one in found.values())} trials"}
    with exclusive(path / ".last", wait=False) as mine:
        if not mine:
            return {"note": f"{path}: another process trains what was found"}
        trained = {name: _train(config, plan, chosen, path / "train" / name) for name, chosen in found.items()}
        main = trained[JOINT]
        result = {
            "genotype": main["genotype"], "space": plan.space.name, "method": describe(config), "seed": config.seed,
            "derivation": "best reward among the evaluated", "steps": found[JOINT]["evaluations"],
            "seconds": round(time.monotonic() - started, 2), "found": main, "random": [],
            "quantised": {name: {**found[name], **trained[name]} for name in found},
            "data": train_network.describe(plan.splits, len(plan.validation)),
        }  # fmt: skip
        run_folder.write_json(path / run_folder.RESULT, result)
        report.write_report(path)
    return result


def describe(config: QuantisedSearch) -> str:
    """The method in the words of a table."""
    what = f"architecture at {config.policy}" if config.policy else "architecture and policy"
    return f"{what} by reward ({config.searcher}), weights shared"


def _supernet(config: QuantisedSearch, plan: Plan, folder: pathlib.Path):
    """The trained weights as a function that scores candidates: `at_once -> judge`, see `weight_sharing.judge`."""
    part = config.supernet
    policies = own_policies(config, plan)
    # The comparisons' 8 bits among them: the weights have to know what they are judged by.
    drawn = tuple(m for m in plan.methods if m in policies.allowed[0] or m == EIGHT)
    loss = weight_sharing.single_path(plan.net, plan.units, policies_of(plan, drawn), plan.space)
    source = data.supervised_source(plan.training, batch_size=part.batch_size, augment=plan.augment)
    job = trainer.job_of(plan.net, loss, functools.partial(optimiser_of, part.weights), source, plan.training, part)
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    variables = trainer.train(job, key, folder=folder, title="supernet", steps_per_call=config.steps_per_call)

    def score(of: Units = plan.units, at_once: int | None = None):
        return weight_sharing.judge(
            plan.net, variables, of, plan.methods, plan.space, plan.validation, plan.augment, at_once=at_once
        )

    return score


def _train(config: QuantisedSearch, plan: Plan, chosen: dict[str, Any], folder: pathlib.Path) -> dict[str, Any]:
    prepared = train_network.prepare(plan.space, jnp.array(chosen["arch"], jnp.int32), plan.splits, config.train)
    policy = {name: plan.methods[column] for name, column in zip(plan.units.names, chosen["columns"], strict=True)}
    return training.train(
        prepared, policy, plan.unit_of, plan.splits, config.train, folder, config.seed, config.steps_per_call
    )
