"""Names of the folders of runs that were given none."""

import dataclasses
import pathlib
import re

import pytest

from jnas.recipes import run_folder
from jnas.recipes.folders import folder_of
from jnas.recipes.gradient.settings import Search
from jnas.recipes.tasks.settings import TrainDetector
from jnas.recipes.train_one import TrainOne
from jnas.recipes.zoo.settings import Selection


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("settings", "words", "name"),
    [
        (Search(), ("search", ""), "runs/search-nasbench201-0"),
        (Search(data="a/mnist.npz", seed=3), ("search", ""), "runs/search-nasbench201-mnist-3"),
        (Search(data="crêpes and more/"), ("search", "neumann"), "runs/search-neumann-nasbench201-cr-pes-and-more-0"),
        (Search(data="tfds:mnist:/x"), ("search", ""), "runs/search-nasbench201-x-0"),
        (Search(data=".."), ("search", ""), "runs/search-nasbench201-unnamed-0"),
        (TrainOne("g", space="chain-6:nor_conv_3x3,skip_connect"), ("train",), None),
        (TrainOne("g", data="n" * 5000, space="s" * 5000), ("train",), None),
        (TrainDetector("g", data="blood cells"), ("detection",), "runs/detection-nasbench201-blood-cells-0"),
        (Selection("mnist.npz"), ("select",), "runs/select-mnist-0"),
    ],
)
def test_a_name_says_what_a_run_is_in_safe_characters(settings, words, name):
    found = folder_of(None, settings, "any", *words).as_posix()
    assert found == name or name is None
    assert re.fullmatch(r"runs/[a-z0-9-]{1,150}", found)


def test_each_configuration_has_a_folder_and_finds_it_again():
    first, second = Search(), Search(epochs=1)
    assert run_folder.begin(folder_of(None, first, "search", "search"), first, "search").name == "search-nasbench201-0"
    assert run_folder.begin(folder_of(None, second, "search", "search"), second, "search").name.endswith("-0-2")
    for settings, name in ((first, "search-nasbench201-0"), (second, "search-nasbench201-0-2")):
        assert folder_of(None, settings, "search", "search").name == name
    third = dataclasses.replace(first, epochs=2)
    assert folder_of(None, third, "search", "search").name == "search-nasbench201-0-3"


def test_a_folder_that_holds_something_else_is_left_alone():
    pathlib.Path("runs/search-nasbench201-0").mkdir(parents=True)
    assert folder_of(None, Search(), "search", "search").name == "search-nasbench201-0"
    pathlib.Path("runs/search-nasbench201-0/notes.txt").write_text("mine", encoding="utf-8")
    assert folder_of(None, Search(), "search", "search").name == "search-nasbench201-0-2"
    assert folder_of("elsewhere", Search(), "search", "search") == pathlib.Path("elsewhere")
