"""Choosing out of a zoo, on a network that a search trained: what stands still, what is kept, what the page says."""

import dataclasses
import json
import pathlib
from types import SimpleNamespace

import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnas
from jnas import data, train
from jnas.cli.main import main
from jnas.data.load import load
from jnas.distributed.environment import environment
from jnas.errors import Diverged, UserError
from jnas.recipes import models, run_folder, trainer
from jnas.recipes.config import build
from jnas.recipes.zoo import candidates, entries, finetune, networks, ranking, records, selection
from jnas.recipes.zoo.settings import FineTuning, Selection
from jnas.report.reading import read_run
from jnas.report.selection import carried_by, ending, front, selection_section
from jnas.types import Examples

GRID = (
    "frozen=[0.5]",
    "learning_rates=[0.05]",
    "epochs=[1,2]",
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


def test_gradients_of_what_stands_still_are_not_computed(place, images, monkeypatch, tmp_path, standard_promotion):
    model, jobs = networks.load(place, "only").model, []
    train = models.as_read_by(model, load(str(images)).train)
    monkeypatch.setattr(finetune.trainer, "train", lambda job, key, **_: jobs.append(job))
    monkeypatch.setattr(finetune.train_network, "once", lambda folder, fit, *_: fit())
    monkeypatch.setattr(finetune.run_folder, "kept", lambda path, make: make())
    flops = []
    for frozen in (0.0, 1.0):
        folder = tmp_path / str(frozen)
        finetune.prepare(model, train, train, FineTuning(frozen=frozen, batch_size=20), (1,), folder, 0)(0)
        batch = jax.eval_shape(lambda: Examples(jnp.zeros((20, *train.shape)), jnp.zeros(20, int)))
        learner = jobs[-1].learner
        step = jax.jit(learner.update).lower(jax.eval_shape(learner.init, jax.random.key(0)), batch, jax.random.key(0))
        flops.append(step.cost_analysis()["flops"])
    assert flops[1] < 0.6 * flops[0]


def test_costs_and_record_are_kept(place, chosen):
    found, complaints = candidates.of_zoo(place)
    assert not complaints
    device = str(environment()["device"])
    assert {(c.kind, c.batch_size) for c in found[0].costs} == {("inference", 1), ("training", 20)}
    assert candidates.latency(found[0], device) > 0
    assert found[0].memory > found[0].size
    known, _ = records.of_zoo(place)
    trial = chosen[1] / "train" / "trial-1"
    for epochs, record in zip((1, 2), sorted(known, key=lambda record: record["features"][records.STEPS]), strict=True):
        result = run_folder.read_json(trial / f"rung-{epochs}" / "result.json")
        assert (record["score"], result["epochs"]) == (result["test_accuracy"], epochs)
        assert record["features"][records.STEPS] == pytest.approx(np.log10(epochs * (96 // 20)))
    assert run_folder.read_json(trial / "result.json") == result


def test_the_page_and_the_second_run(chosen, capsys):
    words, folder = chosen
    page = selection_section(read_run(folder))
    assert "1 networks by parameters" in page
    assert "LogME" in page
    assert "goes on, 1 of 1 on rung 1" in page
    assert "the best of those that began has come to its end" in page
    assert "2 records of fine-tunings are known now; a prediction takes 20 of two tasks" in page
    assert 'id="selection"' in (folder / "report.html").read_text()
    before = (folder / "result.json").read_bytes()
    assert main([*words, "--out", str(folder)]) == 0
    assert (folder / "result.json").read_bytes() == before
    assert "chosen    only" in capsys.readouterr().out


def test_the_same_from_python(chosen, place, images):
    run = jnas.select_network(str(images), *GRID, zoo=str(place), max_latency=1e9, budget=1e9, out=chosen[1])
    assert run.result == run_folder.read_json(chosen[1] / "result.json")
    assert run.metrics["test_accuracy"] == run.result["found"]["test_accuracy"]
    assert run.predict(np.zeros((2, *run.model.shape), np.uint8))["probability"].shape == (2, 4)


class Killed(BaseException):
    """The process ends here."""


def test_a_run_that_is_killed_within_its_second_rung_ends_in_the_same_bits(
    chosen, monkeypatch, tmp_path, standard_promotion
):
    words, whole = chosen
    plain, trial = trainer.fit, tmp_path / "run" / "train" / "trial-1"

    def killed(*given, hooks, **options):
        def look(event):
            if event.step > 4:  # where the first rung ends
                raise Killed

        return plain(*given, hooks=[*hooks, train.Hook(steps=look)], **options)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "fit", killed)
        with pytest.raises(Killed):
            main([*words, "--out", str(tmp_path / "run")])
    assert (trial / "rung-1" / "result.json").is_file()
    assert not (trial / "result.json").is_file()
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    with np.load(trial / "weights.npz") as found, np.load(whole / "train" / "trial-1" / "weights.npz") as expected:
        assert found.files == expected.files
        assert all(np.array_equal(found[name], expected[name]) for name in found.files)


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


def choices(accuracies=(0.5, 0.4), logmes=(0.1, 0.3), frozen=(0.0, 1.0)):
    """Networks with settings; of the first two the second's features tell the classes apart better."""
    for model, (accuracy, logme) in enumerate(zip(accuracies, logmes, strict=True)):
        one = candidates.Candidate(f"m{model}", "", accuracy, 1000, 1e6, 8, ())
        for share in frozen:
            own = {records.LOGME: logme, records.CENTROID: logme, records.FROZEN: share}
            features = (
                dict.fromkeys(records.NAMES, 0.0) | own | dict.fromkeys([records.SOURCE, records.STANDING], accuracy)
            )
            yield ranking.Choice(one, FineTuning(frozen=share), features, (10, 30), float(1 + model))


def known(num_tasks=8, seed=0):
    """Records of other tasks, where freezing was better, and separable features worse."""
    random = np.random.default_rng(seed)
    for task in range(num_tasks):
        for _ in range(5):
            features = dict(zip(records.NAMES, random.normal(size=len(records.NAMES)).tolist(), strict=True))
            score = 0.5 + 0.3 * features[records.FROZEN] - 0.5 * features[records.CENTROID]
            yield {"task": f"t{task}", "features": features, "score": score, "model": "m", "seconds": 1.0}


@pytest.mark.parametrize(
    ("prior", "order"), [("source", [0, 2, 4, 1, 3, 5]), ("probe", [2, 4, 0, 3, 5, 1]), ("both", [2, 0, 4, 3, 1, 5])]
)
def test_the_order_without_records(prior, order):
    """One network after the other with the same setting, by the mean of their ranks: 1 and 3, 2 and 1, 3 and 2."""
    config = build(Selection, {"data": "x", "prior": prior})
    found, expected = ranking.ranked(config, list(choices((0.5, 0.4, 0.3), (0.1, 0.3, 0.2))), [])
    assert found.tolist() == order
    assert expected is None


def test_networks_stand_among_those_of_their_source():
    """Birds are harder than digits: the best network of either has the same standing."""
    digits, birds = ("digits", (0.98, 0.95, 0.95, None)), ("birds", (0.5, 0.6))
    offered = [
        candidates.Candidate(f"{data}-{at}", "", accuracy, 1000, 1e6, 8, (), data=data)
        for data, accuracies in (digits, birds)
        for at, accuracy in enumerate(accuracies)
    ]
    assert ranking.standings(offered) == [3.5 / 4, 2 / 4, 2 / 4, 0.5 / 4, 0.25, 0.75]
    assert ranking.standings(offered[:1]) == [0.5]


def test_the_order_with_records():
    config = build(Selection, {"data": "x"})
    rows, offered = list(known()), list(choices())
    order, expected = ranking.ranked(config, offered, rows)
    means = [rungs[-1].mean for rungs in expected]
    assert np.argsort(means).tolist() == [2, 0, 3, 1]
    # The order without records, 0 2 1 3, counts as 10 tasks beside 8: 8 * 3 + 10 * 0, 8 * 1 + 10 * 2, ...
    assert order.tolist() == [0, 1, 2, 3]
    assert all(one.low < one.mean < one.high for rungs in expected for one in rungs)
    assert [len(rungs) for rungs in expected] == [2] * 4
    # With a target those come first that reach it on the mean, the cheapest of them first.
    middle = float(np.mean([means[at] for at in (3, 0)]))
    slow_first = [choice._replace(step_seconds=9.0 - choice.step_seconds) for choice in offered]
    aimed = dataclasses.replace(config, target_accuracy=middle)
    assert ranking.ranked(aimed, slow_first, rows)[0].tolist() == [3, 1, 0, 2]
    missed = dataclasses.replace(config, target_accuracy=1.0)
    assert ranking.ranked(missed, slow_first, rows)[0].tolist() == [0, 1, 2, 3]
    # Too few, or all of one task: nothing is predicted.
    for few in (rows[:19], [{**record, "task": "t"} for record in rows]):
        assert ranking.ranked(config, offered, few)[1] is None
        assert ranking.carrying(config, few) is None


def test_what_the_predictor_rests_on():
    config, rows = build(Selection, {"data": "x"}), list(known())
    carried = ranking.carrying(config, rows)
    assert {one["name"] for one in carried["features"][:2]} == {records.FROZEN, records.CENTROID}
    assert carried["error"] < 0.6 * carried["guess"]
    first, second, third = (one["rise"] for one in carried["features"][:3])
    assert first > second > 3 * third
    assert 0.7 < carried["coverage"] <= 1
    json.dumps(carried, allow_nan=False)
    page = carried_by({"carried by": carried, "records": [40, 20]})
    assert "ridge, 40 records of 8 tasks" in page
    assert f"{100 * carried['coverage']:.0f} % lie in their 90 % interval" in page
    assert page.index("fit: nearest centroid") < page.index("setting: frozen") < page.index("fit: LogME")


# A zoo whose networks are not trained: each comes to a known accuracy -------------------------------------------------

FINAL = [0.50, 0.58, 0.66, 0.74, 0.82, 0.90]


@pytest.fixture
def pretended(monkeypatch, tmp_path):
    """Runs a selection among networks of known accuracies; returns what it found."""

    def run(name="run", rows=(), final=FINAL, seconds=1.0, **options):
        config = build(Selection, {"data": "x", "zoo": str(tmp_path / name / "zoo"), **options})
        for record in rows:
            entries.note(config.zoo, entries.RECORDS, "", facts=record)
        (tmp_path / name).mkdir(exist_ok=True)
        images = data.Dataset(np.zeros((8, 1), np.uint8), np.arange(8, dtype=np.int32) % 2, (1, 1, 1), 2)
        steps = tuple(10 * epochs for epochs in config.epochs)

        def offered(config, plan, known):
            ranks = np.linspace(0.9, 0.1, len(final))  # the prior has it the wrong way round
            return [
                choice._replace(steps=steps, step_seconds=seconds) for choice in choices(ranks, ranks, config.frozen)
            ]

        def tuner(config, plan, choice, folder):
            best = final[int(choice.candidate.name[1:])] * (1 - 0.1 * choice.settings.frozen)
            return lambda rung: {
                "name": folder.name, "epochs": plan.epochs[rung], "seconds": 0.5,
                "test_accuracy": best * (1 - 0.3 / plan.epochs[rung]),
            }  # fmt: skip

        monkeypatch.setattr(selection, "list_choices", offered)
        monkeypatch.setattr(selection, "tuner", tuner)
        plan = selection.Plan(data.Splits(images, images), images, images, [], [], config.epochs)
        found = selection.search(config, plan, tmp_path / name)
        json.dumps(found, allow_nan=False)
        return found

    return run


def chosen_of(found):
    return max(found["trials"], key=lambda trial: trial["test_accuracy"])["model"]


def test_halving_finds_the_best_that_the_prior_has_last(pretended):
    found = pretended(trials=6)
    assert [(trial["model"], trial["epochs"]) for trial in found["trials"]] == [
        *((f"m{at}", 1) for at in range(6)), ("m5", 3), ("m4", 3), ("m5", 9)
    ]  # fmt: skip
    assert chosen_of(found) == "m5"
    assert found["carried by"] is None
    alone = pretended("alone", trials=1, epochs=[9])
    assert chosen_of(alone) == "m0"


def test_a_target_that_is_reached_ends_it_and_a_missed_one_is_told(pretended):
    found = pretended(target_accuracy=0.6, trials=6)
    assert found["trials"][-1]["test_accuracy"] >= 0.6 > max(trial["test_accuracy"] for trial in found["trials"][:-1])
    assert found["stopped"] == "the target is reached"
    assert any("is reached" in sentence for sentence in ending(found))
    found = pretended("missed", target_accuracy=0.95, trials=3, budget=310.0)
    said = " ".join(ending(found))
    assert sum(trial["predicted"]["seconds"] for trial in found["trials"]) <= 310
    assert "The target, 95 % of the validation images, is missed by" in said
    assert "the target is missed and the budget has" in found["stopped"]
    assert f"Next would come {found['next']['model']}, up to epoch {found['next']['epochs']}, " in said
    assert "s: " in said


def test_records_of_others_change_the_order_and_their_own_join_them(pretended):
    """Elsewhere low accuracy at the source went with high accuracy after it, as it does here."""
    random, rows = np.random.default_rng(0), []
    for task in range(16):
        for _ in range(2):
            features = dict.fromkeys(records.NAMES, 0.0) | {records.SOURCE: float(random.uniform(0.1, 0.9))}
            score = 1 - 0.5 * features[records.SOURCE]
            rows.append({"task": f"t{task}", "features": features, "score": score, "model": "m", "seconds": 1.0})
    plain, taught = pretended(trials=1, epochs=[9]), pretended("taught", rows, trials=1, epochs=[9])
    assert chosen_of(plain) == "m0"
    assert chosen_of(taught) == "m5"
    assert taught["trials"][0]["predicted"]["low"] < taught["trials"][0]["predicted"]["high"]
    assert taught["records"] == [33, 20]
    assert 0 <= taught["carried by"]["coverage"] <= 1
    assert len(pretended("taught", trials=1, epochs=[9])["trials"]) == 1  # again, with what the first one began with
    assert pretended("taught", trials=1, epochs=[9])["records"] == [33, 20]


def test_a_candidate_that_diverges_is_passed_over(pretended, monkeypatch):
    def tune(rung):
        raise Diverged("loss is nan at step 3")

    monkeypatch.setattr(selection, "begin_trial", lambda *_: None)
    monkeypatch.setattr(selection.networks, "load", lambda *_: SimpleNamespace(model=None))
    monkeypatch.setattr(selection.models, "as_read_by", lambda model, part: part)
    monkeypatch.setattr(selection.finetune, "prepare", lambda *_: tune)
    config, plan = build(Selection, {"data": "x"}), selection.Plan(None, None, None, [], [], (1, 3))
    result = selection.tuner(config, plan, next(choices()), pathlib.Path("trial-7"))(1)
    assert result["diverged"] == "loss is nan at step 3"
    assert (result["name"], result["test_accuracy"], result["epochs"]) == ("trial-7", 0.0, 3)
    with pytest.raises(Diverged, match="loss is nan"):
        selection.finish(config, plan, {"seconds": 1.0, "trials": [result]}, pathlib.Path("run"))


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


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"validation": 1.0}, "validation is 1"),
        ({"fine_tuning": {"batch_size": 0}}, "batch_size is 0"),
        ({"epochs": [3, 1]}, r"epochs is \[3, 1\]: give the rungs of halving, the shortest first"),
        ({"epochs": []}, r"epochs is \[\]: give the rungs"),
        ({"target_accuracy": 90}, "target_accuracy is 90.0: give at most 1"),
    ],
)
def test_bad_settings(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        build(Selection, {"data": "x", **settings})
