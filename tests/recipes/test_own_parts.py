"""Spaces, data and objectives of a user's own file, from the command line: run where it is typed, and nowhere else."""

import json
import pathlib
import shutil
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image
from tiny import accepted, refused

import jnas
from jnas import exported
from jnas.cli.main import main
from jnas.data.load import load
from jnas.errors import UserError
from jnas.files import own
from jnas.recipes import config, own_parts
from jnas.recipes.gradient.settings import Search
from jnas.recipes.joint import recipe as joint
from jnas.recipes.zoo.settings import Selection
from jnas.report import next_steps, read_run

OPS = pathlib.Path(__file__).parents[1] / "helpers" / "own_ops.py"
TINY = (
    "channels=2", "steps=4", "batch_size=20", "random_cells=0", "augmentation.crop=1", "checkpoint_every=1",
    "estimator=first_order", "train.channels=2", "train.epochs=1", "train.batch_size=40", "train.augmentation.crop=1",
)  # fmt: skip
MINE = """
import numpy as np

from jnas.data import Dataset, Splits


def half(shape=(7, 7, 1), labels=(0, 1, 2, 3), classes=4, names=()):
    images = np.zeros((4, int(np.prod(shape))), np.uint8)
    return Dataset(images, np.array(labels, np.int32), shape, classes, "mine", names)


TUPLES = Splits(("images", "labels"), ("images", "labels"))
SIDES = Splits(half(), half((8, 8, 1)))
ABSENT = Splits(half(labels=(0, 1, 3, 3)), half())
CLASSES = Splits(half(), half(classes=5))
NAMES = Splits(half(names=("a", "b", "c")), half())
OUTSIDE = Splits(half(), half())
OUTSIDE.test.labels[0] = 9
RAGGED = [[[0, 1], [0]]], [0], [[[0, 1], [0, 1]]], [0]
WHOLE = [[[0, 1], [0, 1]]], [0], [[[0, 1], [0, 1]]], [0]
"""
ASKED = "and a Python file is run only where you name it: give "


def run(*words):
    with jax.numpy_dtype_promotion("standard"):
        return main([str(word) for word in words])


