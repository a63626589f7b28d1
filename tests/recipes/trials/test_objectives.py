"""What architectures are worth, on a space of two operators and images of 8 x 8 pixels."""

import dataclasses
import functools
import gzip
import itertools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnas import data, nets, spaces
from jnas.errors import UserError
from jnas.files.locks import exclusive
from jnas.nets.stacking import per_edge
from jnas.recipes import trainer
from jnas.recipes.classification import accuracy, cross_entropy
from jnas.recipes.settings import Augmentation, Training
from jnas.recipes.trials import objectives, truth_table
from jnas.searchers.base import Evaluation
from jnas.study import Progress, Trial
from jnas.train import fit
from jnas.train.hooks import Hook

OPS = ("skip_connect", "nor_conv_1x1")
SPACE = spaces.CellSpace("tiny", ("normal", "reduce"), 2, 1, OPS, ((OPS, OPS),) * 2, None, "concat")  # "reduce" is used
SKIP, CONVOLUTION = np.array([0, 0, 0, 0], np.int32), np.array([0, 0, 1, 1], np.int32)
TRAINING = Training(channels=2, depth=1, epochs=8, batch_size=8, augmentation=Augmentation(crop=0, flip=False))
KEY = jax.random.key(0)


def dataset(seed, count=16):
    """Images of two classes, darker above or darker below."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int32) % 2
    halves = np.where((labels[:, None] == 0) == (np.arange(64) < 32)[None], 60, 190)
    return data.Dataset((halves + rng.integers(-50, 50, (count, 64))).astype(np.uint8), labels, (8, 8, 1), 2)


TRAIN, VALIDATION = dataset(0), dataset(1, 12)


@pytest.fixture(scope="module")
def trained():
    with jax.numpy_dtype_promotion("standard"):
        yield objectives.short_training(SPACE, TRAIN, VALIDATION, TRAINING)


def test_a_short_training_learns_and_repeats_itself(trained):
    first = trained(CONVOLUTION, KEY)
    assert first.metrics["accuracy"] > 0.8  # 0.5 by chance
    assert first.score == np.exp(-first.metrics["loss"])
    assert first == trained(CONVOLUTION, KEY)
    assert first.metrics["loss"] != trained(CONVOLUTION, jax.random.key(1)).metrics["loss"]


def curve(job):
    """The loss of every step, and what they end with."""
    losses = []
    hook = Hook(steps=lambda event: losses.extend(event.metrics["loss"]))
    state = fit(job.learner, job.source, key=KEY, num_steps=job.num_steps, hooks=[hook])
    return losses, {"params": job.tree(state.point.weights), "batch_stats": state.variables}


def cut(own, tree):
    """Of a supernet's variables, named edge by edge, those that a found network has."""
    return {name: cut(value, tree[name]) for name, value in own.items()} if isinstance(own, dict) else tree


def test_one_program_trains_each_cell_as_its_own_would(monkeypatch):
    """Losses, statistics and logits after the same steps from the same weights, without and with an edge left out."""
    ops = ("none", "skip_connect", "nor_conv_3x3", "avg_pool_3x3")
    space = spaces.CellSpace("small", ("cell",), 1, 2, ops, ((ops,) * 3,), None, "last")
    training = dataclasses.replace(TRAINING, epochs=3)
    initialise, pixels = nets.initialise, jnp.asarray(VALIDATION.images.reshape(-1, 8, 8, 1), jnp.float32) / 255
    supernet, augment = objectives._supernet(space, TRAIN, training, affine=True)
    job = objectives._job(supernet, TRAIN, training, augment)
    for code in ((2, 3, 1), (1, 0, 2), (0, 2, 0)):
        mix = spaces.one_hot_alpha(space, jnp.array(code))
        given = job.source._replace(arrays=(job.source.arrays[0], mix))
        with jax.numpy_dtype_promotion("standard"):
            losses, together = curve(job._replace(source=given))
        net = objectives._network(spaces.fix(space, np.array(code)), TRAIN, training)
        own = dict(zip(("params", "batch_stats"), initialise(net, KEY, TRAIN.shape), strict=True))
        start = lambda net, key, shape, own=own: tuple(
            cut(own[name], per_edge(supernet, part))
            for name, part in zip(own, initialise(supernet, key, shape), strict=True)
        )
        with monkeypatch.context() as patch, jax.numpy_dtype_promotion("standard"):
            patch.setattr(nets, "initialise", start)
            alone_losses, alone = curve(objectives._job(net, TRAIN, training, augment))
        np.testing.assert_allclose(losses, alone_losses, rtol=1e-5)
        kept = {name: cut(own[name], per_edge(supernet, together[name])) for name in own}
        close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
        jax.tree.map(close, kept, alone)
        close(supernet.apply(together, pixels, mix, train=False).main, net.apply(alone, pixels, train=False).main)
    assert min(losses) < losses[0]


