"""An exported network in a process that knows nothing of the search, and files that were damaged or changed."""

import dataclasses
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import zipfile

import jax
import numpy as np
import pytest
from jax import export as jax_export

from jnas import exported, nets, spaces
from jnas.cli.main import main
from jnas.data.detection.photos import read_image
from jnas.errors import UserError
from jnas.recipes import models, train_network
from jnas.recipes.settings import Training
from jnas.recipes.tasks import export
from jnas.train.weights import save_tree

CELL = "|nor_conv_1x1~0|+|avg_pool_3x3~0|skip_connect~1|+|none~0|nor_conv_3x3~1|skip_connect~2|"
SHAPE = (6, 7, 3)

LOADER = """
import sys
import numpy as np
from jnas import exported
network = exported.load(sys.argv[1])
images = np.load(sys.argv[2])
np.savez(sys.argv[3], whole=network(images)["probability"], one=network(images[:1])["probability"])
search = {"methods", "nets", "spaces", "bilevel", "searchers", "engine", "data", "report", "cli", "config"}
print(sorted(name for name in sys.modules if name.split(".")[0] in ("flax", "optax", "orbax")
             or (name.startswith("jnas.") and name.split(".")[1] in search)))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A classifier as a run leaves it, with random weights and statistics."""
    folder = tmp_path_factory.mktemp("run") / "train" / "named"
    folder.mkdir(parents=True)
    space, training = spaces.nasbench201(), Training(channels=2)
    net = train_network.network(spaces.fix(space, spaces.from_string(space, CELL)), training, 3)
    shapes = jax.eval_shape(lambda key: nets.initialise(net, key, SHAPE), jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.4, leaf.shape).astype(np.float32), shapes[0])
    stats = jax.tree.map(lambda leaf: rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32), shapes[1])
    save_tree(folder / train_network.WEIGHTS, {"params": params, "batch_stats": stats})
    facts = {
        "genotype": CELL, "space": space.name, "training": {"channels": 2}, "num_classes": 3, "shape": SHAPE,
        "class_names": ["ape", "bee", "cat"], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4],
    }  # fmt: skip
    (folder / train_network.NETWORK).write_text(json.dumps(facts))
    return models.load_model(folder.parents[1])


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "net.jnas"
    export.export_network(model, path)
    return path


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (5, *SHAPE), np.uint8)


