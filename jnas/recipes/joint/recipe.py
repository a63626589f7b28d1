"""Search for an architecture and a quantisation policy together, by reward, with weights that the candidates share."""

import dataclasses
import functools
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jnas import data, nets
from jnas.files.locks import exclusive
from jnas.nets.quant.units import Units
from jnas.recipes import chains, quantised, run_folder, train_network, trainer
from jnas.recipes.joint import weight_sharing
from jnas.recipes.joint.plan import Plan, make_plan, own_policies, policies_of, with_latencies
from jnas.recipes.joint.search import JOINT, few, searches
from jnas.recipes.joint.sensitivity import filtered
from jnas.recipes.joint.settings import QuantisedSearch
from jnas.recipes.optimisers import optimiser_of
from jnas.spaces.policy import EIGHT

KIND: str = "quantised"  # of the run
SHARED = True  # any number of processes take part
plan = make_plan
SUPERNET = "supernet"  # folder of the supernet's training


def search(config: QuantisedSearch, plan: Plan, path: pathlib.Path) -> dict[str, Any]:
    """The supernet, the sensitivities and the searches, see `driver.Recipe`.

    1. A supernet is trained on random single paths and random policies of the space, if it has epochs; without them
       every candidate trains weights of its own when it is scored.
    2. If a threshold is set, sensitivities are measured on validation images, and the spaces narrowed.
    3. A searcher asks for candidates; each is scored on the validation images with the supernet's weights, and its
       reward is what the searcher is told. It ends after `num_evaluations`, or when the reward stands still.

    With `compare` there are two more searches: for the best architecture at 8 bits everywhere, with as many
    evaluations, and for the best architecture at 8 bits by half of the evaluations and the best policy for it by the
    other half.
    """
    started = time.monotonic()
    with exclusive(path / ".supernet"):  # one trains, the others wait and find it done
        plan = with_latencies(config, plan, path)
        score = supernet(config, plan, path / SUPERNET)
        with run_folder.as_user_input():
            space, policies = filtered(config, plan, score, path)
    found = searches(config, plan, space, policies, score, path)
    evaluations = sum(one["evaluations"] for one in found.values())
    return {"searches": found, "evaluations": evaluations, "seconds": round(time.monotonic() - started, 2)}


def finish(
    config: QuantisedSearch, plan: Plan, found: dict[str, Any], path: pathlib.Path, mesh: Mesh | None = None
) -> dict[str, Any]:
    """What each search found, trained from scratch under its policy, see `driver.Recipe`."""
    by_name = {**found["searches"], **_others(config, plan, found["searches"][JOINT])}
    trained = {name: _train(config, plan, chosen, path / "train" / name) for name, chosen in by_name.items()}
    main = trained[JOINT]
    return {
        "genotype": main["genotype"], "space": plan.space.name, "method": describe(config), "seed": config.seed,
        "derivation": "best reward among the evaluated", "steps": by_name[JOINT]["evaluations"],
        "seconds": found["seconds"], "found": main, "random": [],
        "quantised": {name: {**by_name[name], **trained[name]} for name in by_name},
        "data": train_network.describe(plan.splits, len(plan.validation), config.shrink),
    }  # fmt: skip


def _others(config: QuantisedSearch, plan: Plan, joint: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What is trained of the front of the joint search beside its best by reward."""
    if config.networks == 1:
        return {}
    shared = {name: joint[name] for name in ("evaluations", "converged", "curve")}
    chosen = few(joint["front"], config.beside[0], config.networks, plan)
    alike = [all(one[name] == joint[name] for name in ("arch", "columns")) for one in chosen]
    return {f"front-{n}": {**shared, **one} for n, one in enumerate(chosen, 1) if not alike[n - 1]}


def describe(config: QuantisedSearch) -> str:
    """The method in the words of a table."""
    alone = "architecture at a mixed policy" if len(config.policy.split()) > 1 else f"architecture at {config.policy}"
    what = alone if config.policy else "architecture and policy"
    scored = "weights shared" if config.supernet.epochs else "short trainings"
    return f"{what} by reward ({config.searcher}), {scored}"


def supernet(config: QuantisedSearch, plan: Plan, folder: pathlib.Path):
    """The trained weights as a function that scores candidates: `at_once -> judge`, see `weight_sharing.judge`."""
    part, key = config.supernet, jax.random.fold_in(jax.random.key(config.seed), 1)
    source = data.supervised_source(plan.training, batch_size=part.batch_size, augment=plan.augment)
    if part.epochs:
        policies = own_policies(config, plan)
        # The comparisons' 8 bits among them: the weights have to know what they are judged by.
        drawn = tuple(m for m in plan.methods if m == EIGHT or any(m in left for left in policies.allowed))
        loss = weight_sharing.single_path(plan.net, plan.units, policies_of(plan, drawn), plan.space)
        job = trainer.job_of(plan.net, loss, functools.partial(optimiser_of, part.weights), source, plan.training, part)
        variables = trainer.train(job, key, folder=folder, title="supernet", steps_per_call=config.steps_per_call)
    else:
        variables = dict(
            zip(("params", "batch_stats"), nets.initialise(plan.net, key, plan.training.shape), strict=True)
        )

    tuning = None
    if config.tuning_steps:
        level = dataclasses.replace(part.weights, learning_rate=config.tuning_rate, final_learning_rate=0.0)
        tuning = weight_sharing.Tuning(config.tuning_steps, optimiser_of(level, config.tuning_steps), source)

    def score(of: Units = plan.units, at_once: int | None = None, tuning: weight_sharing.Tuning | None = tuning):
        return weight_sharing.judge(
            plan.net, variables, of, plan.methods, plan.space, plan.validation, plan.augment, by=config.score,
            at_once=at_once, tuning=tuning,
        )  # fmt: skip

    return score


def _train(config: QuantisedSearch, plan: Plan, chosen: dict[str, Any], folder: pathlib.Path) -> dict[str, Any]:
    prepared = chains.prepare(plan.space, jnp.array(chosen["arch"], jnp.int32), plan.splits, config.train)
    policy = {name: str(plan.methods[column]) for name, column in zip(plan.units.names, chosen["columns"], strict=True)}
    quantisation = {"units": config.units, "policy": policy}
    return quantised.train(
        prepared, quantisation, plan.splits, config.train, folder, config.seed, config.steps_per_call
    )
