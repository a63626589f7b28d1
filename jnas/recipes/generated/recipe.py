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
from jnas.recipes import chains, run_folder, train_network
from jnas.recipes.generated.evaluator import Judge, Kept, draw, from_scratch
from jnas.recipes.generated.model_search import Criterion, Found, clipped, incumbent, search_until_settled
from jnas.recipes.generated.settings import ModelLevel, SpaceSearch
from jnas.recipes.generated.strategies import family_of
from jnas.recipes.settings import held_out
from jnas.searchers.base import Evaluation
from jnas.spaces import descriptors, networks
from jnas.spaces.chain import ChainSpace
from jnas.spaces.descriptors import Descriptor
from jnas.spaces.families.generated import Family, Member
from jnas.types import Key

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
      `genotype`, `space`, `derivation` (in words), `steps` (networks judged) and `seconds`.

    Raises:
      UserError: if the folder cannot be written, or too many evaluations failed.
      Interrupted: after a signal.
    """
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    kept = Kept(path / EVALUATIONS, plan.judge)
    folders, keys = (path / OUTER, path / INNER), [jax.random.fold_in(key, number) for number in range(2)]
    outer = run_folder.kept(folders[0] / "found.json", lambda: _outer(config, plan.family, kept, folders[0], keys[0]))
    inner = run_folder.kept(folders[1] / "found.json", lambda: _inner(config, outer, kept, folders[1], keys[1]))
    ends = {True: "converged", False: "budget spent"}
    return {
        "genotype": inner["genotype"], "space": outer["space"],
        "derivation": f"largest posterior mean; spaces: {ends[outer['converged']]} after {len(outer['trials'])}, "
        f"networks: {ends[inner['converged']]} after {len(inner['trials'])}",
        "steps": len(kept.rows), "seconds": round(sum(row["seconds"] for row in kept.rows.values()), 2),
    }  # fmt: skip


def finish(
    config: SpaceSearch, plan: Plan, found: dict[str, Any], path: pathlib.Path, mesh: Mesh | None = None
) -> dict[str, Any]:
    """The found network and random ones of random spaces, trained in the same way, see `driver.Recipe`."""
    space = networks.network_space(found["space"])
    named = {"found": (space, networks.from_string(space, found["genotype"]))}
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    for number in range(config.random_cells):
        one, other = jax.random.split(jax.random.fold_in(key, number))
        space = plan.family.member(np.asarray(spaces.sample(plan.family, one, 1))[0]).space
        named[f"random-{number}"] = space, draw(space, other, 1)[0]
    prepared = {name: chains.prepare(*of, plan.splits, config.train) for name, of in named.items()}
    trained = train_network.train_each(prepared, plan.splits, config, path / "train", mesh)
    return {
        **found, "method": describe(config), "seed": config.seed, "found": trained.pop("found"),
        "random": list(trained.values()), "data": train_network.describe(plan.splits),
    }  # fmt: skip


def summary(scores: Sequence[float], config: SpaceSearch) -> float:
    """The performance of a space from the scores of networks of it."""
    return float(np.mean(scores) if config.summary == "mean" else np.quantile(scores, config.quantile))


def describe(config: SpaceSearch) -> str:
    """The method in the words of a table."""
    what = "mean" if config.summary == "mean" else f"{config.quantile:g} quantile"
    return f"model of spaces ({what} of {config.samples}, by {config.outer.acquisition}), then of networks in the best"


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
    key = jax.random.fold_in(jax.random.key(config.seed), 4)
    return Plan(family, splits, from_scratch(config.judge, part, held, key, config.steps_per_call))


def _kernel(descriptor: Descriptor) -> searchers.kernels.Kernel:
    if not descriptor.names:
        raise ValueError("the generated spaces look alike: no number that describes a space differs between two")
    return searchers.descriptors.of_descriptors(descriptor.groups)


def _outer(config: SpaceSearch, family: Family, judge: Kept, folder: pathlib.Path, key: Key) -> dict[str, Any]:
    """The space of largest posterior mean, and how it came to it."""
    descriptor = descriptors.describe(family)
    kernel, answers = _kernel(descriptor), np.arange(spaces.size(family), dtype=np.int32)[:, None]
    tried: dict[bytes, dict[str, Any]] = {}

    def objective(code, trial_key):
        del trial_key  # a space is judged by the same networks, whenever
        member = family.member(code)
        drawn = draw(member.space, jax.random.fold_in(key, int(code[0])), config.samples)
        scores = [judge(member.space, arch) for arch in drawn]
        genotypes = [networks.to_string(member.space, arch) for arch in drawn]
        return Evaluation(summary(scores, config), {"scores": scores, "genotypes": genotypes})

    @functools.cache
    def evidence_of(index):
        code = answers[index]
        metrics = objective(code, None).metrics
        strategy, space = family.member(code)
        drawn_networks = [networks.fix(space, networks.from_string(space, text)) for text in metrics["genotypes"]]
        rows = [descriptor.of_space(Member(strategy, network)) for network in drawn_networks]
        return np.stack(rows), np.array(metrics["scores"])

    def evidence(code):
        """The networks of a space that was tried; their scores are in the file."""
        return evidence_of(int(code[0]))

    level, informs = config.outer, config.outer.acquisition == "information"
    if config.evidence == "networks":
        by = searchers.pooled(
            family, kernel=kernel, features=descriptor.of, evidence=evidence, transform=clipped,
            num_initial=level.initial, num_candidates=_candidates(level), information=informs,
        )  # fmt: skip
    else:
        by = _by(level, family, kernel, descriptor.of)
    found = _level(
        folder, by, objective, level, min(level.budget, len(answers)), key, answers=answers,
        describe=lambda code: family.member(code).space.name,
        choices=[("space", [member.space.name for member in family.members()])],
    )  # fmt: skip
    for code, score in zip(found.codes, found.scores, strict=True):
        tried[code.tobytes()] = {**_named(family, code), "score": float(score), **objective(code, None).metrics}
    state = by.searcher.tell(by.searcher.init(), found.codes, found.scores)
    best = incumbent(by.model, state, answers, by.values)
    return {
        **_named(family, best.code), "mean": best.posterior[0], "std": best.posterior[1],
        "evaluated": best.facts["evaluated"], "converged": found.converged, "members": len(answers),
        "features": descriptor.names, "trials": list(tried.values()), "log": found.log,
    }  # fmt: skip


def _inner(config: SpaceSearch, outer: dict[str, Any], judge: Kept, folder: pathlib.Path, key: Key) -> dict[str, Any]:
    """The network of largest posterior mean in the space that was chosen."""
    space = networks.network_space(outer["space"])
    known = _known(space, outer["trials"])
    kernel, level = searchers.kernels.default(space), config.inner
    budget = min(level.budget, spaces.size(space) - len(known[0]))
    if budget < 1:  # the whole space is known
        found = Found(known[0][np.argmax(known[1])], *known, [], True)
    else:
        found = _level(
            folder, _by(level, space, kernel), lambda arch, _: Evaluation(judge(space, arch)), level, budget, key,
            known=known, describe=lambda arch: networks.to_string(space, arch), choices=space.choices,
        )  # fmt: skip
    return {
        "genotype": networks.to_string(space, found.code), "converged": found.converged, "known": len(known[0]),
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
            f"{folder.name} {entry['step']} of at most {budget}: {entry['mean']:.4f} +- {entry['std']:.4f} expected of "
            f"{entry['name']}", file=sys.stderr, flush=True,
        )  # fmt: skip

    return search_until_settled(
        by, objective, key=key, num_evaluations=budget,
        criterion=Criterion(level.tolerance, level.patience, level.initial), describe=describe, look=look,
        study=study.open_study(folder / "study.journal", name=folder.name, choices=choices), **rest,
    )  # fmt: skip


def _named(family: Family, code) -> dict[str, str]:
    member = family.member(code)
    return {"space": member.space.name, "strategy": member.strategy}
