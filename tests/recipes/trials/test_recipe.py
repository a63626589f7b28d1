"""The recipe of a search by trials: on a table, where no trial computes anything, and from the command line."""

import csv
import dataclasses
import itertools
import json
import os
import re
import signal
import time

import jax
import numpy as np
import optuna
import pytest

from jnas import spaces
from jnas.cli import main
from jnas.data.load import load
from jnas.distributed.environment import environment
from jnas.errors import UserError
from jnas.recipes import costs, driver
from jnas.recipes.config import build, read_preset
from jnas.recipes.settings import Augmentation, Training
from jnas.recipes.trials import objectives, truth_table
from jnas.recipes.trials import recipe as trials
from jnas.recipes.trials.settings import TrialSearch
from jnas.report.trials import read_trials, trial_charts, trial_table
from jnas.searchers.base import Evaluation
from jnas.study import Trial

SPACE = spaces.nasbench201()


def worth(code):
    return float(np.sum(np.array(code) * [1, 2, 3, 1, 2, 3]))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "table.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["architecture", "score"])
        for code in itertools.product(range(5), repeat=6):
            writer.writerow([spaces.to_string(SPACE, np.array(code)), worth(code)])
    return path


@pytest.fixture
def settings(monkeypatch, images):
    """Trials looked up in a table that takes no time to read."""
    monkeypatch.setattr(
        truth_table,
        "table",
        lambda path, space, column: lambda code, key: Evaluation(worth(code), {column: worth(code)}),
    )
    training = Training(channels=2, epochs=1, batch_size=40, augmentation=Augmentation(crop=1))
    return TrialSearch(
        data=str(images), objective="table", table="worth", searcher="evolution", population=5, num_evaluations=30,
        train_images=40, validation=40, random_cells=0, train=training,
    )  # fmt: skip


def lines(folder):
    return [json.loads(line) for line in (folder / "search" / "trials.jsonl").read_text().splitlines()]


def test_the_best_of_the_trials_is_trained_and_shown(settings, tmp_path):
    folder = tmp_path / "run"
    with jax.numpy_dtype_promotion("standard"):
        result = driver.run(trials, settings, folder)
    rows = lines(folder)
    assert [row["scores"] for row in rows] == [[worth(row["code"])] for row in rows]
    best = max(rows, key=lambda row: row["scores"][0])
    assert result["genotype"] == result["found"]["genotype"] == best["architecture"]
    assert (result["evaluations"], result["score"]) == (30, best["scores"][0])
    page = (folder / "report.html").read_text()
    assert "30 complete trials, 0 failed" in page
    assert re.search("<b>[^<]*s</b><span>search time, 30 evaluations</span>", page)
    assert f"the best, {result['score']:.4g}, is number {rows.index(best) + 1}" in page
    assert list((folder / "search").glob("events.out.tfevents.*"))
    assert driver.run(trials, settings, folder) == json.loads(json.dumps(result))  # done, and read
    study = optuna.load_study(
        study_name=None,
        storage=optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(folder / "search" / "trials.log"))
        ),
    )
    assert study.best_value == result["score"]
    assert study.best_trial.params["cell/0->1"] in SPACE.ops


@pytest.mark.parametrize("searcher", ["random", "tpe", "nsga2"])
def test_searchers_share_one_recipe(searcher, settings, tmp_path):
    config = dataclasses.replace(settings, searcher=searcher, num_evaluations=12)
    assert "12 trials" in driver.run(trials, config, tmp_path / "run", worker=True)["note"]
    codes = {tuple(row["code"]) for row in lines(tmp_path / "run")}
    assert len(codes) == 12


def test_costs_stand_beside_the_score(settings, tmp_path):
    config = dataclasses.replace(settings, searcher="nsga2", beside=["parameters"], num_evaluations=14)
    driver.run(trials, config, tmp_path / "run", worker=True)
    points = np.array([row["scores"] for row in lines(tmp_path / "run")])
    assert points.shape == (14, 2)
    best, front = trial_charts(read_trials(tmp_path / "run"), ["score", "parameters"])
    expected = sum(
        not any(q[0] >= p[0] and q[1] <= p[1] and (q != p).any() for q in points.tolist() and points) for p in points
    )
    assert f"{expected} of them are beaten" in front.alt
    assert "14 trials" in best.alt


