"""What a user types becomes settings: by their schema, in one sentence where it cannot."""

import dataclasses

import pytest

from jnas.errors import UserError
from jnas.recipes import config
from jnas.recipes.gradient.settings import Search
from jnas.recipes.trials.settings import TrialSearch
from jnas.recipes.zoo.settings import Selection


def typed(*words, kind=Search):
    return config.build(kind, config.read_words(words))


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("data=2024", "2024"), ("data=no", "no"), ("data=12:30", "12:30"), ("data=null", "null"), ("data=[a", "[a"),
        ("seed=010", 10), ("seed=4294967295", 2**32 - 1), ("epochs=3", 3), ("damping=1e-3", 1e-3), ("damping=2", 2.0),
        ("image_size=null", None), ("image_size=~", None), ("image_size=", None), ("image_size=32", 32),
        ("fresh_batches=false", False), ("without_none=no", False), ("remat=null", None), ("remat=on", True),
        ("momentum=none", "none"),
    ],
)  # fmt: skip
def test_text_is_read_as_the_setting_asks(word, value):
    found = getattr(typed(word), word.partition("=")[0])
    assert (found, type(found)) == (value, type(value))


def test_lists_and_tables_are_read_too():
    assert typed("num_runs=2", "each.alpha.learning_rate=[1e-3, 2]").each == {"alpha.learning_rate": [1e-3, 2.0]}
    assert typed("costs={parameters: 1, flops: 0.5}", kind=TrialSearch).costs == {"parameters": 1.0, "flops": 0.5}
    assert typed("beside=[flops]", kind=TrialSearch).beside == ["flops"]
    assert typed("data=a", "frozen=[0, 0.5]", kind=Selection).frozen == (0.0, 0.5)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("damping=nan", "damping is nan: give a finite number"),
        ("weights.learning_rate=nan", "weights.learning_rate is nan: give a finite number"),
        ("beta_decay=inf", "beta_decay is inf: give a finite number"),
        ("weights.coefficient.power=-inf", "weights.coefficient.power is -inf: give a finite number"),
        ("channels=true", "channels is 'true': give a valid integer"),
        ("epochs=2.5", "epochs is '2.5': give a valid integer"),
        ("seed=2001-99-99", "seed is '2001-99-99': give a valid integer"),
        ("seed=!!int abc", "seed is '!!int abc': give a valid integer"),
        ("seed=4294967296", "seed is 4294967296: give at most 4,294,967,295"),
        ("seed=" + "9" * 5000, "5,002 characters"),
        ("num_runs=1000000000000", "num_runs is 1000000000000: give at most 1,000"),
        ("steps_per_call=0", "steps_per_call is 0: give at least 1"),
        ("train.clip=-1", "train.clip is -1.0: give a positive number"),
        ("train.augmentation.crop=-1", "train.augmentation.crop is -1: give at least 0"),
        ("each.damping=[1", "each.damping is '[1': write it as"),
        ("each.damping=" + "[" * 5000, "write it as"),
        ("fresh_batches=2001-01-01", "fresh_batches is '2001-01-01': give a valid boolean"),
    ],
)
def test_what_cannot_be_meant_is_answered(word, said):
    with pytest.raises(UserError) as caught:
        typed(word)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_a_key_is_found_by_its_last_word():
    for word, said in {
        "learning_rate=3": "did you mean weights.learning_rate or alpha.learning_rate or adjoint.learning_rate or",
        "train.damping=1": "unknown key train.damping: did you mean damping?",
        "weights.learning_rat=1": "did you mean weights.learning_rate?",
        "heavy_balls=1": "the keys are data, image_size",
    }.items():
        with pytest.raises(UserError) as caught:
            typed(word)
        assert said in str(caught.value)


def test_a_value_of_another_type_is_no_number():
    with pytest.raises(UserError, match="channels is True: give a number"):
        config.build(Search, {"channels": True})
    with pytest.raises(UserError, match=r"weights\.warmup is True: give a number"):
        config.build(Search, {"weights": {"warmup": True}})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &a [1, *a]", "is not YAML at line 1, column 11"),
        ("a: &a [x]\nb: &b [*a, *a]\n", "is not YAML at line 2, column 8"),
        ("[" * 3000 + "]" * 3000, "is nested too deeply"),
        ("#" * (2**17 + 1), "is longer than 131,072 characters"),
        ("- 1", "holds a list and not a mapping"),
        ("7", "holds a str and not a mapping"),
        ("a: 'b", "is not YAML"),
    ],
)
def test_a_file_that_is_none_of_settings_is_answered(text, said, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    for read in (config.read_yaml, lambda path: config.kind_of(str(path))):
        with pytest.raises(UserError) as caught:
            read(path)
        assert said in str(caught.value)


def test_files_and_words_mean_the_same(tmp_path):
    path = tmp_path / "mine.yaml"
    text = "kind: search\ndata: 007\nseed: 010\nremat: null\ntrain: {epochs: 2}\n"
    path.write_text(text, encoding="utf-8-sig")
    words = typed("data=007", "seed=010", "remat=null", "train.epochs=2")
    assert config.build(Search, config.read_yaml(path)) == words
    assert dataclasses.asdict(config.build(Search, dataclasses.asdict(words))) == dataclasses.asdict(words)
    for name in config.presets():
        assert config.read_preset(name)