def test_a_process_without_the_search_predicts_the_same(model, file, images, tmp_path):
    np.save(tmp_path / "images.npy", images)
    words = [sys.executable, "-c", LOADER, str(file), str(tmp_path / "images.npy"), str(tmp_path / "out.npz")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    # The network itself, by hand: normalise, apply, softmax.
    pixels = (images / 255 - np.array(model.facts["mean"])) / np.array(model.facts["std"])
    forward = jax.jit(lambda weights, x: model.net.apply(weights, x, train=False).main)
    logits = np.asarray(forward(model.weights, pixels.astype(np.float32)), np.float64)
    wanted = np.exp(logits - logits.max(1, keepdims=True))
    wanted /= wanted.sum(1, keepdims=True)
    assert np.ptp(wanted, axis=0).max() > 1e-3  # images differ
    with np.load(tmp_path / "out.npz") as out:
        np.testing.assert_allclose(out["whole"], wanted, atol=1e-6)
        np.testing.assert_allclose(out["one"], wanted[:1], atol=1e-6)


def test_the_header_says_what_goes_in_and_out(file):
    with zipfile.ZipFile(file) as archive:
        header = json.loads(archive.read(exported.HEADER))
    assert header["platforms"] == ["cpu", "cuda", "tpu"]
    assert header["input"] == {"shape": ["batch", *SHAPE], "dtype": "uint8"}
    assert header["outputs"] == {"probability": {"shape": ["batch", 3], "dtype": "float32"}}
    assert header["class_names"] == ["ape", "bee", "cat"]
    assert header["genotype"] == CELL


def test_predict_on_a_file_and_on_the_run_say_the_same(model, file, images, tmp_path, capsys):
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for index, pixels in enumerate(images):
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{index}.png")
    answers = []
    for network in (model.folder, file):
        out = tmp_path / f"out-{len(answers)}"
        assert main(["predict", str(network), str(tmp_path / "photos"), "--top", "2", "--out", str(out)]) == 0
        answers.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
        assert len(list(out.glob("*.jpg"))) == 5
    first, second = answers
    assert [row["class"] for row in first] == [row["class"] for row in second]
    probability = exported.load(file)(images)["probability"]
    for row, other, wanted in zip(first, second, probability, strict=True):
        assert row["class"] == ("ape", "bee", "cat")[wanted.argmax()]
        assert row["probability"] == pytest.approx(wanted.max(), abs=2e-6)
        assert other["probability"] == pytest.approx(wanted.max(), abs=2e-6)
        assert row["top"][0]["class"] == row["class"]
        assert len(row["top"]) == 2
    np.testing.assert_array_equal(read_image(tmp_path / "photos" / "3.png", SHAPE), images[3])


def test_images_of_another_shape_are_refused(file, images):
    network = exported.load(file)
    for wrong in (images[:, :5], images.astype(np.float32), images[0], images[:0]):
        with pytest.raises(ValueError, match=r"give uint8 of shape \(batch, 6, 7, 3\)"):
            network(wrong)


def test_a_platform_that_it_was_not_exported_for_is_one_sentence(file, images):
    network = exported.load(file)
    for_tpu = jax_export.export(jax.jit(lambda _, x: {"probability": x}), platforms=["tpu"])(network.weights, images)
    with pytest.raises(
        UserError, match=r"^the network's program does not run here \([^\n]*tpu[^\n]*\): export it again$"
    ):
        dataclasses.replace(network, program=for_tpu)(images)


def cut(path):
    path.write_bytes(path.read_bytes()[:-400])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def rewrite(path, **changes):
    """The file with some parts changed, a sound archive all the same."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    for name, change in changes.items():
        part = next(entry for entry in parts if entry.startswith(name))
        parts[part] = change(parts[part])
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            if content is not None:
                archive.writestr(name, content)


def header_with(**changes):
    return lambda content: json.dumps({**json.loads(content), **changes}).encode()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (cut, "is damaged, changed or no exported network"),
        (flip, "is damaged, changed or no exported network"),
        (lambda path: rewrite(path, weights=lambda c: c[:-1] + b"\0\0"), "is damaged, changed"),
        (lambda path: rewrite(path, program=lambda c: c[::-1]), "is damaged, changed"),
        (lambda path: rewrite(path, program=lambda c: None), "is damaged, changed"),
        (lambda path: rewrite(path, header=lambda c: b"{}"), "is damaged, changed"),
        (lambda path: rewrite(path, header=header_with(version=9)), "is of format jnas-network 9"),
        (lambda path: path.write_bytes(b""), "is damaged, changed"),
        (lambda path: path.unlink(), "No such file"),
    ],
)
def test_a_file_that_is_not_whole_is_one_sentence(file, tmp_path, damage, sentence):
    path = tmp_path / "net.jnas"
    path.write_bytes(file.read_bytes())
    damage(path)
    with pytest.raises(UserError, match=r"^[^\n]+$") as caught:
        exported.load(path)
    assert sentence in str(caught.value)


def test_an_export_that_cannot_be_written(model, tmp_path):
    with pytest.raises(UserError, match="cannot write"):
        export.export_network(model, tmp_path / "nowhere" / "net.jnas", platforms=("cpu",))


def forge(path, program=None, **changes):
    """The file with other parts, every digest computed anew: what somebody makes who means harm."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    header = json.loads(parts.pop(exported.HEADER)) | changes
    if program is not None:
        parts[exported.PROGRAM] = program
    header["digests"] = {name: hashlib.sha256(content).hexdigest() for name, content in parts.items()}
    header["digest"] = exported.digest_of(header)
    rewrite(path, header=lambda _: json.dumps(header).encode(), program=lambda _: parts[exported.PROGRAM])


def test_a_program_that_calls_into_the_process_is_refused_before_it_is_compiled(file, tmp_path):
    def calls(weights, images):
        del weights
        shape = jax.ShapeDtypeStruct((5, 3), np.float32)
        return {"probability": jax.ffi.ffi_call(target, shape)(images, index=np.uint64(0))}

    weights = tuple(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in exported.load(file).weights)
    images = jax.ShapeDtypeStruct((5, *SHAPE), np.uint8)
    target = "xla_ffi_python_cpu_callback"
    unchecked = [jax_export.DisabledSafetyCheck.custom_call(target)]
    crafted = jax_export.export(jax.jit(calls), platforms=["cpu"], disabled_checks=unchecked)(weights, images)
    path = tmp_path / "net.jnas"
    path.write_bytes(file.read_bytes())
    program = bytes(crafted.serialize())
    forge(path, program)
    with pytest.raises(UserError, match=rf"net\.jnas: field program\.bin is \['{target}'\]; expected a program that"):
        exported.load(path)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("import os; os.abort()", "its program cannot be read (it ends the reader of JAX)"),  # as MLIR's does at times
        ("import time; time.sleep(99)", "its program cannot be read (it takes more than 1 s)"),
        ("bytearray(2**33)", "does not read it"),
    ],
)
def test_what_the_reader_of_a_program_dies_of_is_one_sentence(file, monkeypatch, fault, sentence):
    beginning, mark, rest = exported.READER.partition("from jaxlib.mlir import ir")
    monkeypatch.setattr(exported, "READER", f"{beginning}{fault}\n{mark}{rest}")
    monkeypatch.setattr(exported, "PATIENCE", 1 if "sleep" in fault else 120)
    with pytest.raises(UserError, match=rf"^\S*net\.jnas[^\n]*{re.escape(sentence)}[^\n]*export"):
        exported.load(file)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"class_names": ["bee", "ape"]}, r"field class_names is \['bee', 'ape'\]; expected 3 names"),
        ({"class_names": None}, "field class_names is absent; expected a list of texts"),
        ({"class_names": [1, 2, 3]}, r"field class_names is \[1, 2, 3\]; expected a list of texts"),
        ({"task": "magic"}, "field task is 'magic'; expected one of classification"),
        ({"task": "detection"}, "field task is 'detection'; expected that of a network which answers probability"),
        ({"task": ["classification"]}, r"field task is \['classification'\]; expected one of classification"),
        ({"input": 5}, "field input is 5; expected an object"),
        ({"input": {"shape": ["batch", 10**9, 7, 3]}}, r"field input\.shape is .*1000000000.*; expected \[batch,"),
        ({"input": {"shape": ["batch", 6, 7, 1], "dtype": "uint8"}}, r"field input is .*; expected .*6, 7, 3"),
        ({"outputs": {}}, "field outputs is {}; expected .*probability.*, as its program has it"),
        ({"genotype": "x", "space": []}, r"field space is \[\]; expected a text"),
    ],
)  # fmt: skip
def test_a_field_that_is_not_what_export_writes_is_named(file, tmp_path, changes, sentence):
    path = tmp_path / "net.jnas"
    path.write_bytes(file.read_bytes())
    forge(path, **changes)
    with pytest.raises(UserError, match=rf"^\S*net\.jnas: {sentence}"):
        exported.load(path)


