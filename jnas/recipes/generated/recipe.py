"""Search over generated spaces by a probability model, then inside the chosen one by a second model."""

import functools
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jnas import data, distributed, files, searchers, spaces, study
from jnas.errors import UserError
from jnas.nets.chain import check_groups
from jnas.recipes import chains, costs, run_folder, train_network
from jnas.recipes.costs import Keeps
from jnas.recipes.generated.evaluator import Judge, Kept, draw, from_scratch
from jnas.recipes.generated.model_search import Criterion, Found, search_until_settled
from jnas.recipes.generated.settings import ModelLevel, SpaceSearch
from jnas.recipes.generated.strategies import family_of
from jnas.recipes.settings import held_out
from jnas.recipes.train_network import REFUSED
from jnas.searchers.base import Evaluation
from jnas.searchers.gp.incumbent import clipped, incumbent
from jnas.spaces import descriptors, networks
from jnas.spaces.chain import ChainSpace
from jnas.spaces.descriptors import Descriptor
from jnas.spaces.families.generated import Family, Member
from jnas.types import Array, Key

KIND: str = "space_search"  # of the run
OUTER, INNER, EVALUATIONS = "spaces", "networks", "evaluations.jsonl"  # in the folder of a run


class Plan(NamedTuple):
    """What is built and checked before anything is written."""

    family: Family
    splits: data.Splits
    judge: Judge  # of networks; the same network gets the same score


def search(config: SpaceSearch, plan: Plan, path: pathlib.Path) -> dict[str, Any]:
    """Search on both levels, see `driver.Recipe`; an evaluation that is done is not done again.

    Args:
      config: the settings.
      plan: from `plan`, or with any other judge: a truth table, say.
      path: of the run.

    Returns:
      `genotype`, `space`, `derivation` (in words), `steps` (networks judged) and `seconds`; where costs limit or are
      weighed `score`, less the weighted ones, and `costs`.

    Raises:
      UserError: if the folder cannot be written, or too many evaluations failed.
      Interrupted: after a signal.
    """
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    price, priced = costs.of_networks(config.train, plan.splits.train, path), (*config.costs, *config.limits)
    weighted = {name: (functools.partial(price, name), config.costs.get(name, 0.0)) for name in priced}
    kept = Kept(path / EVALUATIONS, plan.judge, weighted, costs.keeping(config.limits, price))
    folders, keys = (path / OUTER, path / INNER), [jax.random.fold_in(key, number) for number in range(2)]
    outer = run_folder.kept(folders[0] / "found.json", lambda: _outer(config, plan.family, kept, folders[0], keys[0]))
    inner = run_folder.kept(folders[1] / "found.json", lambda: _inner(config, outer, kept, folders[1], keys[1]))
    ends = {True: "converged", False: "budget spent", None: "nothing else within the limits"}
    return {
        "genotype": inner["genotype"], "space": outer["space"],
        "derivation": f"largest posterior mean; spaces: {ends[outer['converged']]} after {len(outer['trials'])}, "
        f"networks: {ends[inner['converged']]} after {len(inner['trials'])}",
        "steps": len(kept.rows), "seconds": round(sum(row["seconds"] for row in kept.rows.values()), 2),
        **{name: inner[name] for name in ("score", "costs") if priced},
    }  # fmt: skip


def finish(
    config: SpaceSearch, plan: Plan, found: dict[str, Any], path: pathlib.Path, mesh: Mesh | None = None
) -> dict[str, Any]:
    """The found network and random ones of random spaces, within the limits, trained in the same way."""
    space = networks.network_space(found["space"])
    named = {"found": (space, networks.from_string(space, found["genotype"]))}
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    keeps = costs.keeping(config.limits, costs.of_networks(config.train, plan.splits.train, path))
    beside = random_networks(plan.family, key, config.random_cells, keeps)
    if len(beside) < config.random_cells:
        print(f"{len(beside)} of {config.random_cells} random networks are within the limits", file=sys.stderr)
    named |= {f"random-{number}": network for number, network in enumerate(beside)}
    prepared = {name: chains.prepare(*of, plan.splits, config.train) for name, of in named.items()}
    trained = train_network.train_each(prepared, plan.splits, config, path / "train", mesh)
    return {
        **found, "method": describe(config), "seed": config.seed, "found": trained.pop("found"),
        "random": list(trained.values()), "data": train_network.describe(plan.splits),
    }  # fmt: skip


def random_networks(family: Family, key: Key, num: int, keeps: Keeps) -> list[tuple[networks.NetworkSpace, Array]]:
    """Random networks of random spaces, within the limits; fewer where more than `REFUSED` are refused."""
    found = []
    for number in range(num + REFUSED):
        if len(found) < num:
            one, other = jax.random.split(jax.random.fold_in(key, number))
            space = family.member(np.asarray(spaces.sample(family, one, 1))[0]).space
            arch = draw(space, other, 1)[0]
            found += [(space, arch)] * keeps(space, arch)
    return found


