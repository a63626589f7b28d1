"""Findings that make a result doubtful, in runs whose numbers were made so."""

import json

import numpy as np
import pytest

from jnas import spaces
from jnas.data import Dataset, Splits
from jnas.recipes.train_network import describe
from jnas.report.findings import findings, is_undertrained
from jnas.report.next_steps import next_steps
from jnas.report.page import render
from jnas.report.reading import read_run
from jnas.report.summary import found_cell


@pytest.fixture
def folder(tmp_path, write_run):
    folder = write_run(tmp_path, space="nasbench201", steps=40).folder
    settle(folder, 1.0)
    return folder


def settle(folder, lead):
    """On every edge of the last epoch the second candidate has alpha `lead` and the third half of it."""
    space, path = spaces.nasbench201(), folder / "search" / "genotypes.jsonl"
    alpha = np.zeros((6, 5))
    alpha[:, 1:3] = lead, lead / 2
    text = spaces.to_string(space, [1] * 6)
    row = {"step": 40, "epoch": 4, "genotype": text, "alpha": {"cell": alpha.tolist()}}
    path.write_text(path.read_text().splitlines()[0] + "\n" + json.dumps(row) + "\n")
    edit(folder / "result.json", genotype=text)


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def found_in(folder):
    run = read_run(folder)
    found = found_cell(run)
    return findings(run, found.space, found.fixed)


def test_a_sound_run_has_none(folder):
    assert found_in(folder) == []


def test_edges_of_nearly_equal_weights_are_undecided(folder):
    settle(folder, 0.1)
    weights = np.exp([0.1, 0.05]) / np.exp([0, 0.1, 0.05, 0, 0]).sum()
    assert found_in(folder) == [
        "6 of 6 edges are undecided: the kept operator leads the next by less than a tenth. The closest: edge 0 to 1, "
        f"skip_connect {weights[0]:.3f} against nor_conv_1x1 {weights[1]:.3f}."
    ]
    edit(folder / "result.json", genotype=spaces.to_string(spaces.nasbench201(), [3] * 6))  # of no epoch in the log
    assert found_in(folder) == []


def test_a_supernet_that_guesses_is_at_chance_level(folder):
    path = folder / "search" / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row | {"outer_accuracy": 0.124}) + "\n" for row in rows))
    (text,) = found_in(folder)
    assert text.startswith("The supernet is at chance level: 12.4 % over the last tenth of its steps, where guessing")
    assert "10.0 %" in text


def test_networks_that_do_not_fit_their_own_images_are_undertrained(folder):
    result = json.loads((folder / "result.json").read_text())
    for one in (result["found"], *result["random"]):
        one.update(train_accuracy=0.38, test_accuracy=0.37)
    edit(folder / "result.json", found=result["found"], random=result["random"])
    assert found_in(folder) == [
        "The trained networks are undertrained: 38.0 % of their own training images on average, after 4 epochs. "
        "Differences between them say little."
    ]
    run = read_run(folder)
    assert is_undertrained(run)
    assert "train.epochs=16" in next_steps(run)[0][0]
    assert "are undertrained" in render(run)


def test_networks_that_guess_are_at_chance_level(folder):
    result = json.loads((folder / "result.json").read_text())
    for one in (result["found"], *result["random"]):
        one.update(train_accuracy=0.13, test_accuracy=0.12)
    edit(folder / "result.json", found=result["found"], random=result["random"])
    assert found_in(folder) == ["The trained networks are at chance level: at most 12.0 %, where guessing has 10.0 %."]


@pytest.mark.parametrize(("images", "level"), [([9, 1], 0.9), ([5, 5], 0.5)])
def test_chance_level_is_the_share_of_the_largest_class_of_the_test_images(folder, images, level):
    labels = np.repeat([0, 1], images).astype(np.int32)
    part = Dataset(np.zeros((10, 4), np.uint8), labels, (2, 2, 1), 2, "skewed")
    edit(folder / "result.json", data=describe(Splits(part, part)))
    result = json.loads((folder / "result.json").read_text())
    for one in (result["found"], *result["random"]):
        one.update(train_accuracy=0.9, test_accuracy=0.9)
    edit(folder / "result.json", found=result["found"], random=result["random"])
    words = f"always saying the largest class has {100 * level:.1f} %"
    said = [f"The trained networks are at chance level: at most 90.0 %, where {words}."] * (level > 0.5)
    assert [text for text in found_in(folder) if "networks" in text] == said
    page = render(read_run(folder))
    assert f"2 classes ({words})" in page
    data = json.loads((folder / "result.json").read_text())["data"]
    del data["largest_class"]  # of a version that did not write it
    edit(folder / "result.json", data=data)
    assert not any("networks" in text for text in found_in(folder))
    assert "2 classes (guessing has 50.0 %)" in render(read_run(folder))
