"""The Python surface: what the commands do, and runs as values."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import own_ops
import pytest
from PIL import Image
from tiny import TINY

import jnas
from jnas import exported, spaces
from jnas.cli.main import main
from jnas.data.load import load
from jnas.errors import UserError
from jnas.recipes import commands, run_folder

README = pathlib.Path(__file__).parents[2] / "README.md"
NETWORKS = README.parent / "docs" / "networks.md"


def test_the_package_lists_its_names_before_anything_is_imported():
    code = "import sys, jnas; print(*dir(jnas)); print('jax' in sys.modules)"
    names, imported = subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()
    assert imported == "False"
    assert set(jnas.__all__) <= set(names.split())
    assert all(getattr(jnas, name) is not None for name in names.split())


def test_a_run_is_a_value(finished, images, capsys, tmp_path):
    run, test = jnas.load(finished[0]), load(str(images)).test
    stored = json.loads((finished[0] / "result.json").read_text())
    assert run.genotype == stored["genotype"]
    assert run.metrics["test_accuracy"] == stored["found"]["test_accuracy"]
    assert f"test_accuracy={stored['found']['test_accuracy']:.4f}" in repr(run)
    pixels = test.images.reshape(-1, *test.shape)
    said = run.predict(pixels)["probability"]
    assert (said.argmax(1) == test.labels).mean() == pytest.approx(stored["found"]["test_accuracy"])
    output = run.network.apply(run.weights, np.float32(0.0) + pixels[:2].astype(np.float32), train=False)
    assert output.main.shape == (2, 4)
    with pytest.raises(ValueError, match=r"give uint8 of shape \(batch, 7, 7, 1\)"):
        run.predict(pixels[0])

    run.export(tmp_path / "net.jnas")
    network = exported.load(tmp_path / "net.jnas")
    np.testing.assert_allclose(network(pixels)["probability"], said, atol=1e-6)
    assert repr(network).startswith("ExportedNetwork(task='classification', shape=(7, 7, 1), 4 classes")
    assert max(len(repr(one)) for one in (run, run.model, network)) < 250

    shown = run._repr_html_()
    assert 'data-op="' in shown
    assert shown.count("<img") == 2
    page = run.report()
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert main(["evaluate", str(finished[0])]) == 0
    assert json.loads(capsys.readouterr().out) == jnas.evaluate(run)


def test_what_is_asked_of_an_unfinished_run_says_how_to_go_on(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    (tmp_path / "run/result.json").unlink()
    run = jnas.load(tmp_path / "run")  # its network is trained
    assert repr(run).startswith("Run(")
    sentence = re.escape(f"the run in {tmp_path / 'run'} is not finished: jnas search data=") + ".* goes on with it$"
    for name in ("genotype", "metrics"):
        with pytest.raises(UserError, match=sentence):
            getattr(run, name)
    shutil.rmtree(tmp_path / "run/train")
    with pytest.raises(UserError, match=sentence):
        jnas.load(tmp_path / "run")
    left = commands.Run(tmp_path / "run", {"note": "another process trains what was found"})
    with pytest.raises(UserError, match=sentence):
        _ = left.network


def test_evaluation_asks_for_the_space_that_is_given(finished):
    with pytest.raises(UserError, match="the network is of space 'nasbench201' and not 'darts': give that space"):
        jnas.evaluate(jnas.load(finished[0]), space="darts")


def test_keywords_mean_what_words_mean(finished, images):
    settings = {
        "channels": 2, "depth": 1, "epochs": 2, "batch_size": 10, "random_cells": 1, "augmentation": {"crop": 1},
        "train": {"channels": 2, "depth": 1, "epochs": 2, "batch_size": 20, "augmentation": {"crop": 1}},
    }  # fmt: skip
    asked = commands.asked_search({"data": str(images)}, settings)
    assert asked == commands.asked_search(f"data={images}", *TINY)
    assert jnas.search_architecture(data=str(images), out=finished[0], **settings) == jnas.load(finished[0])
    of_train = commands.asked_training(finished[0], {"seed": 3, "train": {"epochs": 1}})
    assert of_train == commands.asked_training(str(finished[0]), "seed=3", "train.epochs=1")
    assert commands.kind_of("joint", {"seed": 1}) == "quantised"
    with pytest.raises(UserError, match="settings are given as PosixPath: give the name of a preset"):
        commands.asked_search(pathlib.Path("mine.yaml"))  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="split is 'val': give test or train"):
        jnas.evaluate(finished[0], split="val")  # pyright: ignore[reportArgumentType]
    one, other = ({"objective": make} for make in (own_ops.score, own_ops.images))
    assert commands.asked_search("trials", one).settings != commands.asked_search("trials", other).settings
    with pytest.raises(UserError, match="task is 'painting': give classification, detection or recognition"):
        jnas.train_architecture("DARTS_V2", task="painting")  # pyright: ignore[reportArgumentType]


def test_spaces_and_data_may_be_values(tmp_path):
    settings = commands.asked_search({"space": own_ops.SPACE, "data": own_ops.ARRAYS}).settings
    assert settings.space.part is own_ops.SPACE
    assert commands.asked_search({"space": own_ops.WHOLE}).settings.space != settings.space  # of the same name
    assert commands.asked_search({"space": spaces.darts()}).settings.space == "darts"
    np.testing.assert_array_equal(load(settings.data).train.images, own_ops.SPLITS.train.images)
    assert commands.asked_search({"data": tmp_path}).settings.data == str(tmp_path)
    again = commands.asked_search({"space": own_ops.SPACE, "data": own_ops.NAMED}).settings
    other = commands.asked_search({"space": own_ops.SPACE, "data": own_ops.ARRAYS[2:] * 2}).settings
    run_folder.begin(tmp_path / "run", settings, "search")
    assert run_folder.begin(tmp_path / "run", again, "search") == tmp_path / "run"
    with pytest.raises(UserError, match="holds a run with data=data@sha256:"):
        run_folder.begin(tmp_path / "run", other, "search")


def test_the_examples_in_the_readme_and_of_an_exported_file_run(images, monkeypatch, tmp_path, capsys):
    """All of both, with the preset and its epochs, on few small images and with narrow networks."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (example,) = (block for block in blocks if "search_architecture" in block)
    assert len(example.splitlines()) <= 15
    small = {"channels": 2, "depth": 1, "augmentation": {"crop": 1}}
    of_search = small | {"data": str(images), "batch_size": 10, "random_cells": 0}

    def search(*presets, train, **settings):
        train = small | {"batch_size": 20} | train
        return commands.search_architecture(*presets, **of_search | settings, train=train)

    monkeypatch.setattr(jnas, "search_architecture", search, raising=False)
    monkeypatch.chdir(tmp_path)
    test = load(str(images)).test
    names = {"images": test.images.reshape(-1, *test.shape)}
    with jax.numpy_dtype_promotion("standard"):
        exec(compile(example, "README.md", "exec"), names)
    assert exported.load(tmp_path / "cells.jnas")(names["images"])["probability"].shape == (40, 4)
    Image.fromarray(np.arange(30 * 20 * 3, dtype=np.uint8).reshape(30, 20, 3)).save("photo.jpg")
    capsys.readouterr()
    exec(*re.findall(r"```python\n(.*?)```", NETWORKS.read_text(), re.DOTALL), names)
    assert names["probability"].shape == (1, 4)
    assert capsys.readouterr().out.strip() in names["network"].class_names
