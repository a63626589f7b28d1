"""Choosing out of a zoo, on a network that a search trained: what stands still, what is kept, what the page says."""

import dataclasses
import json

import fsspec
import jax
import numpy as np
import pytest

from jnas import data
from jnas.cli.main import main
from jnas.distributed.environment import environment
from jnas.errors import UserError
from jnas.recipes import models, run_folder
from jnas.recipes.config import build
from jnas.recipes.zoo import candidates, entries, finetune, networks, ranking, selection
from jnas.recipes.zoo.settings import FineTuning, Selection
from jnas.report.reading import read_run
from jnas.report.selection import carried_by, front, selection_section

GRID = (
    "frozen=[0.5]",
    "learning_rates=[0.05]",
    "epochs=[2]",
    "fine_tuning.batch_size=20",
    "fine_tuning.augmentation.crop=1",
)


@pytest.fixture(scope="module")
def place(finished, tmp_path_factory):
    """A zoo of one network."""
    folder = tmp_path_factory.mktemp("zoo") / "zoo"
    assert main(["zoo", "add", str(folder), str(finished[0]), "--name", "only", "--licence", "MIT"]) == 0
    return folder


@pytest.fixture(scope="module")
def chosen(place, images, command, tmp_path_factory):
    """The folder of a selection."""
    folder = tmp_path_factory.mktemp("runs") / "select"
    words = ["select", str(images), "--zoo", str(place), "--max-latency", "1e9", "--budget", "1e9", *GRID]
    done = command(*words, "--out", folder)
    assert done.returncode == 0, done.stderr
    return words, folder


