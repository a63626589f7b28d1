"""The search over spaces against a family whose best member is known, its criterion, and a run killed on the way."""

import dataclasses
import itertools
import json
import re

import jax
import numpy as np
import pytest

from jnas import searchers, spaces, study
from jnas.cli import main
from jnas.data.arrays import splits_of
from jnas.data.load import load
from jnas.errors import UserError
from jnas.recipes import config, costs, models, own_parts, run_folder
from jnas.recipes.generated import model_search
from jnas.recipes.generated import recipe as generated
from jnas.recipes.generated.evaluator import Kept, draw
from jnas.recipes.generated.settings import ModelLevel, SpaceSearch, Strategies
from jnas.recipes.generated.strategies import family_of
from jnas.report.space_search import chain_chart, level_charts, read_levels, space_table, words
from jnas.searchers.base import Evaluation
from jnas.searchers.gp import incumbent
from jnas.spaces import descriptors, networks
from jnas.spaces.chain import chain
from jnas.spaces.families.generated import Member, layer_types_and_depth, union

WORTH = {"skip_connect": 0.0, "max_pool_3x3": 0.1, "conv_1x1": 0.4, "conv_3x3": 1.0}
FAMILY = union("types", {"types": layer_types_and_depth(tuple(WORTH), (2, 3))})  # 22 spaces
SIZE = {"skip_connect": 0.0, "max_pool_3x3": 0.0, "conv_1x1": 0.5, "conv_3x3": 1.0}  # millions, of a layer
SPLITS = splits_of([(np.zeros((64, 8, 8, 1), np.uint8), np.arange(64) % 2)] * 2, 2, "black")
BEST = "chain-3:conv_1x1,conv_3x3"  # on average the best pair in the deepest chain


def worth(space, arch):
    layers = networks.fix(space, arch).layers
    return Evaluation(sum(WORTH[word] for (word,) in layers), {"layers": len(layers)})


def size(genotype):
    return sum(SIZE[word] for word in genotype.removeprefix("chain:").split("+"))


def name_of(net):
    return "chain:" + "+".join(word for (word,) in net.space.layers)


@pytest.fixture
def sizes(monkeypatch):
    """Parameters that are counted in no time."""
    monkeypatch.setitem(costs.OF_A_NETWORK, "parameters", lambda net, shape: 1e6 * size(name_of(net)))


@pytest.fixture
def quick(monkeypatch):
    """Random searchers, and models that believe what they saw and think little of the rest: nothing is compiled."""

    def predict(state, hyper, codes):
        seen = {code.tobytes(): value for code, value in zip(state.codes, state.values, strict=True)}
        worst = np.nanmin(state.values)
        return np.array([seen.get(code.tobytes(), worst - 1) for code in codes]), np.full(len(codes), 0.5)

    by = lambda space: searchers.Pooled(searchers.random(space), still([0.0] * 99)._replace(predict=predict))
    monkeypatch.setattr(generated, "_by", lambda level, space, *_: by(space))
    monkeypatch.setattr(searchers, "pooled", lambda family, **_: by(family))


def settings(**changes):
    return SpaceSearch(samples=2, outer=ModelLevel(4, 12), inner=ModelLevel(4, 4), **changes)