@pytest.mark.parametrize("part", [exported.PROGRAM, exported.WEIGHTS])
def test_a_part_that_nobody_misses_is_missed(file, tmp_path, part):
    path = tmp_path / "net.jnas"
    path.write_bytes(file.read_bytes())
    with zipfile.ZipFile(path) as archive:
        header = json.loads(archive.read(exported.HEADER))
    del header["digests"][part]
    header["digest"] = exported.digest_of(header)
    rewrite(path, header=lambda _: json.dumps(header).encode(), **{part.partition(".")[0]: lambda _: None})
    with pytest.raises(UserError, match="is damaged, changed"):
        exported.load(path)


def test_class_names_that_changed_places_are_noticed(file, tmp_path):
    path = tmp_path / "net.jnas"
    path.write_bytes(file.read_bytes())
    rewrite(path, header=header_with(class_names=["bee", "ape", "cat"]))
    with pytest.raises(UserError, match="damaged, changed"):
        exported.load(path)


def test_a_file_from_before_headers_had_a_digest_is_read(file, tmp_path):
    path = tmp_path / "net.jnas"
    path.write_bytes(file.read_bytes())
    without = lambda content: json.dumps({k: v for k, v in json.loads(content).items() if k != "digest"}).encode()
    rewrite(path, header=without)
    assert exported.load(path).class_names == ("ape", "bee", "cat")


def test_what_unpacks_to_more_than_a_network_is_not_unpacked(file, tmp_path, monkeypatch):
    path = tmp_path / "net.jnas"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(exported.HEADER, bytes(2**27))
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(UserError, match="damaged, changed or no exported network"):
        exported.load(path)
    monkeypatch.undo()
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "<f8", "fortran_order": False, "shape": (10**13,)})
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as inner:
        inner.writestr("0.npy", array.getvalue())
    path.write_bytes(file.read_bytes())
    rewrite(path, weights=lambda _: archive.getvalue())
    forge(path)
    with pytest.raises(UserError, match="damaged, changed or no exported network"):
        exported.load(path)


def test_a_folder_and_a_pipe_are_no_exported_network(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(UserError, match="no exported network"):
            exported.load(path)