def test_the_entry_says_what_the_network_is(place, finished):
    facts, files = entries.read(place, entries.NETWORKS, "only")
    trained = run_folder.read_json(finished[0] / "train" / "found" / "result.json")
    model = models.load_model(finished[0])
    assert facts["accuracy"] == trained["test_accuracy"]
    assert facts["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(model.weights["params"]))
    assert files["weights.npz"] == (finished[0] / "train" / "found" / "weights.npz").read_bytes()
    assert facts["flops"] > 2 * sum(sizes.products for sizes in finetune.layer_sizes(model.net, model.shape).values())
    assert facts["data"] == "tiny"


def test_the_same_network_behind_a_url(place):
    memory = fsspec.filesystem("memory")
    memory.put(f"{place}/", "/elsewhere", recursive=True)
    here, there = (networks.load(zoo_of, "only") for zoo_of in (place, "memory://elsewhere"))
    memory.rm("/elsewhere", recursive=True)
    assert here.facts == there.facts
    for pair in zip(*(jax.tree.leaves(one.model.weights) for one in (here, there)), strict=True):
        assert np.array_equal(*pair)


def test_fine_tuning_moves_what_it_may(place, chosen):
    old = networks.load(place, "only").model
    new = models.load_model(chosen[1] / "train" / "trial-1")
    still = run_folder.read_json(chosen[1] / "train" / "trial-1" / "result.json")["frozen"]
    assert "stem" in still
    assert "classifier" not in still
    assert 0 < len(still) < len(old.weights["params"]) - 1
    for name, part in old.weights["params"].items():
        same = [
            np.array_equal(*pair)
            for pair in zip(*map(jax.tree.leaves, (part, new.weights["params"][name])), strict=True)
        ]
        assert all(same) if name in still else not any(same), name
    stats = [m.weights["batch_stats"]["stem"] for m in (old, new)]
    assert not np.array_equal(*(jax.tree.leaves(s)[0] for s in stats))


def test_costs_and_record_are_kept(place, chosen):
    found, complaints = candidates.of_zoo(place)
    assert not complaints
    device = str(environment()["device"])
    assert {(c.kind, c.batch_size) for c in found[0].costs} == {("inference", 1), ("training", 20)}
    assert candidates.latency(found[0], device) > 0
    (record,), _ = ranking.records_of(place)
    trial = run_folder.read_json(chosen[1] / "train" / "trial-1" / "result.json")
    assert record["score"] == trial["test_accuracy"]
    assert record["features"]["setting: log steps"] == pytest.approx(np.log10(2 * (96 // 20)))


def test_the_page_and_the_second_run(chosen, capsys):
    words, folder = chosen
    page = selection_section(read_run(folder))
    assert "1 networks by parameters" in page
    assert "its frozen features tell" in page
    assert "1 record of a fine-tuning is known now; a prediction takes 20" in page
    assert 'id="selection"' in (folder / "report.html").read_text()
    before = (folder / "result.json").read_bytes()
    assert main([*words, "--out", str(folder)]) == 0
    assert (folder / "result.json").read_bytes() == before
    assert "chosen    only" in capsys.readouterr().out


def test_a_trial_is_credited_to_no_other_network(chosen, tmp_path):
    """The zoo may change between two starts of a run."""
    one, other = list(choices())[:2]
    selection.begin_trial(tmp_path / "trial-1", one)
    selection.begin_trial(tmp_path / "trial-1", one)
    with pytest.raises(UserError, match=r"was begun with m0 and m0 is chosen now, for the zoo has changed"):
        selection.begin_trial(tmp_path / "trial-1", other)
    # A trial's own accuracy is that on the validation images, which chose it: the zoo keeps that of the run.
    run, trial = chosen[1], models.network_folder(chosen[1])
    assert trial.name.startswith("trial-")
    facts = networks.add_network(tmp_path / "zoo", trial, name=None, data=None, licence="CC0-1.0")
    assert facts["accuracy"] == run_folder.read_json(run / "result.json")["found"]["test_accuracy"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--max-params", "1e-6"], "no model has at most 1e-06 million parameters (--max-params): the nearest is only"),
        (["--max-latency", "1", "--device", "slate"], "no model has milliseconds an image measured on 'slate'"),
        (["--budget", "1e-9"], "no fine-tuning takes at most 1e-09 seconds (budget): the shortest takes"),
        (["--min-throughput", "-1"], "--min-throughput is -1: give a positive number"),
        (["frozen=[2]"], "frozen is 2.0: give at most 1"),
    ],
)
def test_what_cannot_be(place, images, chosen, words, sentence, tmp_path, capsys):
    assert main(["select", str(images), "--zoo", str(place), *GRID, *words, "--out", str(tmp_path / "out")]) == 2
    assert sentence in capsys.readouterr().err


def choices():
    """Two networks and two settings; the second network's features tell the classes apart better."""
    for model in range(2):
        one = candidates.Candidate(f"m{model}", "", 0.5, 1000, 1e6, 8, ())
        for frozen in (0.0, 1.0):
            row = np.zeros(len(ranking.NAMES))
            row[ranking.NAMES.index("fit: nearest centroid")] = 0.4 + 0.2 * model
            row[ranking.NAMES.index("setting: frozen")] = frozen
            yield ranking.Choice(one, FineTuning(frozen=frozen), row, 1.0)


def test_ranking_without_and_with_records():
    config = build(Selection, {"data": "x"})
    order, predicted = ranking.ranked(config, list(choices()), [], task="new")
    assert predicted is None
    assert order.tolist() == [2, 0, 3, 1]  # one network after the other with the same setting
    random, records = np.random.default_rng(0), []
    for task in range(8):  # elsewhere freezing was better, and separable features worse
        for _ in range(5):
            row = random.normal(size=len(ranking.NAMES))
            features = dict(zip(ranking.NAMES, row, strict=True))
            score = 0.5 + 0.3 * features["setting: frozen"] - 0.5 * features["fit: nearest centroid"]
            records.append({"task": f"t{task}", "features": features, "score": score})
    for acquisition in ("mean", "expected_improvement"):
        chosen = dataclasses.replace(config, acquisition=acquisition)
        order, (mean, std) = ranking.ranked(chosen, list(choices()), records, task="new")
        assert order.tolist() == [1, 3, 0, 2]
        assert (std > 0).all()
    carried = ranking.carrying(config, records)
    assert {one["name"] for one in carried["features"][:2]} == {"setting: frozen", "fit: nearest centroid"}
    assert carried["error"] < 0.5 * carried["guess"]
    first, second, third = (one["rise"] for one in carried["features"][:3])
    assert first > second > 3 * third
    json.dumps(carried, allow_nan=False)
    page = carried_by({"carried by": carried, "records": [40, 20]})
    assert "ridge, 40 records of 8 tasks" in page
    assert page.index("fit: nearest centroid") < page.index("setting: frozen") < page.index("fit: LogME")
    assert ranking.carrying(config, records[:19]) is None
    assert ranking.carrying(config, [{**record, "task": "t"} for record in records]) is None
    line = selection.described(next(choices()), (mean, std), 0, list(choices()))
    assert line["low"] < line["mean"] < line["high"]
    assert "rank 2 of 2" in line["reasons"]
    json.dumps(line, allow_nan=False)


def test_channels():
    images = np.arange(24, dtype=np.uint8).reshape(2, 12)
    colours = data.Dataset(images, np.zeros(2, np.int32), (2, 2, 3), 1)
    grey = models.as_read_by(models.Model("", None, None, (9, 9, 1), (), {}, None), colours)
    assert grey.images[0].tolist() == [1, 4, 7, 10]
    back = models.as_read_by(models.Model("", None, None, (9, 9, 3), (), {}, None), grey)
    assert back.images[0, :6].tolist() == [1, 1, 1, 4, 4, 4]
    assert back.shape == (2, 2, 3)


def test_front():
    random = np.random.default_rng(0)
    cost, score = random.integers(0, 9, (2, 30)).tolist()
    better = [
        any(c <= cost[i] and s >= score[i] and (c, s) != (cost[i], score[i]) for c, s in zip(cost, score, strict=True))
        for i in range(30)
    ]
    assert {(cost[i], score[i]) for i in front(cost, score)} == {
        (cost[i], score[i]) for i in range(30) if not better[i]
    }


def test_bad_settings():
    with pytest.raises(UserError, match="validation is 1"):
        build(Selection, {"data": "x", "validation": 1.0})
    with pytest.raises(UserError, match="batch_size is 0"):
        build(Selection, {"data": "x", "fine_tuning": {"batch_size": 0}})
