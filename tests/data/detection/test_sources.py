"""Boxes go where their pixels go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnas.data.detection.datasets import DetectionDataset
from jnas.data.detection.sources import BoxAugment, Boxed, augment_boxes, boxed_source

SHAPE = (24, 32, 3)
BOX = (10.0, 6.0, 20.0, 14.0)  # left, top, right, bottom
BATCH = 16


@pytest.fixture(scope="module")
def augmented():
    """Sixteen times a white rectangle on black in the frame, mirrored, scaled and shifted."""
    image = np.zeros(SHAPE, np.uint8)
    image[6:14, 10:20] = 255
    rows = Boxed(
        jnp.tile(jnp.asarray(image.ravel())[None], (BATCH, 1)),
        jnp.tile(jnp.array([[BOX, (0.0, 0, 0, 0)]]), (BATCH, 1, 1)),
        jnp.tile(jnp.array([[4, -1]]), (BATCH, 1)),
        jnp.zeros((BATCH, 2), bool),
    )
    change = BoxAugment(flip=True, upright=False, smallest=0.6, largest=3.0)
    return jax.jit(lambda key: augment_boxes(change, key, rows, SHAPE))


def test_the_box_is_where_the_white_is(augmented):
    batch = jax.device_get(augmented(jax.random.key(3)))
    kinds = set()
    for image, boxes, label, ignored in zip(*batch, strict=True):
        white = image[..., 0] > 0.5
        assert label[1] == -1
        if label[0] < 0:
            assert not white.any()
            kinds.add("gone")
            continue
        rows, columns = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
        left, top, right, bottom = boxes[0]
        if not (len(rows) and len(columns)):  # a sliver of less than half a pixel
            assert min(right - left, bottom - top) < 0.51
            continue
        np.testing.assert_allclose(
            [left, top, right, bottom], [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], atol=0.51
        )
        kinds.add("cut and ignored" if ignored[0] else "there")
    assert kinds == {"gone", "cut and ignored", "there"}


def test_a_key_gives_the_same_batch_and_another_key_another_one(augmented):
    first, again, other = (augmented(jax.random.key(seed)) for seed in (3, 3, 4))
    assert all(bool((a == b).all()) for a, b in zip(first, again, strict=True))
    assert not bool((first.boxes == other.boxes).all())


def test_colours_change_and_boxes_do_not():
    rows = Boxed(
        jnp.full((2, 24), 128, jnp.uint8), jnp.ones((2, 1, 4)), jnp.zeros((2, 1), jnp.int32), jnp.zeros((2, 1), bool)
    )
    batch = augment_boxes(BoxAugment(colour=0.5), jax.random.key(0), rows, (2, 4, 3))
    assert bool((batch.boxes == 1).all())
    assert not np.allclose(batch.image, 128 / 255, atol=0.02)
    assert float(batch.image.min()) >= 0
    assert float(batch.image.max()) <= 1


def test_an_epoch_has_every_photo_once():
    number = 6
    dataset = DetectionDataset(
        np.zeros((number, 12), np.uint8), np.zeros((number, 1, 4), np.float32),
        np.arange(number, dtype=np.int32)[:, None], np.zeros((number, 1), bool), np.ones(number, np.float32), (2, 2, 3),
        tuple("abcdef"), tuple("abcdef"),
    )  # fmt: skip
    source = boxed_source(dataset, batch_size=2, augment=BoxAugment())
    seen = [source.batch(source.arrays, jnp.int32(step), jax.random.key(0)).label for step in range(3)]
    assert sorted(np.concatenate(seen).ravel().tolist()) == list(range(number))
    with pytest.raises(ValueError, match="batch size 7 with 6 examples"):
        boxed_source(dataset, batch_size=7, augment=BoxAugment())


@pytest.mark.parametrize("wrong", [{"smallest": 0}, {"smallest": 2.0}, {"colour": 1.0}, {"std": (0.0, 1.0, 1.0)}])
def test_a_bad_augmentation_is_refused(wrong):
    with pytest.raises(ValueError, match="give"):
        BoxAugment(**wrong)
