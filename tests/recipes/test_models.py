"""Trained networks read back: what does not agree with itself, or with its weights, is said in one sentence."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from tiny import refused

from jnas.errors import UserError
from jnas.recipes import models

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "run-0.5.0"


@pytest.fixture
def run(tmp_path):
    return pathlib.Path(shutil.copytree(GOLDEN, tmp_path / "run"))


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"class_names": ["a", "b"]}, r"field class_names is \['a', 'b'\]; expected 3 entries"),
        ({"class_names": ["a", "b", "a"]}, r"field class_names is \['a', 'b', 'a'\]; expected a name once"),
        ({"mean": [0.1, 0.2]}, r"field mean is \[0.1, 0.2\]; expected 1 entries"),
        ({"task": "recognition"}, "field settings is missing"),
        ({"task": "recognition", "settings": {}}, "field gallery is missing"),
        ({"task": "recognition", "settings": {}, "gallery": 9}, "field settings.data is missing"),
        (
            {"task": "detection", "settings": {"data": "a", "genotype": "g", "most_boxes": 0}},
            "field settings.most_boxes is 0; expected a number of at least 1",
        ),
        ({"task": "poetry"}, "field settings is missing"),
    ],
)
def test_a_network_whose_parts_contradict_each_other_is_refused(run, changes, said):
    edit(run / "train/found/network.json", **changes)
    with pytest.raises(UserError, match=said):
        models.read_facts(run / "train/found")


@pytest.mark.parametrize("name", ["../found", "/etc", "a/b"])
def test_a_result_names_no_folder_outside_of_its_run(run, name):
    found = json.loads((run / "result.json").read_text(encoding="utf-8"))["found"]
    edit(run / "result.json", found=found | {"name": name})
    with pytest.raises(UserError, match=rf"field found\.name is '{name}'; expected the name of a folder in train/"):
        models.network_folder(run)


@pytest.mark.parametrize("change", ["missing", "shape", "dtype", "no array"])
def test_weights_of_other_arrays_are_refused(run, change, monkeypatch):
    path = run / "train/found/weights.npz"
    arrays = dict(np.load(path))
    name = next(one for one in arrays if one != "leaves")
    whole = {one: array for one, array in arrays.items() if one != "leaves"}
    tree: dict = {}
    for one, array in whole.items():
        *keys, last = one.removeprefix("tree['").removesuffix("']").split("']['")
        place = tree
        for key in keys:
            place = place.setdefault(key, {})
        place[last] = array
    assert models.load_tree(path, tree)
    if change == "missing":
        del arrays[name]
    else:
        arrays[name] = {"shape": arrays[name][None], "dtype": arrays[name].astype(float), "no array": np.array(None)}[
            change
        ]
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=r"weights\.npz is damaged or no file of weights"):
        models.load_tree(path, tree)


def test_a_run_that_is_none_is_said_to_be_neither_folder_nor_genotype(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("NORUN", "no/such/run"):
        said = refused(capsys, "train", name)
        assert f"there is no folder '{name}', and it is no genotype: name the folder of a run, or write" in said


def test_a_run_without_a_setting_that_training_takes_over_is_named(run, capsys):
    path = run / "config.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("data: images.npz\n", ""), encoding="utf-8")
    assert "config.yaml: field data is missing; expected the setting of the run" in refused(capsys, "train", run)