def summary(scores: Sequence[float], config: SpaceSearch) -> float:
    """The performance of a space from the scores of networks of it."""
    return float(np.mean(scores) if config.summary == "mean" else np.quantile(scores, config.quantile))


def describe(config: SpaceSearch) -> str:
    """The method in the words of a table."""
    what = "mean" if config.summary == "mean" else f"{config.quantile:g} quantile"
    spaces_by = f"model of spaces ({what} of {config.samples}, by {config.outer.acquisition})"
    return f"{spaces_by}, then of networks in the best{costs.words(config.costs, config.limits)}"


def plan(config: SpaceSearch, mesh: Mesh | None = None) -> Plan:
    """Build and check what a search needs, see `driver.Recipe`.

    Raises:
      UserError, ValueError: for settings that do not fit each other or the data.
    """
    if mesh is not None:
        distributed.check_mesh(mesh, 1)
    family = family_of(config.strategies, config.space)
    members = list(family.members())
    if len(members) < 2:
        raise ValueError("the strategies generate one space: add another, or search in it by another method")
    for member in members:
        if isinstance(member.space, ChainSpace):
            for channels in (config.judge.channels, config.train.channels):
                check_groups(member.space, channels)
    _kernel(descriptors.describe(family))
    splits = run_folder.load_data(config.data, config.image_size)
    key = jax.random.fold_in(jax.random.key(config.seed), 3)
    part, held = held_out(splits.train, config.train_images, config.validation, key)
    member = members[0]  # before hours are spent
    arch = draw(member.space, jax.random.key(0), 1)[0]
    chains.prepare(member.space, arch, splits, config.train)
    chains.prepare(member.space, arch, splits._replace(train=part), config.judge)
    key = jax.random.fold_in(jax.random.key(config.seed), 5)
    keeps = costs.keeping(config.limits, costs.of_networks(config.train, splits.train, None))
    if config.limits and not random_networks(family, key, 1, keeps):
        wanted = ", ".join(f"limits.{name}={most:g}" for name, most in config.limits.items())
        raise ValueError(f"none of {1 + REFUSED} random networks of the spaces is within {wanted}: raise a limit")
    key = jax.random.fold_in(jax.random.key(config.seed), 4)
    return Plan(family, splits, from_scratch(config.judge, part, held, key, config.steps_per_call, config.score))


def _kernel(descriptor: Descriptor) -> searchers.kernels.Kernel:
    if not descriptor.names:
        raise ValueError("the generated spaces look alike: no number that describes a space differs between two")
    return searchers.descriptors.of_descriptors(descriptor.groups)


def _outer(config: SpaceSearch, family: Family, judge: Kept, folder: pathlib.Path, key: Key) -> dict[str, Any]:
    """The space of largest posterior mean, and how it came to it."""
    descriptor = descriptors.describe(family)
    kernel, answers = _kernel(descriptor), np.arange(spaces.size(family), dtype=np.int32)[:, None]
    tried: dict[bytes, dict[str, Any]] = {}

    @functools.cache
    def drawn(index):
        """Networks of a space, the same ones whenever it is judged; none where the limits refuse them."""
        return draw(family.member(answers[index]).space, jax.random.fold_in(key, index), config.samples, judge.keeps)

    def objective(code, trial_key):
        del trial_key
        space, archs = family.member(code).space, drawn(int(code[0]))
        scores = [judge(space, arch) for arch in archs]
        genotypes = [networks.to_string(space, arch) for arch in archs]
        return Evaluation(summary(scores, config), {"scores": scores, "genotypes": genotypes})

    @functools.cache
    def evidence_of(index):
        """The networks of a space that was tried, whose scores are in the file; none of one that was refused."""
        (strategy, space), archs = family.member(answers[index]), drawn(index)
        rows = [descriptor.of_space(Member(strategy, networks.fix(space, arch))) for arch in archs]
        return np.reshape(rows, (-1, len(descriptor.names))), np.array([judge(space, arch) for arch in archs])

    level, informs = config.outer, config.outer.acquisition == "information"
    if config.evidence == "networks":
        by = searchers.pooled(
            family, kernel=kernel, features=descriptor.of, evidence=lambda code: evidence_of(int(code[0])),
            transform=clipped, num_initial=level.initial, num_candidates=_candidates(level), information=informs,
        )  # fmt: skip
    else:
        by = _by(level, family, kernel, descriptor.of)
    if config.limits:
        by = by.within(family, lambda code: len(drawn(int(code[0]))) > 0)
    found = _level(
        folder, by, objective, level, min(level.budget, len(answers)), key, answers=answers,
        describe=lambda code: family.member(code).space.name,
        choices=[("space", [member.space.name for member in family.members()])],
    )  # fmt: skip
    for code, score in zip(found.codes, found.scores, strict=True):
        tried[code.tobytes()] = {**_named(family, code), "score": float(score), **objective(code, None).metrics}
    state = by.searcher.tell(by.searcher.init(), found.codes, found.scores)
    best = incumbent(by.model, state, answers, by.values, by.allowed)
    return {
        **_named(family, best.code), "mean": best.posterior[0], "std": best.posterior[1],
        "evaluated": best.facts["evaluated"], "converged": found.converged, "members": len(answers),
        "features": descriptor.names, "trials": list(tried.values()), "log": found.log,
    }  # fmt: skip


