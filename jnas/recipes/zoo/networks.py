"""Networks into a zoo and out of it: what a run trained, counted, measured on this device, and read back."""

import datetime
import functools
import hashlib
import json
import os
import pathlib
import sys
import tempfile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jnas import nets
from jnas.distributed.environment import environment
from jnas.errors import UserError
from jnas.files import schemas
from jnas.files.reading import checked, wrong
from jnas.recipes import costs, models, quantised, run_folder, train_network, trainer
from jnas.recipes.zoo import candidates, entries
from jnas.recipes.zoo import place as zoo_place
from jnas.types import Context, Examples

FILES = (train_network.NETWORK, train_network.WEIGHTS)


class Pretrained(NamedTuple):
    """A network of a zoo, ready to be used."""

    facts: dict[str, Any]
    model: models.Model


def add_network(
    zoo_folder: str | os.PathLike[str], trained: str | os.PathLike[str], *, name: str | None, data: str | None,
    licence: str,
) -> dict[str, Any]:  # fmt: skip
    """Put a network that jnas trained into a zoo.

    Args:
      zoo_folder: the zoo; made if absent.
      trained: `RUN` or `RUN/train/NAME`.
      name: of the entry; None: from the data set, the space and the digest of the weights.
      data: what it was trained on; None: as the run says.
      licence: of the weights.

    Returns:
      The facts of the entry; `new` says whether it was not there before.

    Raises:
      UserError: if there is no trained classifier, or its accuracy or data set is not known.
    """
    zoo_place.to_write(zoo_folder)
    folder = models.network_folder(trained)
    if "@sha256:" in models.read_facts(folder)["space"]:
        raise UserError(f"{folder} has operators of a file of yours, and a zoo holds no code: jnas export it instead")
    model = models.load_model(folder)
    if model.task != models.CLASSIFICATION:
        raise UserError(f"{folder} was trained for {model.task}: a zoo holds networks for classification")
    result = run_folder.read_json(folder / run_folder.RESULT) or {}
    if "test_accuracy" not in result:
        raise UserError(f"{folder / run_folder.RESULT} says no test_accuracy: train the network to the end")
    whole = run_folder.read_json(folder.parent.parent / run_folder.RESULT) or {}
    of_run = whole.get("data", {})
    if (folder / "choice.json").is_file():  # fine-tuned by jnas select: its own result is of the validation images
        if whole.get("found", {}).get("name") != folder.name:
            raise UserError(f"{folder} was measured on validation images only: add the network that the run chose")
        result = whole["found"]
    data = data or of_run.get("name")
    if not data:
        raise UserError(f"{folder} does not say what data it was trained on: give --data NAME")
    contents = {file: entries.content_of(folder / file) for file in FILES}
    digest = hashlib.sha256(contents[train_network.WEIGHTS]).hexdigest()
    number = nets.count_parameters(model.weights["params"])
    facts = {
        "genotype": model.facts["genotype"], "space": model.facts["space"], "data": data,
        "shape": list(model.shape), "num_classes": model.facts["num_classes"], "examples": of_run.get("train"),
        "accuracy": result["test_accuracy"], "epochs": result.get("epochs"),
        "parameters": number, "flops": costs.flops(model.net, model.shape),
        "size": 4.0 * number if model.policy is None else quantised.size(model.policy, model.shape),
        "memory": costs.memory(model.net, model.shape),
        "licence": licence, "added": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    name = name or f"{entries.slug(data)}-{entries.slug(facts['space'])[:40]}-{digest[:8]}"
    new = entries.add(zoo_folder, entries.NETWORKS, name, facts, contents)
    return {**facts, "name": name, "new": new}


def load(zoo_folder: str | os.PathLike[str], name: str) -> Pretrained:
    """A network of a zoo with its weights, after every checksum was compared.

    Raises:
      UserError: if there is none of that name, or its files are not as they were added.
    """
    facts, contents = entries.read(zoo_folder, entries.NETWORKS, name)
    place = zoo_place.place_of(zoo_folder)
    checked(facts, schemas.ZooNetwork, place / entries.NETWORKS / name / entries.ENTRY)
    if missing := [file for file in FILES if file not in contents]:
        raise wrong(place / entries.NETWORKS / name / entries.ENTRY, f"sha256.{missing[0]}", "missing", "its digest")
    if isinstance(place, pathlib.Path):
        return Pretrained(facts, models.load_model(place / entries.NETWORKS / name))
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / name
        copy.mkdir()
        for file, content in contents.items():
            (copy / file).write_bytes(content)
        return Pretrained(facts, models.load_model(copy))


def measure(
    zoo_folder: str | os.PathLike[str], name: str, *, batch_size: int, repeats: int = 7, keep: bool = True
) -> list[candidates.Cost]:
    """Measure a network on this device.

    Args:
      zoo_folder: the zoo.
      name: of the network.
      batch_size: of the step of training.
      repeats: timed calls of each program; the median counts.
      keep: write what was measured to the zoo.

    Returns:
      The time of one image alone and of a step of training, compilation left out.

    Raises:
      UserError: if there is no such network, or the zoo cannot be written.
    """
    if keep:
        zoo_place.to_write(zoo_folder)
    facts, model = load(zoo_folder, name)
    print(f"{name}: measuring, with compilation", file=sys.stderr, flush=True)
    device = str(environment()["device"])
    alone = costs.latency(model.net, model.shape, weights=model.weights, repeats=repeats)
    seconds = {(candidates.INFERENCE, 1): alone}
    batch = Examples(
        jnp.zeros((batch_size, *model.shape)), jnp.asarray(np.arange(batch_size) % model.facts["num_classes"])
    )
    train = jax.jit(functools.partial(_training_step, model.net, quantised.while_training(model.policy)))
    seconds[candidates.TRAINING, batch_size] = costs.median_seconds(lambda: train(model.weights, batch), repeats)
    found = [candidates.Cost(device, kind, size, time, size / time) for (kind, size), time in seconds.items()]
    for cost in found if keep else ():
        about = {"sha256": facts["sha256"][train_network.WEIGHTS], "repeats": repeats, "jax": jax.__version__}
        file = f"{entries.slug(cost.device)}-{cost.kind}-{cost.batch_size}"
        entries.note(zoo_folder, entries.COSTS, name, file, facts={**cost._asdict(), **about})
    return found


def add_table(
    zoo_folder: str | os.PathLike[str], rows: list[dict[str, Any]], *, name: str, source: str, licence: str
) -> bool:
    """Put records of others' models into a zoo, see `candidates.read_tables`; whether they were not there before."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    facts = {"models": len(rows), "source": source, "licence": licence}
    return entries.add(zoo_folder, entries.TABLES, name, facts, {candidates.LINES: lines.encode()})


def _training_step(net, beside, weights, batch: Examples):
    def loss(params):
        context = Context(weights["batch_stats"], jax.random.key(0))
        return trainer.classifier_loss(net, beside=beside)(params, (), batch, context)

    gradient, _ = jax.grad(loss, has_aux=True)(weights["params"])
    return optax.apply_updates(weights["params"], jax.tree.map(lambda g: -1e-3 * g, gradient))