def test_costs_are_taken_off_the_score(settings, tmp_path):
    config = dataclasses.replace(settings, costs={"parameters": 100.0}, num_evaluations=3)
    driver.run(trials, config, tmp_path / "run", worker=True)
    for row in lines(tmp_path / "run"):
        assert row["scores"][0] == pytest.approx(worth(row["code"]) - 100 * row["metrics"]["parameters"])
        assert row["metrics"]["parameters"] > 0


def test_nothing_above_a_limit_is_tried(settings, tmp_path, monkeypatch, capfd):
    wide = lambda net, shape: 1e6 * sum(edge.ops == ("nor_conv_3x3",) for edge in net.space.edges("cell"))
    monkeypatch.setitem(costs.OF_A_NETWORK, "parameters", wide)
    config = dataclasses.replace(settings, limits={"parameters": 1.0}, searcher="random", num_evaluations=25)
    driver.run(trials, config, tmp_path / "run", worker=True)
    assert "limits: 1 architectures refused, this one for parameters 2 > 1\n" in capfd.readouterr().err
    rows = lines(tmp_path / "run")
    assert [row["metrics"]["parameters"] for row in rows] == [row["code"].count(3) for row in rows]
    assert {row["code"].count(3) for row in rows} == {0, 1}
    monkeypatch.setitem(costs.OF_A_NETWORK, "parameters", lambda net, shape: 2e6)
    with pytest.raises(UserError, match="not within the limits: raise one of them"):
        driver.run(trials, config, tmp_path / "none", worker=True)


def test_times_are_measured_once_and_random_cells_keep_the_limits(settings, tmp_path, monkeypatch):
    """Times that differ at every call; the random cells and a worker that comes later go by the first ones."""
    measured = []

    def latency(net, shape):
        measured.append(tuple(edge.ops for edge in net.space.edges("cell")))
        return 1e-3 * (measured[-1].count(("nor_conv_3x3",)) + len(measured) / 1e4)

    monkeypatch.setitem(costs.OF_A_NETWORK, "latency", latency)
    untrained = lambda prepared, *_: {name: {"genotype": one.genotype} for name, one in prepared.items()}
    monkeypatch.setattr(driver.train_network, "train_each", untrained)
    config = dataclasses.replace(settings, limits={"latency": 1.0}, searcher="random", num_evaluations=12)
    driver.run(trials, config, tmp_path / "run", worker=True)
    assert len(measured) == len(set(measured)) > 12
    before, kept = lines(tmp_path / "run"), json.loads((tmp_path / "run" / "latencies.json").read_text())
    assert [row["metrics"]["latency"] for row in before] == [kept[row["architecture"]] for row in before]
    plan = trials.plan(config, load(config.data), SPACE)
    keeps = trials.allowed(config, plan, tmp_path / "run")
    names = [name for name in kept if keeps(np.asarray(spaces.from_string(SPACE, name)))]
    assert names == [row["architecture"] for row in before]
    assert len(measured) == len(kept)
    more = dataclasses.replace(config, random_cells=6)
    result = driver.run(trials, more, tmp_path / "more", storage=str(tmp_path / "run" / "search" / "trials.log"))
    assert len(result["random"]) == 6
    assert "nor_conv_3x3" not in "".join(one["genotype"] for one in result["random"])