def _inner(config: SpaceSearch, outer: dict[str, Any], judge: Kept, folder: pathlib.Path, key: Key) -> dict[str, Any]:
    """The network of largest posterior mean in the space that was chosen."""
    space = networks.network_space(outer["space"])
    known = _known(space, outer["trials"])
    level, by = config.inner, _by(config.inner, space, searchers.kernels.default(space))
    if config.limits:
        by = by.within(space, functools.partial(judge.keeps, space))
    budget = min(level.budget, spaces.size(space) - len(known[0]))
    if budget < 1:  # the whole space is known
        found = Found(known[0][np.argmax(known[1])], *known, [], True)
    else:
        found = _level(
            folder, by, lambda arch, _: Evaluation(judge(space, arch)), level, budget, key,
            known=known, describe=lambda arch: networks.to_string(space, arch), choices=space.choices,
        )  # fmt: skip
    return {
        "genotype": networks.to_string(space, found.code), "converged": found.converged, "known": len(known[0]),
        "score": judge(space, found.code), "limits": config.limits,
        "costs": {name: cost(space, found.code) for name, (cost, _) in judge.costs.items()},
        "trials": [
            {"genotype": networks.to_string(space, code), "score": float(score)}
            for code, score in zip(found.codes, found.scores, strict=True)
        ],
        "log": found.log,
    }  # fmt: skip


def _known(space: networks.NetworkSpace, trials: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """The networks of the space that were judged on the way to it, in whichever space they were drawn."""
    seen: dict[bytes, tuple[np.ndarray, float]] = {}
    for trial in trials:
        for genotype, score in zip(trial["genotypes"], trial["scores"], strict=True):
            try:
                code = np.asarray(networks.from_string(space, genotype), np.int32)
            except UserError:  # of another space
                continue
            seen[code.tobytes()] = (code, score)
    codes = np.array([code for code, _ in seen.values()], np.int32).reshape(-1, len(space.choices))
    return codes, np.array([score for _, score in seen.values()], np.float64)


def _by(level: ModelLevel, space: spaces.Space, kernel, features=None) -> searchers.Pooled:
    of: dict[str, Any] = {"kernel": kernel, "features": features, "transform": clipped}
    acquire = {"improvement": searchers.by_improvement, "information": searchers.by_information}[level.acquisition]
    searcher = searchers.gaussian_process(
        space, **of, num_initial=level.initial, num_candidates=_candidates(level), acquire=acquire
    )
    return searchers.Pooled(searcher, searchers.surrogate(space, **of))


def _candidates(level: ModelLevel) -> int:
    return 256 if level.acquisition == "information" else 2048


def _level(folder, by, objective, level, budget, key, *, describe, choices, **rest) -> Found:
    """One level in its folder: the trials in `study.journal`, the model's word after each in `model.jsonl`."""
    files.prepare_folder(folder)
    lines: list[str] = []

    def look(entry):
        lines.append(json.dumps(entry))
        files.atomic_write(folder / "model.jsonl", "\n".join(lines) + "\n")
        print(
            f"{folder.name} settled {entry['settled']} of {level.patience}: {entry['mean']:.4f} +- {entry['std']:.4f} "
            f"expected of {entry['name']}", file=sys.stderr, flush=True,
        )  # fmt: skip

    return search_until_settled(
        by, objective, key=key, num_evaluations=budget,
        criterion=Criterion(level.tolerance, level.patience, level.initial), describe=describe, look=look,
        hook=study.trials_progress(f"{folder.name}, at most"),
        study=study.open_study(folder / "study.journal", name=folder.name, choices=choices), **rest,
    )  # fmt: skip


def _named(family: Family, code) -> dict[str, str]:
    member = family.member(code)
    return {"space": member.space.name, "strategy": member.strategy}
