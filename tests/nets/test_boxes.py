"""Geometry of boxes against hand-made values and plain loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnas.nets.boxes import Found, decode, generalised_overlap, overlap, places, suppress, to_boxes, to_distances
from jnas.recipes.tasks.average_precision import overlaps


def test_distances_lead_back_to_the_box():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 50, (40, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 30, (40, 2))], 1).astype(np.float32)
    centre = rng.uniform(0, 60, (40, 2)).astype(np.float32)
    np.testing.assert_allclose(
        to_boxes(centre, to_distances(jnp.asarray(centre), jnp.asarray(boxes))), boxes, atol=1e-5
    )


@pytest.mark.parametrize(
    ("first", "second", "plain", "generalised"),
    [
        ((0, 0, 2, 2), (0, 0, 2, 2), 1, 1),
        ((0, 0, 2, 2), (1, 0, 3, 2), 1 / 3, 1 / 3),  # the box around both is their union
        ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7, 1 / 7 - 2 / 9),
        ((0, 0, 1, 1), (3, 0, 4, 1), 0, -0.5),
        ((0, 0, 1, 1), (2, 2, 2, 2), 0, -0.75),
    ],
)
def test_overlaps_by_hand(first, second, plain, generalised):
    one, other = (jnp.array(box, jnp.float32) for box in (first, second))
    assert float(overlap(one, other)) == pytest.approx(plain, abs=1e-6)
    assert float(generalised_overlap(one, other)) == pytest.approx(generalised, abs=1e-6)


def greedy(boxes, score, label, most_overlap):
    """Suppression as one would write it down."""
    kept = []
    for i in np.argsort(-score, kind="stable"):
        rivals = [overlaps(boxes[i : i + 1], boxes[j : j + 1])[0, 0] for j in kept if label[j] == label[i]]
        if all(rival <= most_overlap for rival in rivals) and score[i] > 0:
            kept.append(i)
    return kept


def test_suppression_is_the_greedy_one():
    rng = np.random.default_rng(1)
    number = 16
    corner = rng.uniform(0, 12, (number, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(4, 9, (number, 2))], 1).astype(np.float32)
    label = rng.integers(0, 2, number).astype(np.int32)
    score = np.sort(rng.random(number).astype(np.float32))[::-1].copy()
    standing = np.asarray(jax.jit(suppress, static_argnums=1)(Found(boxes, score, label), 0.3).score)
    kept = greedy(boxes, score, label, 0.3)
    assert 3 < len(kept) < number - 3
    assert sorted(kept) == np.flatnonzero(standing).tolist()
    np.testing.assert_array_equal(standing[kept], score[kept])

    # The same from scores at places: each box is one place, of one class.
    scores = np.zeros((number, 2), np.float32)
    scores[np.arange(number), label] = score
    mixed = rng.permutation(number)
    chosen = jax.jit(functools.partial(decode, most=50, most_overlap=0.3))
    found = jax.device_get(chosen(scores[mixed], boxes[mixed]))
    assert found.score.shape == (2 * number,)
    np.testing.assert_array_equal(found.score[: len(kept)], score[kept])
    assert not found.score[len(kept) :].any()
    np.testing.assert_array_equal(found.boxes[: len(kept)], boxes[kept])
    np.testing.assert_array_equal(found.label[: len(kept)], label[kept])


def test_places_cover_the_image_and_share_out_the_sizes():
    where = places((20, 33), (8, 16))
    assert len(where.centre) == 3 * 5 + 2 * 3
    np.testing.assert_array_equal(where.centre[[0, 5, 15, 16]], [[4, 4], [4, 12], [8, 8], [24, 8]])
    assert set(zip(where.stride, where.least, where.most, strict=True)) == {(8, 0, 64), (16, 64, np.inf)}


def test_doubles_take_no_place_of_another_object():
    """24 objects, each found at nine places, half of them surer: with room for 100 boxes all 24 are found."""
    corner = np.stack(np.meshgrid(np.arange(6), np.arange(4)), -1).reshape(-1, 2) * 40.0
    boxes = np.repeat(np.concatenate([corner, corner + 30], -1), 9, axis=0).astype(np.float32)
    score = np.repeat(np.where(np.arange(24) < 12, 0.95, 0.6), 9).astype(np.float32)[:, None]
    found = jax.jit(functools.partial(decode, most=100, most_overlap=0.5))(jnp.asarray(score), jnp.asarray(boxes))
    assert int((found.score > 0).sum()) == 24
    assert found.score.shape == (100,)
    standing = np.asarray(found.boxes)[np.asarray(found.score) > 0]
    assert {tuple(box) for box in standing.tolist()} == {tuple(box) for box in boxes.tolist()}
    np.testing.assert_allclose(found.score[:24], [0.95] * 12 + [0.6] * 12, rtol=1e-6)
