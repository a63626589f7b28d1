"""Joint searches over chains: a run from its supernet to the exported file, and what filters and latencies do."""

import json

import jax
import numpy as np
import pytest
from quantised_worker import made_up, settings

from jnas import exported
from jnas.cli.main import main
from jnas.nets.chain import ChainNetwork
from jnas.nets.quant.sizes import layer_shapes
from jnas.recipes import driver, models, quantised
from jnas.recipes.joint import latencies
from jnas.recipes.joint import recipe as joint
from jnas.spaces import networks
from jnas.spaces.policy import method_of

SEARCH = (
    "search", "joint", "space=chain:conv_3x3-w2,conv_3x3-e2-dw+skip_connect,fc_6", "operators=", "methods=w3a6 w5a8",
    "units=shared", "shrink=1", "tuning_steps=0", "supernet.channels=2", "supernet.epochs=4", "supernet.batch_size=24",
    "searcher=random", "num_evaluations=6", "at_once=3", "compare=false",
    "train.channels=2", "train.epochs=12", "train.batch_size=24", "train.learning_rate=0.1", "augmentation.crop=0",
    "augmentation.flip=false", "train.augmentation.crop=0", "train.augmentation.flip=false", "steps_per_call=40",
)  # fmt: skip


@pytest.fixture(scope="module")
def searched(images, tmp_path_factory):
    """The folder of a run of which nothing is made up."""
    folder = tmp_path_factory.mktemp("chains") / "run"
    with jax.numpy_dtype_promotion("standard"):
        assert main([*SEARCH, f"data={images}", "--out", str(folder)]) == 0
    return folder


def said(capsys, *words):
    """What a command prints, a line of JSON."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_chain_is_found_with_its_widths_and_trained_at_them(searched, capsys):
    result = json.loads((searched / "result.json").read_text(encoding="utf-8"))
    found, joint = result["found"], result["quantised"]["joint"]
    space = networks.network_space(result["space"])
    net = ChainNetwork(networks.fix(space, np.array(joint["arch"])), 2, 4)
    assert networks.to_string(space, np.array(joint["arch"])) == found["genotype"]
    one = quantised.of_facts(net, {"quantisation": {"units": "shared", "policy": found["policy"]}, "shape": (7, 7, 1)})
    assert set(one.by_layer().values()) <= {method_of(text) for text in ("w3a6", "w5a8", "w8a8")}
    assert joint["size"] == quantised.size(one, (7, 7, 1))
    assert found["test_accuracy"] > 0.5  # guessing: a quarter
    assert found["integer"]["agreement"] >= 0.9
    page = (searched / "report.html").read_text(encoding="utf-8")
    assert "layer_0 w" in page
    assert "could not be read" not in page
    line = said(capsys, "evaluate", searched)
    assert (line["accuracy"], line["loss"]) == (found["test_accuracy"], pytest.approx(found["test_loss"], rel=1e-5))


def test_the_exported_file_says_what_the_run_says(searched, images, tmp_path, capsys):
    line = said(capsys, "export", searched, "--out", tmp_path / "chain.jnas")
    result = json.loads((searched / "result.json").read_text(encoding="utf-8"))
    assert line["weights_bytes"] == pytest.approx(result["quantised"]["joint"]["size"], rel=0.2)
    model = models.load_model(searched)
    with np.load(images) as arrays:
        pixels = arrays["x_test"][..., None]
    expected = jax.jit(models.answer(model))(model.weights, pixels)["probability"]
    found = exported.load(tmp_path / "chain.jnas")(pixels)["probability"]
    assert np.median(np.abs(found - expected)) < 1e-5  # a value between two levels may go either way
    assert np.mean(np.argmax(found, 1) == np.argmax(expected, 1)) >= 0.9


def test_it_is_trained_further_at_its_widths(searched, tmp_path, capsys):
    words = ["train.epochs=1", "--out", str(tmp_path / "on")]
    with jax.numpy_dtype_promotion("standard"):
        assert main(["train", str(searched), *words]) == 0
    before, after = models.load_model(searched), models.load_model(tmp_path / "on")
    assert after.facts["quantisation"] == before.facts["quantisation"]
    assert after.facts["genotype"] == before.facts["genotype"]
    assert said(capsys, "evaluate", tmp_path / "on")["accuracy"] > 0.5


def test_layers_are_filtered_and_latencies_of_any_chain_measured(images, tmp_path):
    seen = []

    def score(of=None, **_):
        """A quarter of the accuracy is lost by the grouped convolution, which the second layer has."""
        at = 0 if of is None else of.names.index("layer_1/conv_3x3-g2")

        def judge(archs, columns):
            seen.extend(archs.tolist() if of is None else [])
            return 0.5 - 0.125 * ((archs[:, 1] == 1) & (columns[:, at] == 0))

        return judge

    changes = {
        "space": "chain:conv_3x3-w2,skip_connect+skip_connect,conv_3x3-g2,max_pool_3x3+skip_connect,fc_6",
        "operators": "", "policy": "w2a4", "operator_threshold": 0.1, "method_threshold": None, "compare": False,
        "latency": "measured", "reward": {"latency": 0.1}, "units": "edges",
    }  # fmt: skip
    with made_up(score=score):
        found = driver.run(joint, settings(images, **changes), tmp_path / "run")["quantised"]["joint"]
    assert len(seen) == 8  # all that are left
    assert {arch[1] for arch in seen} == {0, 2}
    space = networks.network_space(changes["space"])
    net = ChainNetwork(networks.fix(space, np.array(found["arch"])), 2, 4)
    milliseconds, eight = latencies.measured(tmp_path / "run"), method_of("w8a8")
    assert found["latency"] == pytest.approx(
        sum(milliseconds(layer, eight) for layer in layer_shapes(net, (7, 7, 1)).values())
    )
    assert "Operators: accuracy lost alone" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
