"""The network of a joint search at its widths: evaluated, asked, exported, kept in a zoo, and trained further."""

import json
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict
from PIL import Image

from jnas import exported
from jnas.cli.main import main
from jnas.nets.layers import Conv, DepthwiseConv, Linear
from jnas.nets.quant.fake import affine_levels
from jnas.recipes import flat, models, quantised
from jnas.recipes.joint import recipe as joint
from jnas.spaces.policy import method_of

SEARCH = (
    "search", "joint", "space=cell-2:skip_connect,nor_conv_1x1", "operators=", "methods=w2a4 w4a8-pow2 w3a5",
    "units=shared", "supernet.channels=2", "supernet.depth=1", "supernet.batch_size=20", "searcher=random",
    "num_evaluations=40", "compare=false", "networks=1", "train.channels=3", "train.depth=1", "train.epochs=1",
    "train.batch_size=20", "train.learning_rate=0.1", "train.augmentation.crop=0", "train.augmentation.flip=false",
    "steps_per_call=20",
)  # fmt: skip


# A process that has JAX and what it stands on, NumPy, flatbuffers, and two files of the package.
READER = """
import sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder

class Only:
    allowed = {"jax", "jaxlib", "numpy", "flatbuffers", "ml_dtypes", "opt_einsum", "scipy", "jnas"}

    def find_spec(self, name, *where):
        first = name.partition(".")[0]
        known = first[0] == "_" or first in self.allowed | sys.stdlib_module_names
        return PathFinder.find_spec(name, *where) if known else None

sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Only()]
import numpy as np
from jnas import exported

network = exported.load(sys.argv[1])
np.save(sys.argv[3], network(np.load(sys.argv[2]))["probability"])
print(sorted(name for name in sys.modules if name.startswith("jnas")))
"""


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
        patch.setattr(joint, "supernet", lambda *_: lambda *_, **__: judge)
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
    assert (line["accuracy"], line["loss"]) == (found["test_accuracy"], pytest.approx(found["test_loss"], rel=1e-5))


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


@pytest.fixture(scope="module")
def images(searched):
    with np.load(searched.parent / "bars.npz") as arrays:
        return arrays["x_test"][..., None]