def facts(folder):
    """What a search leaves, but for times."""
    files = [folder / level / name for level in ("spaces", "networks") for name in ("found.json", "model.jsonl")]
    lines = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
    return [path.read_text() for path in files], [{**line, "seconds": 0} for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with jax.numpy_dtype_promotion("standard"):
        return folder, generated.search(settings(), generated.Plan(FAMILY, SPLITS, worth), folder)


def test_both_levels_find_the_best_there_is(whole):
    folder, result = whole
    means = {}
    for member in FAMILY.members():
        codes = itertools.product(*(range(len(choice.options)) for choice in member.space.choices))
        means[member.space.name] = np.mean([worth(member.space, code).score for code in codes])
    assert max(means, key=means.__getitem__) == BEST
    assert result["space"] == BEST
    assert result["genotype"] == "chain:conv_3x3+conv_3x3+conv_3x3"
    outer = json.loads((folder / "spaces" / "found.json").read_text())
    assert outer["members"] == 22
    assert len(outer["trials"]) <= 12
    judged = (folder / "evaluations.jsonl").read_text().splitlines()
    assert result["steps"] == len(judged) == len({json.loads(line)["genotype"] for line in judged})  # none twice


def test_a_search_killed_anywhere_ends_in_the_same_files(whole, tmp_path, standard_promotion):
    """Killed in the middle of a space, between two of them and inside the chosen one."""
    folder, result = whole
    stops = [3, 4, 9, result["steps"] - 1]

    class Killed(BaseException):
        pass

    calls = []

    def judge(space, arch):
        if stops and len(calls) == stops[0]:
            stops.pop(0)
            raise Killed
        calls.append(1)
        return worth(space, arch)

    while stops:
        with pytest.raises(Killed):
            generated.search(settings(), generated.Plan(FAMILY, SPLITS, judge), tmp_path / "run")
    again = generated.search(settings(), generated.Plan(FAMILY, SPLITS, judge), tmp_path / "run")
    assert len(calls) == result["steps"]  # nothing was judged twice
    assert facts(tmp_path / "run") == facts(folder)
    assert {**again, "seconds": 0} == {**result, "seconds": 0}


def judged(folder):
    return {
        (row := json.loads(line))["genotype"]: row for line in (folder / "evaluations.jsonl").read_text().splitlines()
    }


def level(folder, name):
    return json.loads((folder / name / "found.json").read_text())


def test_nothing_above_a_limit_is_judged_found_or_drawn_beside(
    quick, sizes, tmp_path, monkeypatch, standard_promotion, capsys
):
    outer = ModelLevel(4, 22, patience=99)
    config = dataclasses.replace(settings(limits={"parameters": 1.0}, random_cells=6), outer=outer)
    plan = generated.Plan(FAMILY, SPLITS, worth)
    found = generated.search(config, plan, tmp_path)
    assert "limits: 1 architectures refused, this one for parameters" in capsys.readouterr().err
    rows, ours = judged(tmp_path), found["genotype"]
    assert {name: row["costs"]["parameters"] for name, row in rows.items()} == {name: size(name) for name in rows}
    assert max(map(size, rows)) == 1.0
    assert (found["costs"], found["score"]) == ({"parameters": size(ours)}, rows[ours]["score"])
    tried = [trial["space"] for trial in level(tmp_path, "spaces")["trials"]]
    assert {*tried, BEST} == {member.space.name for member in FAMILY.members()}  # of which each network costs 1.5
    assert len(tried) == 21
    assert "spaces: nothing else within the limits after 21" in found["derivation"]
    untrained = lambda prepared, *_: {name: {"genotype": one.genotype} for name, one in prepared.items()}
    monkeypatch.setattr(generated.train_network, "train_each", untrained)
    random = generated.finish(config, plan, found, tmp_path)["random"]
    assert len(random) == 6
    assert max(size(one["genotype"]) for one in random) <= 1.0
    said = words(read_levels(tmp_path))
    assert "The model of spaces had nothing else within the limits after 21." in said[0]
    assert said[-1] == f"The network that it found costs parameters {size(ours):.4g} of at most 1."
    assert generated.describe(config).endswith("then of networks in the best, parameters at most 1")


def test_the_models_search_within_the_limits(sizes, tmp_path, standard_promotion):
    """Most spaces are refused, and the model, to which they are as bad as the worst, does not choose one."""
    config = dataclasses.replace(settings(limits={"parameters": 0.4}), outer=ModelLevel(3, 5), inner=ModelLevel(2, 2))
    found = generated.search(config, generated.Plan(FAMILY, SPLITS, worth), tmp_path)
    assert max(map(size, judged(tmp_path))) == 0.0
    outer = level(tmp_path, "spaces")
    chosen = {found["space"], *(entry["name"] for entry in outer["log"]), *(row["space"] for row in outer["trials"])}
    assert all("skip_connect" in name or "max_pool_3x3" in name for name in chosen)


def test_weights_change_the_order_as_the_formula_says(whole, quick, sizes, tmp_path, standard_promotion):
    config = settings(costs={"parameters": 2.0})
    found = generated.search(config, generated.Plan(FAMILY, SPLITS, worth), tmp_path)
    rows = judged(tmp_path)
    less = {name: row["score"] - 2.0 * size(name) for name, row in rows.items()}
    for trial in level(tmp_path, "spaces")["trials"]:
        assert trial["scores"] == [less[name] for name in trial["genotypes"]]
        assert trial["score"] == np.mean(trial["scores"])
    inner = level(tmp_path, "networks")["trials"]
    assert [trial["score"] for trial in inner] == [less[trial["genotype"]] for trial in inner]
    assert found["score"] == less[found["genotype"]] == max(less.values())
    assert rows[found["genotype"]]["score"] < max(row["score"] for row in rows.values())
    assert found["genotype"] != whole[1]["genotype"]
    assert generated.describe(config).endswith(", less 2 parameters")
    assert "parameters 0." in words(read_levels(tmp_path))[-1]


def test_a_search_goes_on_with_the_times_of_its_folder(quick, tmp_path, monkeypatch, standard_promotion):
    """Times that differ at every call: the killed search reads those that it had measured, and so do random cells."""
    measured = []

    def latency(net, shape):
        measured.append(name_of(net))
        return 1e-3 * (size(measured[-1]) + len(measured) / 1e6)

    class Killed(BaseException):
        pass

    def judge(space, arch):
        calls.append(1)
        if len(calls) in (4, 9):
            raise Killed
        return worth(space, arch)

    calls: list[int] = []
    monkeypatch.setitem(costs.OF_A_NETWORK, "latency", latency)
    config, plan = settings(limits={"latency": 2.6}), generated.Plan(FAMILY, SPLITS, judge)
    for _ in range(2):
        with pytest.raises(Killed):
            generated.search(config, plan, tmp_path)
    generated.search(config, plan, tmp_path)
    times = json.loads((tmp_path / "latencies.json").read_text())
    assert len(measured) == len(set(measured)) == len(times)
    assert {name: row["costs"]["latency"] for name, row in judged(tmp_path).items()} == {
        name: times[name] for name in judged(tmp_path)
    }
    before = facts(tmp_path)
    for name in ("spaces", "networks"):
        (tmp_path / name / "found.json").unlink()
    generated.search(config, plan, tmp_path)
    assert facts(tmp_path) == before
    assert len(measured) == len(times)


def test_limits_that_nothing_meets_are_refused_before_anything_is_written(images, sizes, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generated, "REFUSED", 9)
    monkeypatch.setitem(costs.OF_A_NETWORK, "parameters", lambda net, shape: 2e6)
    words = (f"data={images}", "train_images=40", "validation=40", "judge.batch_size=20", "train.batch_size=20")
    out = tmp_path / "run"
    assert main.main(["search", "space-search", *words, "limits.parameters=0.5", "--out", str(out)]) == 2
    said = "none of 10 random networks of the spaces is within limits.parameters=0.5: raise a limit"
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_a_search_ends_where_nothing_else_is_within_the_limits(monkeypatch):
    def search(space, allowed, known=None):
        by = searchers.Pooled(searchers.random(space), still([0.0])).within(space, allowed)
        return model_search.search_until_settled(
            by, lambda arch, key: Evaluation(float(arch.sum())), key=jax.random.key(0), num_evaluations=9,
            criterion=model_search.Criterion(0.1, 9), known=known,
        )  # fmt: skip

    monkeypatch.setattr(searchers.base, "REFUSED", 9)
    found = search(chain(("skip_connect", "conv_1x1"), 4), lambda arch: arch.sum() == 1)
    assert sorted(found.codes.tolist(), reverse=True) == np.eye(4).tolist()  # a small space is seen to its end
    assert found.converged is None
    large, known = chain(tuple(WORTH), 12), (np.ones((1, 12), np.int32), np.ones(1))
    found = search(large, lambda arch: False, known)
    assert (found.converged, found.codes.tolist()) == (None, known[0].tolist())
    with pytest.raises(UserError, match="25 architectures in a row are not within the limits: raise one of them"):
        search(large, lambda arch: False)


def test_a_run_from_before_the_limits_goes_on(tmp_path):
    run_folder.begin(tmp_path, SpaceSearch(), "space_search")
    stored = tmp_path / run_folder.CONFIG
    text = stored.read_text()
    stored.write_text(re.sub(r"^(costs|limits): \{\}\n", "", text, flags=re.MULTILINE))
    assert len(stored.read_text().splitlines()) == len(text.splitlines()) - 2
    run_folder.begin(tmp_path, SpaceSearch(), "space_search")
    with pytest.raises(UserError, match=r"holds a run with limits.flops=None and not 2"):
        run_folder.begin(tmp_path, SpaceSearch(limits={"flops": 2.0}), "space_search")


def test_the_page_shows_the_spaces_the_model_and_the_network(whole):
    folder, result = whole
    levels = read_levels(folder)
    assert set(levels) == {"spaces", "networks"}
    assert [chart.title for chart in level_charts(levels)][:2] == ["Spaces tried", "Networks tried in the chosen space"]
    table = space_table(levels)
    scores = [float(row[2]) for row in table.rows]
    assert scores == sorted(scores, reverse=True)
    assert sum(row[0].endswith("*") for row in table.rows) <= 1
    assert BEST in words(levels)[0]
    assert "3 layers: conv_3x3, conv_3x3, conv_3x3" in chain_chart(result["genotype"]).alt
    assert chain_chart("|nor_conv_3x3~0|") is None
    assert read_levels(folder / "nowhere") == {}


def still(values):
    """A model whose posterior and hyper-parameters are what the test says at each number of observations."""

    def at(state):
        return values[min(int(state.known.sum()), len(values)) - 1]

    def fit(state, key):
        hyper = searchers.gp.regression.Hyperparameters(np.float32(at(state)), np.float32(0), np.zeros(1, np.float32))
        return searchers.gp.regression.Fit(hyper, np.float32(0), np.float32(0))

    def predict(state, hyper, codes):
        return np.where(codes[:, 0] == 1, 1.0, 0.0), np.full(len(codes), 0.5)

    return searchers.Surrogate(fit, predict)


def test_the_search_stops_when_the_hyperparameters_and_the_incumbent_stand_still():
    space = chain(("skip_connect", "conv_1x1"), 5)

    def stops_after(values, patience):
        codes = np.array(list(itertools.product(range(2), repeat=5)), np.int32)
        codes = codes[np.argsort(-codes[:, 0], kind="stable")]  # the incumbent is there from the start

        def ask(state, key, num):
            return codes[state.count : state.count + num]

        searcher = searchers.random(space)._replace(ask=ask)
        # Scores -1 and 1 in turn: their median and spread stay, so that the posterior moves with the model alone.
        found = model_search.search_until_settled(
            searchers.Pooled(searcher, still(values), lambda state: np.array([-1.0, 1.0])),
            lambda arch, key: Evaluation(float(arch.sum() % 2) * 2 - 1), key=jax.random.key(0), num_evaluations=12,
            criterion=model_search.Criterion(0.1, patience), answers=np.array([[1, 0, 0, 0, 0]], np.int32),
        )  # fmt: skip
        assert found.converged == (len(found.scores) < 12)
        return len(found.scores)

    # Looked at from the second observation on; a first comparison is possible at the third.
    assert stops_after([0.0] * 12, 1) == 3
    assert stops_after([0.0] * 12, 3) == 5
    assert stops_after([0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1], 3) == 8  # still at 3 and 4, moved at 5, still at 6, 7, 8
    assert stops_after([0.05 * n for n in range(12)], 2) == 4  # slower than the tolerance
    assert stops_after([0.2 * n for n in range(12)], 1) == 12  # never


def test_what_looks_on_sees_every_trial_once_of_the_whole_budget():
    def go_on(budget, hook=None):
        model_search.search_until_settled(
            searchers.Pooled(searchers.random(space), still([0.0])), lambda arch, key: Evaluation(float(arch.sum())),
            key=jax.random.key(0), num_evaluations=budget, criterion=model_search.Criterion(0.1, 9), study=kept,
            hook=hook,
        )  # fmt: skip

    space, kept, seen = chain(("skip_connect", "conv_1x1"), 5), study.open_study(), []
    go_on(2)
    go_on(5, seen.append)
    assert [[trial.number for trial in progress.new] for progress in seen] == [[2], [3], [4]]
    assert [(len(progress.trials), progress.num_evaluations) for progress in seen] == [(3, 5), (4, 5), (5, 5)]


def test_clipped_targets_are_in_units_of_the_scores():
    values = np.array([10.0, 91.0, 92.0, 93.0, 95.0])
    centre, scale = incumbent.centre_and_scale(values)
    np.testing.assert_allclose(incumbent.clipped(values)[1:] * scale + centre, values[1:])
    assert incumbent.clipped(values)[0] == -3
    assert incumbent.centre_and_scale(np.array([1.0, 1.0, 1.0, 5.0])) == (1.0, np.std([1, 1, 1, 5]))
    assert incumbent.centre_and_scale(np.array([2.0])) == (2.0, 1.0)


def test_the_model_of_networks_predicts_a_linear_space_from_few_networks(standard_promotion):
    """Scores linear in the descriptor: networks of five spaces say what the others are worth, whatever was drawn."""
    descriptor = descriptors.describe(FAMILY)
    weights = np.random.default_rng(0).normal(size=len(descriptor.names))
    codes = np.arange(22, dtype=np.int32)[:, None]
    truth = descriptor.of(codes) @ weights

    def evidence(code):
        strategy, space = FAMILY.member(code)
        drawn = [networks.fix(space, arch) for arch in draw(space, jax.random.key(int(code[0])), 4)]
        rows = np.stack([descriptor.of_space(Member(strategy, network)) for network in drawn])
        return rows, rows @ weights

    kernel = searchers.descriptors.of_descriptors(descriptor.groups)
    made = searchers.pooled(
        FAMILY, kernel=kernel, features=descriptor.of, evidence=evidence, transform=incumbent.clipped,
        num_initial=5, num_candidates=32,
    )  # fmt: skip
    known = codes[[0, 5, 10, 15, 20, 21]]
    state = made.searcher.tell(made.searcher.init(), known, truth[known[:, 0]])
    fitted = made.model.fit(state, jax.random.key(0))
    mean, _ = made.model.predict(state, fitted.hyper, codes)
    centre, scale = incumbent.centre_and_scale(made.values(state))
    assert np.corrcoef(centre + scale * np.asarray(mean), truth)[0, 1] > 0.99
    asked = made.searcher.ask(state, jax.random.key(1), 1)
    assert asked.shape == (1, 1)
    assert asked[0, 0] not in known

    without = made.searcher.tell(state, codes[[1]], np.array([-7.0]))  # of which no network was judged
    nothing = lambda code: evidence(code) if code[0] != 1 else (np.zeros((0, len(weights))), np.zeros(0))
    values = searchers.pooled(
        FAMILY, kernel=kernel, features=descriptor.of, evidence=nothing, transform=incumbent.clipped
    ).values  # fmt: skip
    np.testing.assert_array_equal(values(without), [*made.values(state), -7.0])


def test_information_asks_for_what_tells_most(standard_promotion):
    """Among equals in one cluster and one far away, the cluster's member tells about the others."""
    kernel = searchers.kernels.rbf(1)
    points = np.array([[0.0], [0.1], [-0.1], [9.0], [0.0]], np.float32)
    hyper = searchers.gp.regression.Hyperparameters(np.float32(0), np.float32(-4), np.zeros(2, np.float32))
    data = searchers.gp.regression.Data(points[:1], np.zeros(1, np.float32), np.zeros(1, bool))
    allowed = np.array([True, True, True, True, False])
    chosen = searchers.by_information(kernel, hyper, data, np.zeros(1, bool), points, allowed, 1)
    assert int(chosen[0]) == 0
    allowed = np.array([False, False, False, True, False])  # of the padding and of what was told nothing is chosen
    chosen = searchers.by_information(kernel, hyper, data, np.ones(1, bool), points, allowed, 1)
    assert int(chosen[0]) == 3


def test_draws_are_different_and_connected():
    space = spaces.branched(("none", "skip_connect"), 1)  # one of two networks is connected
    assert draw(space, jax.random.key(0), 5).tolist() == [[1]]
    assert len(np.unique(draw(chain(tuple(WORTH), 2), jax.random.key(0), 16), axis=0)) == 16
    few = draw(chain(tuple(WORTH), 2), jax.random.key(0), 16, lambda space, arch: arch.sum() < 2)
    assert sorted(few.tolist()) == [[0, 0], [0, 1], [1, 0]]
    assert draw(chain(tuple(WORTH), 6), jax.random.key(0), 2, lambda space, arch: False).shape == (0, 6)
    with pytest.raises(ValueError, match="no connected network"):
        draw(spaces.branched(("none",), 1), jax.random.key(0), 1)


def test_what_was_judged_is_kept_whatever_tore_the_file(tmp_path):
    space, path = chain(("skip_connect", "conv_3x3"), 1), tmp_path / "evaluations.jsonl"
    kept = Kept(path, worth)
    assert kept(space, [1]) == 1.0
    with path.open("a") as file:
        file.write('{"genotype": "chain:skip')
    again = Kept(path, lambda space, arch: Evaluation(0.25))
    assert again(space, [1]) == 1.0
    assert again(space, [0]) == 0.25
    assert set(Kept(path, worth).rows) == {"chain:conv_3x3", "chain:skip_connect"}


def test_the_command_line_knows_chains(capsys):
    assert main.main(["spaces", "chain-2:skip_connect,conv_3x3-dw"]) == 0
    assert "4 chains of 2 layers" in capsys.readouterr().out
    assert main.main(["spaces", "chain-2:conv"]) == 2
    assert "'conv' is no layer" in capsys.readouterr().err
    assert main.main(["train", "chain:conv_1x1+skip_connect", "--show"]) == 0
    assert "space: chain:conv_1x1+skip_connect" in capsys.readouterr().out
    assert main.main(["search", "space-search", "outer.budget=7", "--show"]) == 0
    assert "budget: 7" in capsys.readouterr().out


OWN = """
from jnas import spaces
from jnas.spaces.chain import chain

def several():
    return [chain(("skip_connect", "conv_3x3"), 7), spaces.nasbench201()]

ONE = several()[0]
STRANGE = [spaces.extend(spaces.nasbench201(), spaces.Operator("mine", lambda channels, stride: None))]
FIXED = [chain(("skip_connect",), 3), ONE]
"""


def test_a_user_gives_spaces_of_a_file_and_no_file_names_them(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    given = own_parts.typed({"space": f"{tmp_path}/mine.py:several"})["space"]
    family, wanted = family_of(Strategies(), given), (chain(("skip_connect", "conv_3x3"), 7), spaces.nasbench201())
    assert list(family.members()) == [Member("own", space) for space in wanted]
    assert own_parts.space_of(config.build(SpaceSearch, {"space": given})) is None
    assert given.startswith("mine.py:several@sha256:")
    values = own_parts.typed({"space": list(wanted)})["space"]
    assert list(family_of(Strategies(), values).members()) == list(family.members())
    for name in (str(given), "mine.py:several"):  # as a run folder or a YAML file has it
        with pytest.raises(UserError, match="a Python file is run only where you name it"):
            family_of(Strategies(), name)
    with pytest.raises(UserError, match="is several spaces: search them with jnas search space-search"):
        networks.network_space(given)
    for part, said in (("ONE", "is one space: give a list"), ("STRANGE", "not found by its name")):
        with pytest.raises(UserError, match=said):
            family_of(Strategies(), own_parts.typed({"space": f"{tmp_path}/mine.py:{part}"})["space"])
    with pytest.raises(ValueError, match="with a choice in it"):
        family_of(Strategies(), own_parts.typed({"space": f"{tmp_path}/mine.py:FIXED"})["space"])


@pytest.mark.parametrize(
    ("names", "words"),
    [("layers", "unknown"), (f"{__name__}:settings", "is unknown: choose among .*, or give space=FILE.py:NAME")],
)
def test_bad_strategies_are_refused(names, words):
    with pytest.raises((ValueError, TypeError), match=words):
        family_of(Strategies(names=names))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"outer": {"initial": 9, "budget": 8}}, "initial is 9"),
        ({"summary": "quantile"}, "evidence=summaries"),
        ({"samples": 0}, "samples is 0"),
        ({"costs": {"size": 1.0}}, "'size' is no cost: choose among parameters"),
        ({"limits": {"size": 1.0}}, "'size' is no cost"),
        ({"limits": {"latency": 0.0}}, "limits is 0.0: give a positive number"),
        ({"outer": {"acquisition": "luck"}}, "improvement"),
    ],
)
def test_bad_settings_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        config.build(SpaceSearch, changes)