def forget():
    """As a new process, this one has run no file."""
    for name in [name for name in sys.modules if name.startswith("_jnas_own_")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """The folder with the user's file, and in it a finished run."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copy(OPS, folder / "ops.py")
    assert (
        run("search", f"space={folder}/ops.py:SPACE", f"data={folder}/ops.py:images", *TINY, "--out", folder / "run")
        == 0
    )
    return folder


def test_name_and_digest_stand_in_the_settings_and_the_cell_is_drawn(searched):
    digest = subprocess.check_output(["sha256sum", searched / "ops.py"], text=True).split()[0]
    text = (searched / "run/config.yaml").read_text()
    assert f"\nspace: ops.py:SPACE@sha256:{digest}\n" in text
    assert f"\ndata: ops.py:images@sha256:{digest}\n" in text
    assert str(searched) not in text
    assert "squeeze_excite~0" in json.loads((searched / "run/result.json").read_text())["genotype"]
    page = (searched / "run/report.html").read_text()
    assert 'data-op="squeeze_excite"' in page
    assert f"ops.py:SPACE@{digest[:8]}" in page


def test_its_settings_are_shown(searched, capsys):
    assert run("search", f"space={searched}/ops.py:SPACE", *TINY, "--show") == 0
    assert "space: ops.py:SPACE@sha256:" in capsys.readouterr().out


def test_it_is_evaluated_trained_asked_and_exported(searched, capsys, tmp_path):
    space, data = f"{searched}/ops.py:SPACE", f"{searched}/ops.py:images"
    stored = json.loads((searched / "run/result.json").read_text())["found"]
    assert run("evaluate", searched / "run", "--space", space, "--data", data) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == stored["test_accuracy"]
    assert run("train", searched / "run", f"space={space}", f"data={data}", "--out", tmp_path / "again") == 0
    again = json.loads((tmp_path / "again/result.json").read_text())
    assert again["found"]["test_accuracy"] == stored["test_accuracy"]
    capsys.readouterr()

    image = own.read(data).part()[2][0]
    Image.fromarray(image).save(tmp_path / "image.png")
    assert run("predict", searched / "run", tmp_path / "image.png", "--space", space) == 0
    said = json.loads(capsys.readouterr().out)
    assert run("export", searched / "run", "--out", tmp_path / "net.jnas", "--space", space) == 0
    forget()
    answer = exported.load(tmp_path / "net.jnas")(image[None, :, :, None])["probability"][0]
    assert not [name for name in sys.modules if name.startswith("_jnas_own_")]
    np.testing.assert_allclose(answer.max(), said["probability"], atol=1e-5)
    assert str(answer.argmax()) == said["class"]


def test_a_joint_search_over_built_in_operators_is_evaluated_and_exported(tmp_path, capsys, monkeypatch):
    """What is found is trained; only the scores of candidates, which are no part of it, are made up."""
    score = lambda *_, **__: lambda archs, columns: np.mean(archs, axis=1)
    monkeypatch.setattr(joint, "supernet", lambda *_: score)
    monkeypatch.chdir(tmp_path)
    shutil.copy(OPS, "ops.py")
    words = (
        "operators=", "methods=w5a8", "units=shared", "searcher=random", "beside=[]", "num_evaluations=2",
        "networks=1", "compare=false", "supernet.channels=2", "supernet.depth=1", "train.channels=2", "train.depth=1",
        "train.epochs=6", "train.batch_size=20", "train.learning_rate=0.1", "train.augmentation.crop=0",
    )  # fmt: skip
    assert run("search", "joint", "space=ops.py:BUILT_IN", "data=ops.py:images", *words, "--out", "run") == 0
    stored = json.loads(pathlib.Path("run/result.json").read_text())
    assert stored["space"].startswith("ops.py:BUILT_IN@sha256:")
    assert set(stored["found"]["policy"].values()) == {"w5a8"}
    assert stored["found"]["test_accuracy"] > 0.3  # guessing: a quarter
    capsys.readouterr()
    assert run("evaluate", "run", "--space", "ops.py:BUILT_IN", "--data", "ops.py:images") == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == stored["found"]["test_accuracy"]
    assert run("export", "run", "--space", "ops.py:BUILT_IN", "--out", "net.jnas") == 0
    *_, images, labels = own.read("ops.py:images").part()
    for command in (("evaluate", "run", "--data", "ops.py:images"), ("export", "run", "--out", "x")):
        capsys.readouterr()
        assert f"{ASKED}space=PATH/ops.py:" in refused(capsys, *command)
    forget()
    answers = exported.load("net.jnas")(images[..., None])["probability"].argmax(1)
    assert np.mean(answers == labels) == pytest.approx(stored["found"]["test_accuracy"], abs=0.06)  # two images
    assert not [name for name in sys.modules if name.startswith("_jnas_own_")]


def test_what_to_do_next_names_the_parts(searched, tmp_path, monkeypatch):
    monkeypatch.chdir(searched)
    Image.fromarray(own.read("ops.py:images").part()[2][0]).save(tmp_path / "image.png")
    run, out = read_run("run"), f"{tmp_path}/net.jnas"
    of_program = run._replace(environment={"argv": ["jnas"]})
    shown = [command for command, _ in next_steps(of_program)]
    assert (
        shown[0] == "jnas search run/config.yaml train.epochs=4 space=ops.py:SPACE data=ops.py:images --out run-again"
    )
    given = {"IMAGE": tmp_path / "image.png", "network.jnas": out}
    with jax.numpy_dtype_promotion("standard"):
        assert all(accepted(command, **given) for command in shown)
        calls = [command for command, _ in next_steps(run)]  # as of pytest
        assert calls[2] == "jnas.load('run', space='ops.py:SPACE').export('network.jnas')"
        assert eval(calls[2].replace("network.jnas", out), {"jnas": jnas})["space"].startswith("ops.py:SPACE@")
    values = run._replace(
        config=run.config | {"space": "mine@sha256:" + 64 * "0", "objective": "o@sha256:0"}, result={}
    )
    assert next_steps(values)[0][0] == (
        "jnas.search_architecture('run/config.yaml', space=SPACE, data='ops.py:images', objective=OBJECTIVE, out='run')"
    )


def test_nothing_but_what_the_user_types_runs_a_file(searched, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(searched)  # where the name that the run keeps would be found
    assert "read no file of yours" in refused(capsys, "bench", "space=ops.py:SPACE")
    forget()
    before = (searched / "ops.py.ran").read_text()
    give = {name: f"{ASKED}{name}=PATH/ops.py:" for name in ("space", "data")}
    assert give["data"] in refused(capsys, "evaluate", "run")
    for words in (
        ("predict", "run", "ops.py"),
        ("export", "run", "--out", "x"),
        ("evaluate", "run", "--data", "fashion-mnist-slice"),
    ):
        assert give["space"] in refused(capsys, *words)
    assert give["data"] in refused(capsys, "train", "run")
    assert give["space"] in refused(capsys, "train", "run", "data=fashion-mnist-slice")
    assert give["space"] in refused(capsys, "search", "run/config.yaml")
    (tmp_path / "mine.yaml").write_text("space: ops.py:SPACE\n")
    assert give["space"] in refused(capsys, "search", tmp_path / "mine.yaml")
    assert "a zoo holds no code" in refused(capsys, "zoo", "add", "zoo", "run")
    assert run("report", "run") == 0
    assert (searched / "ops.py.ran").read_text() == before
    assert sorted(path.name for path in searched.iterdir()) == ["ops.py", "ops.py.ran", "run"]


def test_a_file_that_has_changed_is_said(searched, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changed = tmp_path / "ops.py"
    changed.write_text(OPS.read_text() + "\n# another thought\n")
    space, data = f"{changed}:SPACE", f"{searched}/ops.py:images"
    sentence = "ops.py has changed since "
    for words in (
        ("search", f"space={space}", f"data={data}", *TINY, "--out", searched / "run"),
        ("train", searched / "run", f"space={space}", f"data={data}"),
        ("evaluate", searched / "run", "--space", space, "--data", data),
        ("evaluate", searched / "run", "--space", f"{searched}/ops.py:SPACE", "--data", f"{changed}:images"),
        ("export", searched / "run", "--space", space, "--out", "x"),
    ):
        said = refused(capsys, *words)
        assert sentence in said
        assert ": restore it, or " in said
    # Found in the folder that is named after it, too; a setting that differs is said before.
    shutil.copytree(searched / "run", tmp_path / "runs/search-first-order-ops-py-space-ops-0")
    assert sentence in refused(capsys, "search", f"space={space}", f"data={data}", *TINY)
    said = refused(capsys, "search", f"space={space}", f"data={data}", *TINY, "epochs=3", "--out", searched / "run")
    assert "holds a run with epochs=8 and not 3" in said


@pytest.mark.parametrize("name", ["ARRAYS", "NAMED", "SPLITS", "images"])
def test_data_come_in_each_form(name, tmp_path):
    shutil.copy(OPS, tmp_path / "ops.py")
    found = load(own_parts.typed({"data": f"{tmp_path}/ops.py:{name}"})["data"])
    wanted = own.read(f"{tmp_path}/ops.py:SPLITS").part
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("space=nowhere.py:SPACE", "there is no file nowhere.py: check the path"),
        ("space=ops.py:NOTHING", "ops.py has no NOTHING: give one of "),
        ("space=ops.py:NAMED", "is of type dict: give a CellSpace"),
        ("data=ops.py:STREAM", "is of type Source: give Splits of Datasets, or the arrays x_train"),
        ("data=ops.py:fails", ": RuntimeError: ops.py; correct the file"),
        ("objective=ops.py:LABELS", "is of type ndarray: give a function that makes an objective"),
        ("space=bad.py:SPACE", "bad.py, line 2: ZeroDivisionError: division by zero; correct the file"),
        ("space=torn.py:SPACE", "torn.py, line 1: SyntaxError: "),
        ("space=chain.py:SPACE", "a chain: search it with jnas search joint"),
        ("data=mine.py:TUPLES", " is of type Splits of tuple: give Splits of Datasets, or the arrays x_train, y_train"),
        ("data=mine.py:SIDES", "has images of shape (7, 7, 1) and x_test of (8, 8, 1): give both the same"),
        ("data=mine.py:ABSENT", "goes up to 3 and no label is 2: number the classes from 0 without a gap"),
        ("data=mine.py:OUTSIDE", "has the label 9 and y_train goes up to 3: give every class training images"),
        ("data=mine.py:CLASSES", " says 5 classes and 0 names of them, and its labels are of 4: give as many"),
        ("data=mine.py:NAMES", " says 4 classes and 3 names of them, and its labels are of 4: give as many"),
        ("data=mine.py:RAGGED", " holds what is no array (setting an array element with a sequence."),
        ("data=mine.py:WHOLE", " is int64: give the pixels as uint8, from 0 to 255"),
    ],
)
def test_a_file_that_is_wrong_is_one_sentence(word, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(OPS, tmp_path / "ops.py")
    (tmp_path / "bad.py").write_text("x = 0\n1 / x\n")
    (tmp_path / "torn.py").write_text("x = (")
    (tmp_path / "chain.py").write_text(
        "from jnas.spaces import networks\nSPACE = networks.network_space('chain-2:skip_connect,conv_3x3')\n"
    )
    (tmp_path / "mine.py").write_text(MINE)
    assert sentence in refused(capsys, "search", word)
    assert not (tmp_path / "runs").exists()


def test_a_file_that_computes_is_run_when_the_devices_and_the_processes_are_there(command, tmp_path):
    (tmp_path / "ops.py").write_text(f"{OPS.read_text()}\nimport jax\n\nONES = jax.numpy.ones(2)\n")
    with socket.create_server(("localhost", 0)) as free:
        address = f"localhost:{free.getsockname()[1]}"
    mesh = ("--mesh", "data=2", "--coordinator", address, "--processes", "1", "--process", "0")
    done = command("search", "space=ops.py:SPACE", "batch_size=7", *mesh, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "batch_size is 7 and data=2 devices do not divide it" in done.stderr.splitlines()[-1]


def test_an_objective_of_trials(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(OPS, tmp_path / "ops.py")
    words = ["objective=ops.py:score", "data=ops.py:SPLITS", "space=ops.py:SPACE", "train_images=50", "validation=20"]
    words += ["num_evaluations=6", "searcher=random", "trial.channels=2", "trial.batch_size=20", "train.batch_size=20"]
    assert run("search", "trials", *words, "--worker", "--out", "run") == 0
    rows = [json.loads(line) for line in (tmp_path / "run/search/trials.jsonl").read_text().splitlines()]
    assert [row["scores"] for row in rows] == [[-float(sum(row["code"]))] for row in rows]


def test_a_part_that_is_copied_or_written_is_its_name():
    part = own.Own("ops.py:SPACE", object())
    assert type(json.loads(json.dumps(part))) is type(part.__reduce__()[0](part)) is str
    assert config.build(Selection, {"data": part}).data is part  # whether there is a default or none
    assert config.build(Search, {"data": part}).data is part
    with pytest.raises(UserError, match="was given as a value in Python"):
        own.part_of("data@sha256:" + 64 * "0", "data")