@pytest.fixture(scope="module")
def file(searched, images, tmp_path_factory):
    """The exported network, and what it says of the images where nothing else of the package is."""
    folder = tmp_path_factory.mktemp("alone")
    network = folder / "network.jnas"
    assert main(["export", str(searched), "--out", str(network)]) == 0
    (folder / "jnas").mkdir()
    for name in ("exported.py", "errors.py"):
        shutil.copy(pathlib.Path(exported.__file__).with_name(name), folder / "jnas")
    (folder / "jnas" / "__init__.py").touch()
    np.save(folder / "images.npy", images)
    words = [sys.executable, "-c", READER, "network.jnas", "images.npy", "said.npy"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['jnas', 'jnas.errors', 'jnas.exported']"
    return network, np.load(folder / "said.npy")


def undecided(model, pixels):
    """[batch], whether an input of a layer is so near the middle of two levels that a sum's rounding may decide.

    A float32 sum of n products is off by n 2^-24 of the sum of their magnitudes; 64 of them are allowed for, in the
    unit of the largest level.
    """
    rules, near = flatten_dict(model.weights["quant"]), []

    def note(call, args, kwargs, context):
        module = context.module
        if isinstance(module, (Conv, DepthwiseConv, Linear)) and context.method_name == "__call__":
            rule = rules[*module.path, "rule"]
            step, _, most = affine_levels(*rule.activation_range, rule.activation_bits)
            level = (args[0] / step).reshape(len(pixels), -1)
            near.append((jnp.abs(level - jnp.floor(level) - 0.5) < 64 * 2.0**-24 * most).any(1))
        return call(*args, **kwargs)

    def found(pixels):
        with nn.intercept_methods(note):
            model.net.apply(model.weights, pixels, train=False)
        return jnp.stack(near).any(0)

    return np.asarray(jax.jit(found)(pixels))


def test_a_file_of_packed_integers_says_what_the_run_says(searched, images, file):
    model, (_, probability) = models.load_model(searched), file
    said = jax.jit(models.answer(model))(model.weights, images)["probability"]
    pixels = (images / np.float32(255) - model.facts["mean"][0]) / model.facts["std"][0]
    settled = ~undecided(model, jnp.asarray(pixels, np.float32))
    assert settled.mean() > 0.2
    assert np.ptp(said, axis=0).min() > 0.1  # images differ
    # Equal levels in all layers: what is left is the rounding of the last sum, of scales of about 1.
    np.testing.assert_allclose(probability[settled], said[settled], atol=1e-5)
    # One level more or less of an input moves an answer, but not by much.
    off = np.abs(probability - said).max()
    assert off < 0.1
    clear = np.diff(np.sort(said, axis=1)[:, -2:])[:, 0] > 2 * off
    assert clear.mean() > 0.5
    np.testing.assert_array_equal(np.argmax(probability, 1)[clear], np.argmax(said, 1)[clear])


def test_a_file_holds_the_weights_at_their_widths_and_says_them(searched, file, capsys):
    network = exported.load(file[0])
    size = json.loads((searched / "result.json").read_text(encoding="utf-8"))["quantised"]["joint"]["size"]
    (line,) = said(capsys, "export", searched, "--out", file[0])
    assert line["weights_bytes"] == sum(array.nbytes for array in network.weights) == pytest.approx(size, rel=0.05)
    assert line["file_bytes"] == file[0].stat().st_size > line["weights_bytes"]
    stream, numbers = network.weights
    widths = network.header["quantisation"]
    model = models.load_model(searched)
    kernels = {path[:-1]: leaf.size for path, leaf in flatten_dict(model.weights["params"]).items() if "kernel" in path}
    bits = {path: widths["/".join(path if path[-1][:5] != "Dense" else path[:-1])]["weight_bits"] for path in kernels}
    assert (stream.dtype, numbers.dtype) == (np.uint8, np.float32)
    assert stream.size == sum(-(-count * bits[path] // 8) for path, count in kernels.items())
    assert {(row["weight_bits"], row["activation_bits"]) for row in widths.values()} == {(2, 4), (4, 8), (3, 5), (8, 8)}


def test_the_program_of_a_file_unpacks_bits(file):
    program = exported.load(file[0]).program.mlir_module()
    assert "shift_right_logical" in program
    assert "xui8>" in program


def test_a_zoo_keeps_it_with_its_size_and_fine_tunes_it_at_its_widths(searched, found, tmp_path, capsys):
    zoo, own, chosen = tmp_path / "zoo", bars(tmp_path / "own.npz", 2, 1), tmp_path / "chosen"
    assert main(["zoo", "add", str(zoo), str(searched), "--name", "small"]) == 0
    assert main(["zoo", "measure", str(zoo), "--batch", "20"]) == 0
    (row,) = said(capsys, "zoo", "list", zoo, "--json")
    size = json.loads((searched / "result.json").read_text(encoding="utf-8"))["quantised"]["joint"]["size"]
    assert (row["size"], row["accuracy"]) == (size, found["test_accuracy"])
    assert {(cost["kind"], cost["batch_size"]) for cost in row["costs"]} == {("inference", 1), ("training", 20)}
    words = ["frozen=[0.0]", "learning_rates=[0.1]", "epochs=[1]", "fine_tuning.batch_size=20"]
    words += ["fine_tuning.augmentation.crop=0", "fine_tuning.augmentation.flip=false"]
    with jax.numpy_dtype_promotion("standard"):
        assert main(["select", str(own), "--zoo", str(zoo), *words, "--out", str(chosen)]) == 0
    assert models.load_model(chosen).facts["quantisation"]["policy"] == found["policy"]
    result = json.loads((chosen / "result.json").read_text(encoding="utf-8"))["found"]
    (line,) = said(capsys, "evaluate", chosen)
    assert line["accuracy"] == result["test_accuracy"] > 0.8


def test_training_goes_on_with_its_weights_at_its_widths(searched, found, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(quantised, "train", lambda *given: seen.append(given) or found)
    assert main(["train", str(searched), "--out", str(tmp_path / "on")]) == 0
    ((prepared, quantisation, _, training, *_, start),) = seen
    model = models.load_model(searched)
    assert quantisation == model.facts["quantisation"]
    assert (training.channels, training.epochs) == (3, 1)
    (vector, _), stats = start(jax.random.key(1))[0][:2], start(jax.random.key(1))[1]
    same = lambda left, right: np.testing.assert_array_equal(left, right)
    jax.tree.map(same, flat.unravel_of(prepared.net, model.shape)(vector), model.weights["params"])
    jax.tree.map(same, stats, model.weights["batch_stats"])


def test_it_is_fitted_to_own_images_of_other_classes_and_channels(searched, found, tmp_path, capsys):
    own, out = bars(tmp_path / "own.npz", 2, 2, (3,)), tmp_path / "own"
    with jax.numpy_dtype_promotion("standard"):
        assert main(["train", str(searched), "--data", str(own), "--out", str(out)]) == 0
    model = models.load_model(out)
    assert model.facts["quantisation"]["policy"] == found["policy"]
    assert (model.shape, model.facts["num_classes"]) == ((7, 7, 1), 2)
    (line,) = said(capsys, "evaluate", out)
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert line["accuracy"] == result["found"]["test_accuracy"] > 0.8
    assert result["genotype"] == found["genotype"]