def test_a_plan_refuses_what_would_fail_hours_later(images):
    def plan(**changes):
        training = {"batch_size": 40, "channels": 4}
        base = {"data": str(images), "train_images": 80, "validation": 40, "judge": training, "train": training}
        return generated.plan(config.build(SpaceSearch, base, changes))

    assert plan().family.name == "generated"
    with pytest.raises(ValueError, match="are 160 together"):
        plan(train_images=120)
    with pytest.raises(ValueError, match="groups do not divide"):
        plan(strategies={"names": "convolutions", "groups": [[1, 3]]})
    with pytest.raises(ValueError, match="one space"):
        plan(strategies={"names": "layer_types", "types": "skip_connect conv_3x3"})
    with pytest.raises(ValueError, match="batch"):
        plan(judge={"batch_size": 81})


@pytest.mark.slow
def test_the_command_searches_trains_reports_and_puts_its_network_to_work(images, photos, command, tmp_path, capsys):
    tiny = (
        f"data={images}", "strategies.names=layer_types_and_depth", "strategies.depths=[1]", "samples=1",
        "strategies.types=skip_connect nor_conv_1x1 conv_1x1", "train_images=40", "validation=40", "outer.initial=2",
        "outer.budget=2", "inner.initial=2", "inner.budget=2", "random_cells=0", "judge.channels=2", "judge.epochs=1",
        "judge.batch_size=40", "train.channels=2", "train.epochs=1", "train.batch_size=40",
    )  # fmt: skip
    done = command("search", "space-search", *tiny, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    for level in ("spaces", "networks"):
        lines = [line for line in done.stderr.splitlines() if line.startswith(f"{level}, at most")]
        assert [line.split()[3] for line in lines] == ["compiling", "1/2", "2/2"]
        assert lines[-1].endswith("0:00:00 left")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["found"]["space"] == result["space"]
    assert result["genotype"].startswith("chain:")
    assert "Spaces tried" in (tmp_path / "run" / "report.html").read_text()
    measured = models.measure(tmp_path / "run" / "train" / "found", load(str(images)).test)
    assert measured["accuracy"] == result["found"]["test_accuracy"]

    small = ("channels=2", "stem=small_image", "train.epochs=1", "train.batch_size=4")
    detect = ("height=16", "width=24", "strides=[4]", "head_channels=8", "head_depth=1", "augmentation.colour=0")
    tasks = {"recognition": (images, ("dimension=8",), "map_at_r"), "detection": (photos, detect, "coco_ap")}
    for task, (data, own, score) in tasks.items():
        folder = tmp_path / task
        with jax.numpy_dtype_promotion("standard"):  # Adam's bias correction mixes dtypes
            where = ("--task", task, "--data", str(data), "--out", str(folder))
            assert main.main(["train", str(tmp_path / "run"), *where, *small, *own]) == 0
            done = json.loads((folder / "result.json").read_text())
            assert done["genotype"] == result["genotype"]
            capsys.readouterr()
            assert main.main(["evaluate", str(folder)]) == 0
        assert json.loads(capsys.readouterr().out)[score] == pytest.approx(done["found"][score])
