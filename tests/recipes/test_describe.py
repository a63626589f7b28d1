"""Settings in words: each has a description, and what is printed is read back as it was."""

import dataclasses
import typing

import pytest
import yaml

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
    assert all(len(words) > 4 and "\n" not in words for words in known.values())


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
