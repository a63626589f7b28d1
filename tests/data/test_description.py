"""The description of a data set: every number against one that NumPy counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnas.data import Dataset, description


def published_logme(features, labels, num_classes):
    """You et al. 2021, algorithm 1, by whole matrices: no singular values."""
    n, d = features.shape
    total = 0.0
    for k in range(num_classes):
        y, alpha, beta = (labels == k).astype(float), 1.0, 1.0
        for _ in range(200):
            a = alpha * np.eye(d) + beta * features.T @ features
            m = beta * np.linalg.solve(a, features.T @ y)
            gamma = d - alpha * np.trace(np.linalg.inv(a))
            alpha, beta = gamma / (m @ m + 1e-5), (n - gamma) / (np.sum((features @ m - y) ** 2) + 1e-5)
        a = alpha * np.eye(d) + beta * features.T @ features
        m = beta * np.linalg.solve(a, features.T @ y)
        total += (
            n / 2 * np.log(beta) + d / 2 * np.log(alpha) - n / 2 * np.log(2 * np.pi)
            - beta / 2 * np.sum((features @ m - y) ** 2) - alpha / 2 * m @ m - np.linalg.slogdet(a)[1] / 2
        )  # fmt: skip
    return total / n / num_classes


@pytest.mark.parametrize(("n", "d"), [(40, 5), (20, 30)])
def test_logme_equals_the_published_formula(n, d, x64):
    random = np.random.default_rng(n)
    labels = random.integers(0, 3, n).astype(np.int32)
    features = random.normal(size=(n, d)) + 0.5 * np.eye(3, d)[labels]
    rubbish = np.concatenate([features, 9 * np.ones((4, d))]), np.concatenate([labels, np.zeros(4, np.int32)])
    mask = np.arange(n + 4) < n
    ours = jax.jit(description.logme, static_argnums=3)(*map(jnp.asarray, (*rubbish, mask)), 3)
    np.testing.assert_allclose(ours, published_logme(features, labels, 3), rtol=2e-4)


def test_nearest_centroid_leaves_each_example_out(x64):
    random = np.random.default_rng(1)
    labels = np.append(random.integers(0, 3, 30), 3).astype(np.int32)  # one alone in its class
    features = random.normal(size=(31, 4)) + np.eye(4)[labels]
    hits = 0
    for i, (x, label) in enumerate(zip(features, labels, strict=True)):
        distance = np.full(5, np.inf)
        for k in range(5):
            others = features[(labels == k) & (np.arange(31) != i)]
            if len(others):
                distance[k] = np.sum((x - others.mean(0)) ** 2)
        hits += np.isfinite(distance[label]) and distance.argmin() == label
    ours = description.nearest_centroid(*map(jnp.asarray, (features, labels, np.ones(31, bool))), 5)
    assert 0 < hits < 31
    np.testing.assert_allclose(ours, hits / 31)


@pytest.fixture(scope="module")
def dataset():
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), (30, 15, 5)).astype(np.int32)
    images = random.integers(0, 100, (50, 16 * 9 * 2)) + 50 * labels[:, None]
    return Dataset(images.astype(np.uint8), labels, (16, 9, 2), 3, "noise")


def test_description_equals_numpy(dataset):
    found = description.describe(dataset, batch_size=16)
    image = dataset.images.reshape(-1, 16, 9, 2) / 255
    share = np.array([30, 15, 5]) / 50
    contrast = image.std((1, 2, 3)).mean()
    roughness = sum(np.abs(np.diff(image, axis=axis)).mean((1, 2, 3)).mean() for axis in (1, 2)) / 2
    expected = {
        "log_examples": np.log10(50), "log_classes": np.log10(3), "log_examples_a_class": np.log10(50 / 3),
        "imbalance": 1 + (share @ np.log(share)) / np.log(3), "log_pixels": np.log10(144), "channels": 2,
        "mean": image.mean(), "contrast": contrast, "variety": image.mean((1, 2, 3)).std(),
        "roughness": roughness / (2 * contrast), "nearest_centroid": 1.0,
    }  # fmt: skip
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-4, atol=1e-6, err_msg=name)
    assert np.isfinite(found).all()
    shuffled = Dataset(dataset.images, np.random.default_rng(2).permutation(dataset.labels), dataset.shape, 3)
    worse = description.describe(shuffled, batch_size=16)
    assert worse.nearest_centroid < 0.6
    assert worse.logme < found.logme - 0.1


def test_small_pixels_are_block_means():
    image = jnp.arange(17 * 16, dtype=jnp.float32).reshape(1, 17, 16, 1)
    blocks = description.small_pixels((), image).reshape(8, 8)
    np.testing.assert_allclose(blocks[1, 2], np.arange(272).reshape(17, 16)[2:4, 4:6].mean())


def test_images_of_one_colour_are_described_without_rounding():
    plain = Dataset(np.full((10, 12), 77, np.uint8), np.arange(10, dtype=np.int32) % 2, (2, 2, 3), 2)
    found = description.describe(plain)
    assert np.isfinite(found).all()
    np.testing.assert_allclose((found.contrast, found.variety, found.roughness), 0, atol=1e-3)
    assert found.logme == pytest.approx(description.describe(plain.part(np.arange(9, -1, -1))).logme, abs=1e-6)


def test_too_few(dataset):
    with pytest.raises(ValueError, match="has 1 images"):
        description.describe(dataset.part(np.arange(1)))