def test_the_best_of_the_last_rung_is_found_whichever_worker_had_it(settings, tmp_path, monkeypatch, capfd):
    def judged(space, train, validation, training, rungs, by):
        assert (rungs.epochs, by) == ((2, 4, 8), "likelihood")

        def objective(code, key):
            (rungs.folder / "-".join(map(str, code[:6])) / "8").mkdir(parents=True, exist_ok=True)
            return Evaluation(worth(code[:6]) - 10.0 * code[6], {"epochs": rungs.epochs[code[6]]})

        return objective

    monkeypatch.setattr(objectives, "short_training", judged)
    halved = dataclasses.replace(
        settings, objective="training", table="", rungs=3, eta=2, num_evaluations=10,
        trial=dataclasses.replace(settings.train, epochs=2),
    )  # fmt: skip
    driver.run(trials, halved, tmp_path / "run", worker=True)
    halved = dataclasses.replace(halved, num_evaluations=24)
    storage = str(tmp_path / "run" / "search" / "trials.log")
    with jax.numpy_dtype_promotion("standard"):
        result = driver.run(trials, halved, tmp_path / "other", storage=storage)
    rows = lines(tmp_path / "other")
    assert rows[:10] == lines(tmp_path / "run")
    last = [row for row in rows if row["metrics"]["epochs"] == 8]
    assert result["genotype"] == max(last, key=lambda row: row["scores"])["architecture"]
    assert result["found"]["genotype"] == result["genotype"]
    assert max(row["scores"] for row in rows) > max(row["scores"] for row in last)
    best = next(row for row in last if row["architecture"] == result["genotype"])
    about = {"trial": best["trial"], "architecture": best["architecture"], "scores": best["scores"], "epochs": 8}
    assert (result["front"], result["derivation"]) == ([about], "the best score after 8 epochs")
    said, score = capfd.readouterr().err, f"{best['scores'][0]:.4g}"
    assert f"trial {best['trial']}: {score} after 8 epochs  best {score}" in said
    assert f"best {score}" in [line for line in said.splitlines() if line.startswith("trials ")][-1]
    chart, table = trial_charts(rows, ["score"], halved=True)[0], trial_table(rows, ["score"], halved=True)
    assert f"the best after 8 epochs, {result['score']:.4g}, is number {rows.index(best) + 1}" in chart.alt
    assert [int(row[1]) for row in table.rows] == sorted((row["metrics"]["epochs"] for row in rows), reverse=True)[:20]
    assert table.rows[0][-1] == result["genotype"]
    page = (tmp_path / "other" / "report.html").read_text()
    assert chart.alt in page
    assert ">epochs</th>" in page
    assert not [*tmp_path.glob("*/search/rungs/[0-9]*")]  # all are evaluated


def test_a_model_is_not_taken_in_by_the_luckiest_score():
    config = TrialSearch(searcher="gaussian_process", objective="training", rungs=2)
    plan = trials.Plan(SPACE, trials._searched(config, SPACE), (), 0, *[None] * 4)  # pyright: ignore[reportArgumentType]
    codes = sorted(np.asarray(spaces.sample(SPACE, jax.random.key(0), 40)), key=worth)
    told = [(*code, 0, worth(code)) for code in codes] + [(*code, 1, worth(code) + 5.0) for code in codes[-12:]]
    lucky = (*codes[20], 1, worth(codes[-1]) + 5.5)
    rows = [Trial(n, np.array(row[:7], np.int32), (row[7],), {}, 0.0) for n, row in enumerate([*told, lucky])]
    best = rows[-1]
    with jax.numpy_dtype_promotion("standard"):
        chosen, words = trials._chosen(config, plan, rows, best)
    assert words == "largest posterior mean"
    assert chosen.code[-1] == 1
    assert worth(chosen.code[:6]) >= worth(codes[-3])
    for other in ({"searcher": "evolution"}, {"objective": "table", "table": "worth"}, {"beside": ["flops"]}):
        assert trials._chosen(dataclasses.replace(config, **other), plan, rows, best) == (best, "best score")


def test_workers_with_folders_of_their_own_share_a_storage(settings, tmp_path):
    storage = f"sqlite:///{tmp_path}/shared.db"
    for number in (5, 8):
        config = dataclasses.replace(settings, num_evaluations=number)
        driver.run(trials, config, tmp_path / f"worker-{number}", storage=storage, worker=True)
    assert len(lines(tmp_path / "worker-8")) == 8
    assert lines(tmp_path / "worker-8")[:5] == lines(tmp_path / "worker-5")
    other = dataclasses.replace(settings, seed=1, num_evaluations=4)  # a study of its own in the same storage
    driver.run(trials, other, tmp_path / "other", storage=storage, worker=True)
    assert lines(tmp_path / "other")[0]["code"] != lines(tmp_path / "worker-5")[0]["code"]


HANGS = """
import time
from jnas.recipes.trials import truth_table

plain = truth_table.table

def table(*given, **options):
    judge, calls = plain(*given, **options), iter(range(10))
    return lambda code, key: judge(code, key) if next(calls, None) is not None else time.sleep(1000)

truth_table.table = table
"""


