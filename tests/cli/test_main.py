"""Bad input: one sentence, exit status 2, nothing half-written. And what the smaller commands print."""

import decimal
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import yaml
from tiny import TINY, refused

import jnas.cli.main as program
from jnas.cli.main import main
from jnas.spaces.genotypes import PUBLISHED

SKIPS = "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|"


def yaml_file(tmp_path, text):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["search", "--nonsense"], "unrecognized arguments: --nonsense"),
        (["sarch"], "invalid choice: 'sarch'"),
        (["search", "chanels=3"], "unknown key chanels: did you mean channels?"),
        (["search", "train.epoch=3"], "unknown key train.epoch: did you mean train.epochs?"),
        (["search", "channels=many"], "channels is 'many': give a valid integer"),
        (["search", "channels=0"], "channels is 0: give at least 1"),
        (["search", "estimator=magic"], "estimator is 'magic': give 'first_order'"),
        (["search", "train=3"], "train is '3' and not a mapping"),
        (["search", "channels"], "'channels' is no preset, YAML file or key=value"),
        (["search", "missing.yaml"], "there is no file missing.yaml: name a YAML file or a preset (darts"),
        (["search", "space=darts3"], "darts3"),
        (["search", "data=cifar11"], "no data set is called 'cifar11'"),
        (["search", "data=missing.npz"], "missing.npz"),
        (["search", "data="], "no data set is called '' and no folder either: give fashion-mnist-5k, FILE.npz"),
        (["search", "batch_size=100000"], "batch size 100000 with 2500 examples"),
        (["search", "momentum=storm", "weights.heavy_ball=0.9"], "heavy_ball is 0.9 under momentum=storm"),
        (["search", "validation=1.5"], "validation is 1.5: give a share below 1, or a number of images from 2 on"),
        (["search", "train.batch_size=100000"], "batch size 100000"),
        (["search", "damping=-1"], "damping is -1.0: give at least 0"),
        (["search", "estimator=neumann", "neumann_step=-1"], "neumann_step is -1.0: give a positive number"),
        (["search", "weights.coefficient.initial=2"], "weights.coefficient.initial is 2.0: give at most 1"),
        (["search", "inner_steps=4"], "inner_steps is 4: that needs scheme=alternating and fresh_batches=false"),
        (["train", "|nor_conv_9x9~0|"], "nor_conv_9x9"),
        (["train", "DARTS_V9"], "DARTS_V9"),
        (["evaluate", "nowhere"], "nowhere is no run"),
        (["report", "nowhere"], "nowhere"),
        (["spaces", "nowhere"], "nowhere"),
    ],
)
def test_bad_words(words, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sentence in refused(capsys, *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["search", "data=\x1b[31m\nx"], r"'\x1b[31m\nx'"),
        (["search", "joint", "operators=\x1b[31m"], "\\x1b[31m"),
        (["search", "data=\udce9"], "is no UTF-8 text"),
        (["report", "a\0b"], r"a word of the command holds a NUL ('a\x00b'): give another one"),
        (["train", "x" * 5000], "xxx...', and it is no genotype"),
        (["search", "space=cell-99:none,skip_connect"], "is no generated space"),
        (["search", "--mesh", "data=" + "9" * 400], "is no mesh"),
        (["search", "space-search", "strategies.types=nowhere"], "nowhere"),
    ],
)
def test_whatever_was_typed_the_answer_is_one_line_of_print(words, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, *words)
    assert sentence in said
    assert said.removesuffix("\n").isprintable()
    assert len(said) < 1000


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("channels: [1", "is not YAML at line 1"),
        ("- 3", "holds a list and not a mapping"),
        ("chanels: 3", "did you mean channels?"),
        ("train: {epochs: few}", "train.epochs is 'few'"),
    ],
)
def test_bad_settings_files(text, sentence, capsys, tmp_path):
    assert sentence in refused(capsys, "search", yaml_file(tmp_path, text), "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_settings_file_that_is_no_text(capsys, tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "is no text" in refused(capsys, "search", path)


def test_corrupt_data_and_images_of_another_shape(capsys, tmp_path):
    path = tmp_path / "data.npz"
    path.write_bytes(b"PK\x03\x04 torn")
    assert "data.npz" in refused(capsys, "search", f"data={path}", "--out", tmp_path / "run")
    labels = np.arange(10)
    np.savez(
        path, x_train=np.zeros((10, 8), np.uint8), y_train=labels, x_test=np.zeros((10, 8), np.uint8), y_test=labels
    )
    assert "data.npz" in refused(capsys, "search", f"data={path}", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_folder_of_another_run_is_left_alone(finished, images, capsys, tmp_path):
    folder, _ = finished
    sentence = refused(capsys, "search", f"data={images}", *TINY, "epochs=3", "--out", folder)
    assert "holds a run with epochs=2 and not 3" in sentence
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("\\begin")
    assert "is not empty" in refused(capsys, "search", f"data={images}", *TINY, "--out", tmp_path / "other")
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["thesis.tex"]


def test_a_folder_that_cannot_be_written(images, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert "file/run" in refused(capsys, "search", f"data={images}", *TINY, "--out", tmp_path / "file" / "run")
    assert "/proc/run" in refused(capsys, "search", f"data={images}", *TINY, "--out", "/proc/run")


def test_a_full_disk_in_the_middle(images, command, tmp_path):
    """A limit on the size of files makes every longer write fail, as a full disk does."""
    folder = tmp_path / "run"
    words = ["train", SKIPS, f"data={images}", "train.channels=2", "train.epochs=1", "train.batch_size=20"]
    words += ["--out", str(folder)]
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500)); "
        f"from jnas.cli.main import entry; sys.argv[1:] = {words!r}; entry()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=600,
        env={**os.environ, "JNAS_CACHE_DIR": ""},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    ours = re.findall(r"jnas: .*", done.stderr)
    assert len(ours) == 1, done.stderr
    assert not re.search("Traceback|Error|Exception", done.stderr), done.stderr  # of threads of the storage library
    assert "cannot write" in ours[0]
    assert "choose another" in ours[0]
    assert not (folder / "result.json").exists()
    again = command(*words)  # with room again, the same command goes on
    assert again.returncode == 0, again.stderr


def test_evaluate_repeats_the_reported_accuracy(finished, capsys):
    folder, _ = finished
    assert main(["evaluate", str(folder)]) == 0
    measured = json.loads(capsys.readouterr().out)
    found = json.loads((folder / "result.json").read_text())["found"]
    assert measured["accuracy"] == found["test_accuracy"]
    assert measured["loss"] == pytest.approx(found["test_loss"], rel=1e-5)
    assert main(["evaluate", str(folder / "train" / "random-0"), "--split", "train"]) == 0
    assert json.loads(capsys.readouterr().out)["examples"] == 120


def test_damaged_weights_are_named(finished, capsys, tmp_path):
    import shutil

    shutil.copytree(finished[0], tmp_path / "run")
    weights = tmp_path / "run" / "train" / "found" / "weights.npz"
    weights.write_bytes(weights.read_bytes()[:100])
    assert "weights.npz" in refused(capsys, "evaluate", tmp_path / "run")


def test_data_of_another_shape_are_refused_by_evaluate(finished, capsys):
    assert "and the network reads" in refused(capsys, "evaluate", finished[0], "--data", "fashion-mnist-5k")


@pytest.mark.usefixtures("standard_promotion")
def test_training_what_a_search_found(finished, images, capsys, tmp_path):
    folder, _ = finished
    assert main(["train", str(folder), "train.epochs=1", "--out", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["genotype"] == json.loads((folder / "result.json").read_text())["genotype"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert 'data-op="' in page  # the cell is drawn
    assert "test accuracy of the cell" in page
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert main(["report", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "report.html").read_text() == page
    capsys.readouterr()
    assert main(["report", str(folder), str(tmp_path / "run")]) == 0
    assert "nasbench201" in capsys.readouterr().out


def test_spaces_and_settings_are_shown(capsys):
    assert main(["spaces"]) == 0
    out = capsys.readouterr().out
    assert "nasbench201: 15,625 architectures" in out
    assert main(["spaces", "nasbench201"]) == 0
    assert "nor_conv_3x3" in capsys.readouterr().out
    assert main(["search", "double-recursion", "weights.learning_rate=0.3", "--show"]) == 0
    out = capsys.readouterr().out
    assert "learning_rate: 0.3" in out
    assert "optimiser: sgd" in out  # the other parts of `weights` keep their defaults


@pytest.mark.parametrize(
    "words",
    [
        ("search", "--out", "LONG", "steps=1"), ("evaluate", "LONG"), ("report", "LONG"),
        ("export", "LONG", "--out", "y"),
        ("select", "LONG", "--zoo", "z"), ("search", "data=LONG"), ("bench", "--out", "LONG"), ("zoo", "list", "LONG"),
        ("search", "LONG"), ("train", "LONG"), ("train", "DARTS_V2", "--out", "LONG", "data=fashion-mnist-slice"),
    ],
)  # fmt: skip
def test_no_name_is_too_long_for_a_sentence(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, *(word.replace("LONG", 400 * "a") for word in words))
    assert said.startswith("jnas: ")
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_genotype_longer_than_a_path_can_be_is_one(capsys):
    assert main(["train", str(PUBLISHED["DARTS_V2"]), "--show"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["space"] == "darts"


def test_a_space_of_any_size_is_shown(capsys):
    assert main(["spaces", "chain-800:skip_connect,nor_conv_1x1,nor_conv_3x3"]) == 0
    assert f": {decimal.Decimal(3**800):.2e} chains of 800 layers" in capsys.readouterr().out  # no float holds it


def test_a_name_that_is_printed_moves_no_cursor(finished, capsys, tmp_path):
    folder = tmp_path / "a\x1b[31m\nb"
    shutil.copytree(finished[0], folder)
    assert main(["report", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert r"a\u001b[31m\nb/report.html" in out


def test_what_a_sentence_repeats_moves_no_cursor_and_tells_no_password(capsys):
    err = refused(capsys, "report", "a\x1b[2J\nb")
    assert "\\u001b[2J\\nb" in err
    assert "\x1b" not in err
    assert "secret" not in refused(capsys, "search", "data=https://ann:secret@host/x.npz?sig=secret")
    assert "secret" not in refused(capsys, "spaces", "--no-such=https://ann:secret@host")


def test_help_answers_before_jax_is_imported():
    script = "import sys; from jnas.cli import main; main._parser(); print('jax' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "False\n"


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("spaces >/dev/full", 2, "jnas: cannot print: No space left on device"),
        ("spaces nowhere >&-", 2, "jnas: there is no space 'nowhere'"),
        ("spaces nowhere 2>/dev/full", 2, ""),
        ("spaces nowhere <&- >&- 2>&-", 2, ""),
    ],
)
def test_streams_that_are_full_or_closed_change_no_status(line, status, said):
    done = subprocess.run(["sh", "-c", f"{sys.executable} -m jnas {line}"], stderr=subprocess.PIPE, text=True)
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr
    assert done.stderr.count("\n") == bool(said)


def test_a_variable_of_jax_that_cannot_be_is_one_sentence():
    words = {"JAX_NUM_CPU_DEVICES": "abc", "JAX_PLATFORMS": "nonsense"}
    for (name, value), command in zip(words.items(), (["spaces"], ["search", "data=fashion-mnist-slice"]), strict=True):
        done = subprocess.run(
            [sys.executable, "-m", "jnas", *command], env=os.environ | {name: value}, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert done.stderr.startswith("jnas: ")
        assert name.lower() in done.stderr.lower()


def test_a_key_pressed_during_an_import_ends_the_program_without_a_trace():
    script = """
import os, signal, sys
class Presses:
    def find_spec(self, name, *_):
        if name == "jax":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Presses())
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a shell
from jnas.cli.main import entry
entry()
"""
    done = subprocess.run([sys.executable, "-c", script, "spaces"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_a_key_pressed_within_the_garbage_collector_is_not_lost():
    program._unraisable(types.SimpleNamespace(exc_type=ValueError))

    def pressed():
        program._unraisable(types.SimpleNamespace(exc_type=KeyboardInterrupt))
        time.sleep(10)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a shell
    try:
        with pytest.raises(KeyboardInterrupt):
            pressed()
    finally:
        signal.signal(signal.SIGINT, before)