def test_by_itself_a_cell_scores_what_one_program_finds(trained):
    alone = objectives.own_training(SPACE, TRAIN, VALIDATION, TRAINING, by="accuracy")(CONVOLUTION, KEY)
    assert alone.score == alone.metrics["accuracy"] == trained(CONVOLUTION, KEY).metrics["accuracy"] > 0.8
    params, _ = nets.initialise(objectives._network(spaces.fix(SPACE, CONVOLUTION), TRAIN, TRAINING), KEY, TRAIN.shape)
    assert alone.metrics["parameters"] == nets.count_parameters(params)


def test_a_promoted_architecture_goes_on_and_one_without_checkpoint_catches_up(tmp_path):
    """To the same bits, whoever trained before and where; one program for all rungs."""
    made = lambda name: objectives.short_training(
        SPACE, TRAIN, VALIDATION, TRAINING, objectives.Rungs((1, 3, 6), KEY, tmp_path / name)
    )
    with jax.numpy_dtype_promotion("standard"):
        whole, late = made("whole"), made("late")
        at = lambda objective, rung, arch=CONVOLUTION: objective(np.append(arch, np.int32(rung)), jax.random.key(rung))
        first = [at(whole, rung) for rung in range(3)]
        assert at(whole, 0, SKIP) != first[0]
        assert at(late, 2) == first[2]
        assert at(whole, 0) == first[0]  # asked again, and not the weights of a later rung
        assert at(whole, 2) == first[2]
    assert [evaluation.metrics["epochs"] for evaluation in first] == [1, 3, 6]
    assert first[0].metrics["loss"] > first[2].metrics["loss"]
    assert sorted(path.name for path in (tmp_path / "whole").glob("[0-9]*")) == ["0-0-0-0", "0-0-1-1"]


def test_checkpoints_that_no_rung_needs_are_removed(tmp_path):
    """Of at most 9 architectures 3 may be promoted, and of those 1; what is trained just now is left."""
    rungs = objectives.Rungs((1, 3, 9), KEY, tmp_path)
    clear = objectives.clearing(rungs, eta=3, num_evaluations=9)
    trials = []

    def told(*rows):
        for arch, rung, score in rows:
            (tmp_path / str(arch) / "8").mkdir(parents=True, exist_ok=True)
            trials.append(Trial(len(trials), np.array([arch, rung], np.int32), (score,), {}, 0.0))
        clear(Progress(tuple(trials), (), 0, 9))
        return {path.name for path in tmp_path.glob("[0-9]*")}

    assert told((0, 0, 0.5), (1, 0, 0.4), (2, 0, 0.3)) == {"0", "1", "2"}
    assert told((3, 0, 0.35), (0, 1, 0.2)) == {"0", "1", "3"}  # 2 is behind three others
    with exclusive(tmp_path / ".3"):
        assert told((4, 0, 0.6)) == {"0", "1", "3", "4"}
    assert told((4, 1, 0.7)) == {"1", "4"}  # 0 is behind one
    assert told((4, 2, 0.1)) == {"1"}
    (tmp_path / "6").mkdir()  # of a trial that failed
    assert told() == {"1", "6"}
    assert told((5, 0, 0.1)) == set()  # all are evaluated


def test_every_rung_begins_with_the_whole_learning_rate_and_ends_without():
    training = dataclasses.replace(TRAINING, heavy_ball=0.0, weight_decay=0.0, clip=None)
    optimiser, rates = trainer.sgd_of(training, 2, 4), []
    state = optimiser.init(jnp.zeros(()))
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(7):
            update, state = optimiser.update(jnp.ones(()), state, jnp.zeros(()))
            rates.append(-float(update))
    shares = np.array([0, 1 / 2, 0, 1 / 4, 1 / 2, 3 / 4, 1])  # of the way down
    halfway = training.learning_rate * (1 + np.cos(np.pi * shares)) / 2
    np.testing.assert_allclose(rates, halfway, atol=1e-7)


def test_shared_weights_are_those_of_the_supernet():
    with jax.numpy_dtype_promotion("standard"):
        supernet = objectives.train_supernet(SPACE, TRAIN, TRAINING, key=KEY)
    objective = objectives.shared_weights(supernet, VALIDATION, batch_size=6)
    found = [objective(code, KEY) for code in (SKIP, CONVOLUTION)]
    pixels = jnp.asarray(VALIDATION.images.reshape(-1, 8, 8, 1), jnp.float32) / 255
    mean, std = np.float32(supernet.augment.mean), np.float32(supernet.augment.std)
    for code, evaluation in enumerate(found):
        mix = dict.fromkeys(SPACE.cells, jnp.stack([jnp.eye(2)[code]] * 2))
        expected = []
        for part in (slice(0, 6), slice(6, 12)):
            logits, _ = supernet.net.apply(
                {"params": supernet.weights, "batch_stats": supernet.variables},
                (pixels[part] - mean[None, None, None]) / std[None, None, None], mix, train=True,
                mutable=["batch_stats"], rngs={"drop_path": KEY},
            )  # fmt: skip
            labels = jnp.asarray(VALIDATION.labels[part])
            expected.append((accuracy(logits.main, labels), cross_entropy(logits.main, labels)))
        np.testing.assert_allclose(
            [evaluation.metrics["accuracy"], evaluation.metrics["loss"]],
            np.mean(expected, axis=0),
            rtol=2e-4,
            atol=1e-6,
        )
    assert found[0].metrics["loss"] != found[1].metrics["loss"]
    with pytest.raises(ValueError, match="1 images"):
        objectives.shared_weights(supernet, VALIDATION.part(np.arange(1)))


