"""The cells that were trained in advance: when they are shown, and what they are."""

import dataclasses

import numpy as np
import pytest

from jnas import data, spaces
from jnas.data.load import load
from jnas.recipes import reference, train_network
from jnas.recipes.gradient.settings import Search

CONVOLUTION = "nor_conv_3x3"


@pytest.fixture(scope="module")
def main_job():
    settings = Search()
    return spaces.by_name(settings.space), load(settings.data), settings.train


def test_the_table_is_of_the_main_job(main_job):
    """Its settings and data as they are now: a change of either needs the table made again."""
    space, splits, training = main_job
    found = reference.cells(space, splits, training)
    assert found is not None
    rows = found["cells"]
    assert len({row["seed"] for row in rows}) == len(rows)
    kinds = [row["kind"] for row in rows]
    assert kinds.count("random") >= 60
    sizes = [row["genotype"].count(CONVOLUTION) for row in rows]
    for row, size in zip(rows, sizes, strict=True):
        assert row["kind"] in ("random", f"{size} {CONVOLUTION}")
        arch = spaces.from_string(space, row["genotype"])
        assert spaces.to_string(space, arch) == row["genotype"]
        assert spaces.is_connected(space, arch)
        assert "none" not in row["genotype"]
        assert 0.7 < row["test_accuracy"] < 0.95
    assert all(kinds.count(f"{size} {CONVOLUTION}") >= 8 for size in (3, 4, 5, 6))
    assert np.corrcoef(sizes, [row["test_accuracy"] for row in rows])[0, 1] > 0.3  # else nothing can show here


def test_a_row_counts_the_parameters_of_the_network_that_the_main_job_trains(main_job):
    from jnas import nets

    space, splits, training = main_job
    found = reference.cells(space, splits, training)
    for row in found["cells"][:: len(found["cells"]) - 1]:
        net = train_network.prepare(space, spaces.from_string(space, row["genotype"]), splits, training).net
        assert row["parameters"] == nets.count_parameters(nets.shapes(net, splits.train.shape)["params"])


@pytest.mark.parametrize("change", ["epochs", "augmentation", "image", "label", "space"])
def test_with_anything_else_it_is_not_shown(main_job, change):
    space, splits, training = main_job
    train, test = splits
    if change == "epochs":
        training = dataclasses.replace(training, epochs=11)
    elif change == "augmentation":
        training = dataclasses.replace(training, augmentation=dataclasses.replace(training.augmentation, flip=False))
    elif change == "image":
        images = test.images.copy()
        images[-1, -1] ^= 1
        test = dataclasses.replace(test, images=images)
    elif change == "label":
        labels = train.labels.copy()
        labels[:2] = labels[1::-1] + np.int32(labels[0] == labels[1])
        train = dataclasses.replace(train, labels=labels % np.int32(10))
    else:
        space = spaces.by_name("darts")
    assert reference.cells(space, data.Splits(train, test), training) is None
