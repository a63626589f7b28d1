"""Run folders of version 0.5.0: what is finished is read as before, what is not is refused in one sentence."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from tiny import OLD_SEARCH as SEARCH
from tiny import refused

from jnas import exported
from jnas.cli.main import main

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A copy of the folders: the commands write into them."""
    for name in ("run-0.5.0", "unfinished-0.5.0"):
        shutil.copytree(GOLDEN / name, tmp_path / name)
    for name in ("images.npz", "image.png"):
        shutil.copy(GOLDEN / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_finished_run_is_reported_evaluated_predicted_with_and_exported(here, capsys):
    found = json.loads((here / "run-0.5.0/result.json").read_text())["found"]
    assert main(["report", "run-0.5.0"]) == 0
    assert found["genotype"].split("|")[1] in (here / "run-0.5.0/report.html").read_text()
    capsys.readouterr()
    assert main(["evaluate", "run-0.5.0"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == found["test_accuracy"]
    assert main(["predict", "run-0.5.0", "image.png"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    said = json.loads(line)
    assert main(["export", "run-0.5.0", "--out", "net.jnas"]) == 0
    from PIL import Image

    picture = np.asarray(Image.open("image.png"))[None]
    picture = picture if picture.ndim == 4 else picture[..., None]
    probability = exported.load("net.jnas")(picture)["probability"][0]
    assert float(probability.max()) == pytest.approx(said["probability"], abs=1e-4)
    assert main([*SEARCH, "run-0.5.0"]) == 0  # given again, the command shows what it found: its settings are a preset
    assert found["genotype"] in capsys.readouterr().out


def test_a_setting_that_has_gone_counts_where_it_was_used(here, capsys):
    config = here / "run-0.5.0/config.yaml"
    config.write_text(config.read_text().replace("entropy: 0.0", "entropy: 0.5"))
    assert "run-0.5.0 holds a run with entropy=0.5 and not None" in refused(capsys, *SEARCH, "run-0.5.0")


def test_an_unfinished_search_is_refused_in_one_sentence_and_left_alone(here, capsys):
    before = {path: path.read_bytes() for path in sorted(here.rglob("*")) if path.is_file()}
    said = refused(capsys, *SEARCH, "unfinished-0.5.0")
    assert "unfinished-0.5.0 was begun by jnas 0.5.0" in said
    assert "finish it with that version, or choose another folder with --out" in said
    assert {path: path.read_bytes() for path in sorted(here.rglob("*")) if path.is_file()} == before
