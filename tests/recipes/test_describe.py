"""Settings in words: each has a description, and what is printed is read back as it was."""

import dataclasses
import re
import typing

import pytest
import yaml
from tiny import refused

from jnas.cli.main import main
from jnas.errors import UserError
from jnas.recipes import config, describe
from jnas.recipes.commands import recipe_of
from jnas.recipes.tasks.settings import TrainDetector, TrainEmbedding
from jnas.recipes.train_one import TrainOne
from jnas.recipes.zoo.settings import Selection

KINDS = [recipe_of(kind)[1] for kind in config.KINDS] + [TrainOne, TrainDetector, TrainEmbedding, Selection]


def of_all(kind):
    yield kind
    for hint in typing.get_type_hints(kind).values():
        if dataclasses.is_dataclass(hint):
            yield from of_all(hint)


@pytest.mark.parametrize("kind", dict.fromkeys(part for kind in KINDS for part in of_all(kind)))
def test_every_setting_says_what_it_means(kind):
    known = describe.descriptions(kind)
    assert set(known) == {field.name for field in dataclasses.fields(kind)}
    assert all(len(words) > 4 and "\n" not in words and not words.startswith("null") for words in known.values())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_printed_is_read_back(kind, tmp_path):
    needed = {"genotype": "a # b: [c"} if "genotype" in typing.get_type_hints(kind) else {}
    settings = config.build(kind, needed, {"data": "x"})
    text = describe.as_yaml(settings)
    plain = yaml.safe_load(yaml.safe_dump(dataclasses.asdict(settings)))
    assert yaml.safe_load(text) == plain
    (tmp_path / "mine.yaml").write_text(text)
    assert config.build(kind, config.read_yaml(tmp_path / "mine.yaml")) == settings


def test_choices_headings_and_sentences_above():
    text = describe.as_yaml(config.build(recipe_of("search")[1]))
    assert (
        "\nscheme: simultaneous  # simultaneous | alternating: both levels from one point, or weights first\n" in text
    )
    assert "\nadjoint:  # The third variable of single_loop, its step a share of the largest safe one;" in text
    assert "the supernet" not in describe.descriptions(recipe_of("search")[1])["channels"]  # a heading above it


def of_kind(kind):
    return config.build(kind, {"data": "a", **({"genotype": "a"} if "genotype" in typing.get_type_hints(kind) else {})})


def test_what_is_said_of_a_setting_is_what_is_checked():
    said = {one.name: one for one in describe.explained(of_kind(recipe_of("search")[1]))}
    assert said["train.epochs"] == describe.Setting(
        "train.epochs", "12", "", "whole number", "1 to 100,000 epochs", "passes over the training images"
    )
    assert said["weights.warmup"].bounds == "at least 0, below 1"
    assert said["scheme"].choices == "simultaneous | alternating"
    assert (said["neumann_step"].kind, said["neumann_step"].bounds) == ("number or null", "above 0")
    for name, sentence in {"train.epochs=100001": "at most 100,000", "weights.warmup=1": "below 1"}.items():
        with pytest.raises(UserError, match=sentence):
            config.build(recipe_of("search")[1], config.read_words([name]))
    rows = {one.name: one.bounds for one in describe.explained(of_kind(recipe_of("trials")[1]))}
    assert rows["lease_seconds"] == "above 0 s"  # a bound of its own
    every = {one.name.rpartition(".")[2] for kind in KINDS for one in describe.explained(of_kind(kind))}
    assert set(describe.UNITS) <= every


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_has_a_row_for_each_setting(kind):
    head, line, *rows = describe.as_markdown(of_kind(kind)).splitlines()
    assert head == "| setting | default | values | meaning |"
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in (head, line, *rows)} == {5}
    names = [row.split(" | ")[0].removeprefix("| ") for row in rows]
    assert names == [one.name for one in describe.explained(of_kind(kind))]


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["search", "--help", "weights.learning_rate"], ["weights.learning_rate = 0.1", "    number, at least 0"]),
        (["search", "joint", "-h", "reward.size"], ["reward.size = 0.07", "    number, 0 to 100"]),
        (["search", "-h", "joint"], ["usage: jnas search ", "searcher: front  # reinforce | genetic "]),
        (["search", "seed=7", "--help"], ["  --storage URL ", "seed: 7  # of every random draw"]),
        (["search", "trials", "--help", "limits.latency"], ["limits = {}", "    table, above 0"]),
        (["search", "--help", "weights.coefficient"], ["weights.coefficient.floor = 0.0"]),
        (["train", "--help", "train.epochs"], ["    whole number, 1 to 100,000 epochs"]),
        (["train", "--task", "detection", "--help", "most_overlap"], ["    of two boxes of one class"]),
    ],
)
def test_the_command_says_what_a_setting_means(words, lines, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    out = capsys.readouterr().out
    assert stop.value.code == 0
    for line in lines:
        assert any(one.startswith(line) for one in out.splitlines()), out


def test_a_setting_that_is_not_there(capsys):
    assert "did you mean train.epochs?" in refused(capsys, "search", "--help", "train.epoch")
    assert "did you mean reward.size?" in refused(capsys, "search", "joint", "--help", "size")
    assert "is no preset" in refused(capsys, "search", "nowhere", "--help")
