"""An operator that the package does not know, searched beside built-in ones, derived, trained, measured, exported."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jnas import exported, nets, spaces, train
from jnas.data.load import load
from jnas.errors import UserError
from jnas.recipes import config, driver, models
from jnas.recipes.gradient import recipe as gradient
from jnas.recipes.gradient.settings import Search
from jnas.recipes.tasks import export
from jnas.spaces.operators import Operator
from jnas.train.hooks import Hook
from jnas.train.program import _has_lax_convolution


class SqueezeExcite(nn.Module):
    channels: int
    stride: int

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(self.channels, (3, 3), self.stride, use_bias=False)(nn.relu(x))
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        squeezed = nn.relu(nn.Dense(max(1, self.channels // 4))(x.mean((1, 2))))
        return x * nn.sigmoid(nn.Dense(self.channels)(squeezed))[:, None, None]


NAME = "squeeze_excite"
WHOLE = spaces.extend(
    spaces.branched(("none", "skip_connect", "nor_conv_1x1"), 2), spaces.Operator(NAME, SqueezeExcite)
)
# One edge has no other candidate, so that whatever is found holds the operator; on the others it is one of four.
SPACE = spaces.narrow(WHOLE, {"cell": [WHOLE.ops, (NAME,), WHOLE.ops]})
WORDS = (
    "channels=2", "epochs=2", "batch_size=20", "random_cells=0", "augmentation.crop=1", "checkpoint_every=1",
    "estimator=first_order", "train.channels=2", "train.epochs=1", "train.batch_size=40", "train.augmentation.crop=1",
)  # fmt: skip


def run(images, folder):
    settings = config.build(Search, config.read_words([f"data={images}", *WORDS]))
    with jax.numpy_dtype_promotion("standard"):
        return driver.run(gradient, settings, folder, space=SPACE)


@pytest.fixture(scope="module")
def folder(images, tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "run"
    run(images, path)
    return path


def test_it_is_searched_derived_trained_and_drawn(folder):
    result = json.loads((folder / "result.json").read_text())
    assert f"{NAME}~0" in result["genotype"]
    assert result["space"] == "cell-2:none,skip_connect,nor_conv_1x1+squeeze_excite"
    alphas = [json.loads(line)["alpha"] for line in (folder / "search" / "genotypes.jsonl").read_text().splitlines()]
    column = np.array([alpha["cell"] for alpha in alphas])[:, :, SPACE.ops.index(NAME)]
    assert (column[0] != column[1])[[0, 2]].all()  # a candidate, not a bystander
    assert f'data-op="{NAME}"' in (folder / "report.html").read_text()


def test_it_is_measured_from_its_folder(folder, images):
    splits = load(str(images))
    place = folder / "train" / "found"
    stored = json.loads((place / "result.json").read_text())
    assert models.measure(place, splits.test, space=SPACE)["accuracy"] == stored["test_accuracy"]
    with pytest.raises(UserError, match="is no generated space"):
        models.measure(place, splits.test)
    with pytest.raises(UserError, match="and not 'nasbench201': give that space"):
        models.measure(place, splits.test, space=spaces.nasbench201())


def test_it_is_exported_to_a_file_that_answers_alike(folder, images, tmp_path):
    model = models.load_model(folder, space=SPACE)
    export.export_network(model, tmp_path / "net.jnas", platforms=("cpu",))
    test = load(str(images)).test
    pixels = test.images.reshape(-1, *test.shape)
    wanted = jax.jit(models.answer(model))(model.weights, pixels)["probability"]
    found = exported.load(tmp_path / "net.jnas")(pixels)["probability"]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    np.testing.assert_array_equal(found.argmax(1), wanted.argmax(1))


def test_a_search_that_was_cut_off_ends_in_the_same_bits(folder, images, tmp_path, monkeypatch):
    hooks = train.standard_hooks

    def cut(event):
        if event.step == 4:
            raise RuntimeError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr(train, "standard_hooks", lambda *names, **options: [*hooks(*names, **options), Hook(steps=cut)])
        with pytest.raises(RuntimeError, match="cut off"):
            run(images, tmp_path / "run")
    assert not (tmp_path / "run" / "search" / "found.json").exists()
    run(images, tmp_path / "run")
    for name in ("search/metrics.jsonl", "search/genotypes.jsonl"):
        rows = [
            [{key: value for key, value in json.loads(line).items() if key != "time"} for line in lines]
            for lines in ((path / name).read_text().splitlines() for path in (folder, tmp_path / "run"))
        ]
        assert rows[0] == rows[1], name
    weights = [(path / "train" / "found" / "weights.npz").read_bytes() for path in (folder, tmp_path / "run")]
    assert weights[0] == weights[1]


def gradient_of(net):
    params, stats = jax.eval_shape(lambda key: nets.initialise(net, key, (6, 6, 3)), jax.random.key(0))
    mix = {"cell": jnp.ones((net.space.num_edges, len(net.space.ops)))}

    def loss(params, stats):
        variables = {"params": params, "batch_stats": stats}
        return net.apply(variables, jnp.ones((2, 6, 6, 3)), mix, train=True, mutable=["batch_stats"])[0].main.sum()

    return jax.make_jaxpr(jax.grad(loss))(params, stats).jaxpr


def test_only_edges_whose_candidates_loop_well_are_a_loop():
    declared = spaces.extend(spaces.branched(("none", "skip_connect"), 2), Operator(NAME, SqueezeExcite, loops=True))
    plain = spaces.branched(("none", "skip_connect", "nor_conv_1x1"), 2)
    for space, looped, convolves in ((WHOLE, False, True), (declared, True, True), (plain, True, False)):
        net = nets.network_for(space, channels=2, depth=1, num_classes=2)
        program = gradient_of(net)
        scans = [equation for equation in program.eqns if equation.primitive.name == "scan"]
        assert scans
        # An unrolled one has as many copies as trips: XLA sees no loop.
        assert all((scan.params["unroll"] < scan.params["length"]) == looped for scan in scans)
        assert _has_lax_convolution(program) == convolves  # which keeps the steps of a search out of a loop


def test_every_strategy_computes_the_same_mixture():
    values = []
    for strategy in ("scan", "merge"):
        net = nets.network_for(WHOLE, channels=2, depth=1, num_classes=2, edge_strategy=strategy)
        params, stats = nets.initialise(net, jax.random.key(0), (6, 6, 3))
        x = jax.random.normal(jax.random.key(1), (2, 6, 6, 3))
        mix = {"cell": jax.random.uniform(jax.random.key(2), (3, len(WHOLE.ops)))}
        apply = jax.jit(lambda params, net=net, stats=stats, x=x, mix=mix: net.apply(
            {"params": params, "batch_stats": stats}, x, mix, train=True, mutable=["batch_stats"]
        ))  # fmt: skip
        values.append(apply(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *values)
