"""The network of a joint search at its widths: evaluated, asked, exported, kept in a zoo, and trained further."""

import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image

from jnas.cli.main import main
from jnas.recipes import models
from jnas.recipes.joint import recipe as joint
from jnas.spaces.policy import method_of

SEARCH = (
    "search", "joint", "space=cell-2:skip_connect,nor_conv_1x1", "operators=", "methods=w2a4 w4a8-pow2 w3a5",
    "supernet.channels=2", "supernet.depth=1", "supernet.batch_size=20", "searcher=random", "num_evaluations=40",
    "compare=false", "train.channels=3", "train.depth=1", "train.epochs=1", "train.batch_size=20",
    "train.learning_rate=0.1", "train.augmentation.crop=0", "train.augmentation.flip=false", "steps_per_call=20",
)  # fmt: skip


def bars(path, classes, seed, channels=()):
    """Images with a bright bar, whose place is the class: 800 to learn from and 40 to measure on."""
    rng, arrays = np.random.default_rng(seed), {}
    for part, count in (("train", 800), ("test", 40)):
        labels = np.arange(count) % classes
        pixels = rng.integers(0, 120, (count, 7, 7, *channels))
        for image, label in zip(pixels, labels, strict=True):
            image[:, 2 * label : 2 * label + 2] += 120
        arrays |= {f"x_{part}": pixels.astype(np.uint8), f"y_{part}": labels}
    np.savez(path, **arrays)
    return path


def judge(archs, columns):
    """Convolutions are good, and another method in each unit."""
    return archs.mean(1) / 2 + np.mean(columns == np.array([0, 1, 2, 0]), 1) / 2


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """The folder of a joint search whose candidates' accuracies are made up; what it found is trained."""
    folder = tmp_path_factory.mktemp("quantised")
    data = bars(folder / "bars.npz", 3, 0)
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setattr(joint, "_supernet", lambda *_: lambda *_, **__: judge)
        assert main([*SEARCH, f"data={data}", "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def found(searched):
    return json.loads((searched / "result.json").read_text(encoding="utf-8"))["found"]


def said(capsys, *words):
    """What a command prints, lines of JSON."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_evaluate_gives_the_accuracy_of_the_search(searched, found, capsys):
    assert sorted(set(found["policy"].values())) == ["w2a4", "w3a5", "w4a8-pow2"]
    assert found["test_accuracy"] > 0.8
    assert found["integer"]["agreement"] >= 0.95
    (line,) = said(capsys, "evaluate", searched)
    assert (line["accuracy"], line["loss"]) == (found["test_accuracy"], found["test_loss"])


def test_predict_says_the_classes_that_evaluate_counts(searched, found, tmp_path, capsys):
    with np.load(searched.parent / "bars.npz") as arrays:
        images, labels = arrays["x_test"], arrays["y_test"]
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number:02}.png")
    lines = said(capsys, "predict", searched, tmp_path, "--top", "1")
    assert np.mean([int(line["class"]) for line in lines] == labels) == found["test_accuracy"]


def test_each_layer_has_the_levels_of_its_widths_and_a_range_that_no_batch_changes(searched, found):
    model = models.load_model(searched)
    seen = set()
    for path, rule in flatten_dict(model.weights["quant"]).items():
        unit = f"cell/{path[1][:3]}" if path[1][0].isdigit() else "residual"
        method = method_of(found["policy"][unit] if path[0].startswith("block") else "w8a8")
        low, high = np.minimum(rule.activation_range[0], 0), np.maximum(rule.activation_range[1], 0)
        x = np.linspace(low - 1, high + 1, 10_000, dtype=np.float32)
        inputs, kernel = rule(x, np.linspace(-1, 1, 10_000, dtype=np.float32)[:, None])
        assert len(np.unique(kernel)) == 2**method.weight_bits - 1
        assert 2 ** (method.activation_bits - 1) < len(np.unique(inputs)) <= 2**method.activation_bits
        assert abs(inputs.max() - high) <= (high - low) / (2**method.activation_bits - 1)
        seen.add(str(method))
    assert seen == {"w2a4", "w3a5", "w4a8-pow2", "w8a8"}