class TestTable:
    def test_every_line_is_found(self, tmp_path):
        space = spaces.nasbench201()
        codes = np.array(list(itertools.product((0, 3), repeat=6)), np.int32)
        path = tmp_path / "table.csv.gz"
        with gzip.open(path, "wt") as file:
            file.write("architecture,at 12,score,note\n")
            for n, code in enumerate(codes):
                file.write(f"{spaces.to_string(space, code)},{n},{n / 2},none\n")
        objective = truth_table.table(path, space)
        assert [objective(code, KEY) for code in codes] == [
            Evaluation(n / 2, {"at 12": n, "score": n / 2}) for n in range(len(codes))
        ]
        assert truth_table.table(path, space, column="at 12")(codes[7], KEY).score == 7
        with pytest.raises(UserError, match="no line for"):  # no trial to retry
            objective(np.full(6, 1, np.int32), KEY)

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("name,score\n", "has no column 'architecture': it has name, score"),
            ("", "has no column 'architecture': it has none"),
            ("architecture,score\n|,1\n", "line 2 of .* cannot be used"),
            ("architecture,score\n|skip_connect~0|,good\n", "line 2 of .* cannot be used: score is good"),
            ("architecture,score\n|skip_connect~0|,1\n|skip_connect~0|,2\n", "line 3 of .* again"),
            ("architecture,score\n|skip_connect~0|,1,2\n", "line 2 of .* more or fewer fields"),
            ("score,architecture\n1\n", "line 2 of .* more or fewer fields"),
            ("architecture,score\n|skip_connect~0|,1e400\n", "line 2 of .* cannot be used: score is 1e400"),
            ("architecture,score,score\n|skip_connect~0|,1,2\n", "two columns 'score': leave one of them out"),
            ("architecture,score\n|skip_connect~0|,nan\n", "line 2 of .* cannot be used: score is nan"),
        ],
    )
    def test_a_file_that_is_no_table_is_one_sentence(self, text, sentence, tmp_path):
        path = tmp_path / "table.csv"
        path.write_text(text)
        space = spaces.CellSpace("edge", ("cell",), 1, 1, OPS, ((OPS,),), None, "last")
        with pytest.raises(UserError, match=sentence):
            truth_table.table(path, space)

    def test_a_pipe_is_no_table(self, tmp_path):
        os.mkfifo(tmp_path / "table.csv")
        with pytest.raises(UserError, match="is no file: move it away, or name another"):
            truth_table.table(tmp_path / "table.csv", spaces.nasbench201())

    def test_a_table_that_a_spreadsheet_wrote_begins_with_a_mark(self, tmp_path):
        space = spaces.CellSpace("edge", ("cell",), 1, 1, OPS, ((OPS,),), None, "last")
        (tmp_path / "table.csv").write_text("architecture,score\n|skip_connect~0|,2\n", encoding="utf-8-sig")
        code = spaces.from_string(space, "|skip_connect~0|")
        assert truth_table.table(tmp_path / "table.csv", space)(np.asarray(code), KEY).score == 2

    def test_a_file_that_is_cut_off_or_no_text(self, tmp_path):
        space = spaces.CellSpace("edge", ("cell",), 1, 1, OPS, ((OPS,),), None, "last")
        whole = gzip.compress(b"architecture,score\n" + b"\n" * 99999)
        for name, content in {"cut.csv.gz": whole[:-20], "latin.csv": b"architecture,score\n\xe9,1\n"}.items():
            (tmp_path / name).write_bytes(content)
            with pytest.raises(UserError, match=rf"{name} cannot be read as CSV"):
                truth_table.table(tmp_path / name, space)

    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(UserError, match=r"cannot read .*none\.csv: No such file"):
            truth_table.table(tmp_path / "none.csv", SPACE)


class TestCosts:
    def test_weighted_costs_are_taken_off(self):
        plain = lambda code, key: Evaluation(10.0, {"a": 1})
        costs = {"size": (lambda code: float(code.sum()), 2.0), "time": (lambda code: 0.5, 4.0)}
        found = objectives.minus(plain, costs)(np.array([1, 2]), KEY)
        assert found == Evaluation(10.0 - 2 * 3 - 4 * 0.5, {"a": 1, "score": 10.0, "size": 3.0, "time": 0.5})

    def test_costs_stand_beside_the_score(self):
        plain = lambda code, key: Evaluation(10.0)
        found = objectives.beside(plain, {"size": lambda code: float(code.sum())})(np.array([1, 2]), KEY)
        assert found.score == (10.0, 3.0)