def test_a_killed_program_goes_on(command, images, table, tmp_path):
    """Killed in its eleventh trial, which does not end."""
    words = (
        "search", "trials", f"data={images}", "objective=table", f"table={table}", "searcher=random", "population=2",
        "num_evaluations=150", "train_images=40", "validation=40", "train.batch_size=40", "--worker",
    )  # fmt: skip
    folder = tmp_path / "run"
    process = command(*words, "--out", folder, wait=False, before=HANGS)
    path = folder / "search" / "trials.jsonl"
    deadline = time.monotonic() + 300
    while not path.is_file() or path.read_bytes().count(b"\n") < 10:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = lines(folder)
    assert len(before) == 10
    done = command(*words, "--out", folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "took part in a search of 150 trials\n"
    rows = lines(folder)
    assert rows[: len(before)] == before
    assert len({tuple(row["code"]) for row in rows}) == 150


class TestWords:
    def test_storage_is_refused_where_there_are_no_trials(self, capsys):
        assert main.main(["search", "nasbench201", "--storage", "sqlite:///x.db"]) == 2
        assert "--storage is for searches by trials" in capsys.readouterr().err
        assert main.main(["search", "grouped", "--worker"]) == 2
        assert "of kind 'grouped'" in capsys.readouterr().err

    def test_a_storage_that_is_not_there(self, settings, tmp_path):
        with pytest.raises(UserError, match=r"//\*\*\*@127.0.0.1"):
            driver.run(
                trials, settings, tmp_path / "run", storage="mysql+nodriver://ann:secret@127.0.0.1/x", worker=True
            )
        (tmp_path / "notes").write_text("of mine")
        with pytest.raises(UserError, match="notes is no journal of trials"):
            driver.run(trials, settings, tmp_path / "run", storage=str(tmp_path / "notes"))
        assert os.listdir(tmp_path) == ["notes"]

    def test_a_clock_that_is_set_back_makes_no_search_shorter_than_nothing(self, settings, tmp_path, monkeypatch):
        config = dataclasses.replace(settings, num_evaluations=2)
        clock = iter(range(10**9, 0, -3600))
        monkeypatch.setattr(time, "time", lambda: float(next(clock)))
        path = tmp_path / "run"
        driver.run(trials, config, path, worker=True)
        lines = (path / "search" / "trials.jsonl").read_text().splitlines()
        assert all(0 <= json.loads(line)["seconds"] < 60 for line in lines)

    def test_a_missing_line_of_a_table_ends_the_search_at_once(self, settings, tmp_path, monkeypatch):
        asked = []

        def lacking(*given, **options):
            def objective(arch, key):
                asked.append(arch)
                raise UserError("t.csv has no line for it")

            return objective

        monkeypatch.setattr(truth_table, "table", lacking)
        with pytest.raises(UserError, match=r"^t\.csv has no line for it$"):
            driver.run(trials, settings, tmp_path / "run", worker=True)
        assert len(asked) == 1

    def test_the_preset_can_be_built(self):
        config = build(TrialSearch, read_preset("trials"))
        assert config.objective == "training"
        assert config.budgets == (4, 12)
        assert dataclasses.replace(config, beside=["flops"]).budgets == (4,)
        assert dataclasses.replace(config, objective="shared_weights").budgets == (4,)

    @pytest.mark.parametrize(
        ("changed", "sentence"),
        [
            ({"num_evaluations": 0}, "num_evaluations is 0"),
            ({"costs": {"size": 1.0}}, "'size' is no cost"),
            ({"costs": {"flops": 1.0}, "beside": ["flops"]}, "set one of them"),
            ({"objective": "table"}, "set both"),
            ({"limits": {"size": 1.0}}, "'size' is no cost"),
            ({"limits": {"latency": 0.0}}, "limits is 0.0: give a positive number"),
            ({"lease_seconds": 0.0}, "positive"),
        ],
    )
    def test_settings_that_contradict_each_other(self, changed, sentence):
        with pytest.raises(ValueError, match=sentence):
            TrialSearch(**changed)

    def test_more_images_than_there_are(self, settings, tmp_path):
        config = dataclasses.replace(settings, train_images=100, validation=100)
        with pytest.raises(UserError, match="are 200 together"):
            driver.run(trials, config, tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_passwords_are_kept_out_of_records(self, monkeypatch):
        monkeypatch.setattr("sys.argv", ["jnas", "search", "--storage", "postgresql://ann:secret@host/x", "a=b:c@d"])
        assert environment()["argv"][3:] == ["postgresql://***@host/x", "a=b:c@d"]
