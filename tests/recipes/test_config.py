"""What a user types becomes settings: by their schema, in one sentence where it cannot."""

import dataclasses
import math
import re
import typing

import pytest

from jnas.errors import UserError
from jnas.recipes import config
from jnas.recipes.generated.settings import SpaceSearch
from jnas.recipes.gradient.settings import Search
from jnas.recipes.grouped.settings import GroupedSearch
from jnas.recipes.joint.settings import QuantisedSearch
from jnas.recipes.settings import share
from jnas.recipes.tasks.settings import TrainDetector, TrainEmbedding
from jnas.recipes.train_one import TrainOne
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
        ("num_runs=2\0seed=4294967295", "seed is 4294967295: the last of 2 runs would have one of 2^32 or more"),
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
        typed(*word.split("\0"))
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


def test_a_value_of_another_type_is_no_number_and_a_nul_no_text():
    with pytest.raises(UserError, match="channels is True: give a number"):
        config.build(Search, {"channels": True})
    with pytest.raises(UserError, match=r"weights\.warmup is True: give a number"):
        config.build(Search, {"weights": {"warmup": True}})
    with pytest.raises(UserError, match=r"data holds a NUL \('a.x00b'\): give another one"):
        config.build(Search, {"data": "a\0b"})


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


DEFAULTS = (
    Search(), GroupedSearch(), SpaceSearch(), QuantisedSearch(), TrialSearch(), TrainOne("g"), TrainDetector("g"),
    TrainEmbedding("g"), Selection("d"),
)  # fmt: skip
SIGNED = ("costs", "each", "method_threshold", "operator_threshold", "method_growth", "operator_growth")


def parts(settings):
    """The settings and every group inside them."""
    yield settings
    for value in vars(settings).values():
        if dataclasses.is_dataclass(value):
            yield from parts(value)


@pytest.mark.parametrize("settings", {type(one): one for whole in DEFAULTS for one in parts(whole)}.values(), ids=type)
def test_every_number_has_bounds(settings):
    """What no number may be is refused for each of them, inside lists of lists too, by its name."""
    for name, hint in typing.get_type_hints(type(settings)).items():
        words = re.findall(r"\w+", str(hint))
        if "Literal" in words or not {"int", "float"} & {*words}:
            continue
        for number in (math.nan, math.inf, -math.inf, 1e30, 10**5000, *(() if name in SIGNED else (-1, -1e-9))):
            value = {"damping": number} if "dict" in words else number
            for _ in range(words.count("tuple") + ("list" in words and "dict" not in words)):
                value = (value,)
            with pytest.raises(ValueError, match=rf"^(each: )?({name}|damping) is .*: give [^\n]+$"):
                dataclasses.replace(settings, **{name: value})


def test_lists_of_a_generator_hold_something_and_not_too_much():
    for word in ("kernels=[]", "kernels=[[]]", "depths=[]", "types=", "widths=[[1], []]", f"types={'a ' * 11}"):
        with pytest.raises(UserError, match=rf"strategies.{word.partition('=')[0]} is .*: give 1 to 10 values"):
            typed(f"strategies.{word}", kind=SpaceSearch)
    many = {name: [list(range(1, 11))] for name in ("kernels", "widths", "expansions", "groups", "dilations")}
    assert config.build(SpaceSearch, {"strategies": many}).strategies.depths == (2, 4)
    many["kernels"] *= 2
    with pytest.raises(UserError, match="combine to 200,000 layers: give fewer values"):
        config.build(SpaceSearch, {"strategies": many})


def test_what_is_held_out_has_one_name_and_older_ones_are_read():
    assert typed("inner_fraction=0.7").validation == 0.3
    assert typed("validation_images=100", "examples=7", kind=SpaceSearch).validation == 100
    assert typed("examples=7", kind=SpaceSearch).train_images == 7
    assert typed("validation_images=100", kind=TrialSearch).validation == 100
    for kind in (Search, SpaceSearch, QuantisedSearch, TrialSearch):
        for text in ("0", "1", "1.5", "2.5", "-0.1"):
            with pytest.raises(UserError, match=r"^validation is "):
                typed(f"validation={text}", kind=kind)


@pytest.mark.parametrize(("validation", "total"), [(0.5, 1), (40, 40), (41, 40), (0.01, 40)])
def test_something_is_left_and_something_held_out(validation, total):
    assert share(0.3, 40) == 0.3
    assert share(10, 40) == 0.25
    with pytest.raises(ValueError, match=rf"validation is {validation:g} and the data have {total} training images"):
        share(validation, total)


def test_a_number_of_too_many_digits_is_one_sentence():
    with pytest.raises(UserError, match=r"^channels is '9+\.\.\. \(5,002 characters\): give another value \(unable to"):
        config.build(Search, {"channels": 5000 * "9"})
