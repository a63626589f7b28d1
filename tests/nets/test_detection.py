"""The detector's targets, loss and decoding against plain loops, finite differences and perfect predictions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnas import nets, spaces
from jnas.nets.boxes import places
from jnas.nets.chain import ChainNetwork
from jnas.nets.detection import Detector, Predictions, assign, detect, detection_loss, reached
from jnas.nets.embedding import Embedder
from jnas.spaces import networks

SHAPE, STRIDES = (32, 48), (4, 8)
BOXES = np.array([[3, 3, 15, 17], [20, 4, 44, 30], [5, 20, 12, 30], [30, 2, 40, 12], [0, 0, 0, 0]], np.float32)
LABEL = np.array([0, 1, 2, 1, -1], np.int32)
IGNORED = np.array([False, False, False, True, False])


@pytest.fixture(scope="module")
def where():
    return places(SHAPE, STRIDES, reach=3.0)


@pytest.fixture(scope="module")
def targets(where):
    return jax.device_get(jax.jit(functools.partial(assign, where))(BOXES, LABEL, IGNORED))


@pytest.fixture(scope="module")
def loss(where):
    """The loss with its parts, and its gradient."""
    return jax.jit(jax.value_and_grad(lambda said, wanted: detection_loss(said, wanted, where), has_aux=True))


def in_batch(tree):
    return jax.tree.map(lambda x: np.asarray(x)[None], tree)


def test_boxes_that_are_targets_are_those_that_some_place_has(where, targets):
    found = jax.device_get(reached(where, BOXES, LABEL, IGNORED))
    wanted = {tuple(box) for box in targets.boxes[targets.label >= 0].tolist()}
    assert found.tolist() == [tuple(box) in wanted for box in BOXES.tolist()]
    assert found.any()


@pytest.mark.parametrize("side", [3.0, 6.0])
def test_a_box_below_the_stride_is_a_target_where_it_holds_a_place(side):
    """Along an axis a share of side / stride of all positions does."""
    start = 8 + np.arange(0.125, 8, 0.25, np.float32)
    left, top = (axis.ravel() for axis in np.meshgrid(start, start))
    boxes = np.stack([left, top, left + side, top + side], -1)
    alone = jax.vmap(lambda box: reached(places((32, 32), (8,)), box[None], jnp.zeros(1, int), jnp.zeros(1, bool))[0])
    assert np.asarray(alone(boxes)).mean() == (side / 8) ** 2


def test_targets_are_those_of_plain_loops(where, targets):
    for index, (x, y) in enumerate(where.centre):
        best, size, counts = -1, np.inf, True
        for number, (left, top, right, bottom) in enumerate(BOXES):
            if LABEL[number] < 0:
                continue
            sides = (x - left, y - top, right - x, bottom - y)
            if min(sides) <= 0:
                continue
            if IGNORED[number]:
                counts = False
                continue
            reach = 1.5 * where.stride[index]
            near = abs(x - (left + right) / 2) <= reach and abs(y - (top + bottom) / 2) <= reach
            of_size = where.least[index] <= max(sides) < where.most[index]
            if near and of_size and (right - left) * (bottom - top) < size:
                best, size = number, (right - left) * (bottom - top)
        assert int(targets.label[index]) == (LABEL[best] if best >= 0 else -1)
        np.testing.assert_array_equal(targets.boxes[index], BOXES[best] if best >= 0 else np.zeros(4))
        assert bool(targets.counts[index]) == (counts or best >= 0)
    assert set(np.asarray(targets.label).tolist()) == {-1, 0, 1, 2}


def perfect(where, targets):
    """What an ideal network says, in batches of one."""
    there = targets.label >= 0
    sure = np.where(targets.label[:, None] == np.arange(3), 20, -20).astype(np.float32)
    distances = np.concatenate([where.centre - targets.boxes[:, :2], targets.boxes[:, 2:] - where.centre], 1)
    distances = np.where(there[:, None], distances, 1).astype(np.float32)
    return in_batch(Predictions(sure, np.full(len(sure), 20, np.float32), distances))


def test_perfect_predictions_cost_nothing_and_give_the_boxes_back(where, targets, loss):
    said = perfect(where, targets)
    (value, parts), _ = loss(said, in_batch(targets))
    assert float(value) < 1e-5
    assert float(parts["mean_overlap"]) == pytest.approx(1, abs=1e-5)
    found = jax.jit(lambda said: detect(said, SHAPE, STRIDES, most=20, most_overlap=0.5))(said)
    seen = np.asarray(found.score[0]) > 0.5
    order = np.argsort(np.asarray(found.label[0])[seen])
    np.testing.assert_array_equal(np.asarray(found.label[0])[seen][order], [0, 1, 2])
    np.testing.assert_allclose(np.asarray(found.boxes[0])[seen][order], BOXES[:3], atol=1e-4)


def test_the_gradient_of_the_loss_is_that_of_finite_differences(where, targets, loss):
    rng = np.random.default_rng(0)
    number = len(where.centre)
    point = Predictions(
        rng.normal(size=(1, number, 3)).astype(np.float32),
        rng.normal(size=(1, number)).astype(np.float32),
        rng.uniform(3, 12, (1, number, 4)).astype(np.float32),
    )
    wanted = in_batch(targets)
    (_, parts), slope = loss(point, wanted)
    for field, step in (("logit", 1e-2), ("distances", 1e-2), ("quality", 1e-2)):
        change = rng.normal(size=getattr(point, field).shape).astype(np.float32)
        ahead, behind = (
            loss(point._replace(**{field: getattr(point, field) + sign * step * change}), wanted)[0] for sign in (1, -1)
        )
        # What a box fits is held fixed in the gradient: the loss of the guess about it must not move the box.
        totals = [float(seen[0] - (seen[1]["quality_loss"] if field == "distances" else 0)) for seen in (ahead, behind)]
        predicted = float((np.asarray(getattr(slope, field)) * change).sum())
        assert predicted == pytest.approx((totals[0] - totals[1]) / (2 * step), rel=2e-3, abs=1e-3), field
    away = wanted.label < 0
    assert not np.asarray(slope.quality)[away].any()
    assert np.asarray(slope.quality)[~away].all()
    assert set(parts) == {"class_loss", "box_loss", "quality_loss", "mean_overlap"}


def test_ignored_places_and_no_boxes_at_all(where, targets, loss):
    said = jax.tree.map(np.ones_like, perfect(where, targets))
    none = in_batch(targets)
    none = none._replace(label=np.full_like(none.label, -1))
    (value, _), slope = loss(said, none)
    assert np.isfinite(float(value))
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in slope)
    ignored = ~np.asarray(none.counts)
    assert ignored.any()
    assert not np.asarray(slope.logit)[ignored].any()
    assert np.asarray(slope.logit)[~ignored].all()


@pytest.fixture(scope="module")
def backbone():
    space = spaces.nasbench201()
    skips = "|skip_connect~0|+|none~0|skip_connect~1|+|skip_connect~0|none~1|nor_conv_1x1~2|"
    return nets.network_for(networks.fix(space, networks.from_string(space, skips)), channels=2, depth=1, num_classes=3)


@pytest.mark.parametrize(("stem", "kind"), [("small_image", "nasbench201"), ("imagenet", "darts")])
def test_features_have_the_strides_that_the_network_says(stem, kind):
    space = spaces.by_name(kind)
    fixed = networks.fix(space, spaces.sample(space, jax.random.key(0), 1)[0])
    net = nets.network_for(fixed, channels=2, depth=3 if kind == "darts" else 1, num_classes=3, stem=stem)
    apply = functools.partial(net.init_with_output, jax.random.key(0), train=False, features=True)
    states, variables = jax.eval_shape(apply, jnp.zeros((1, 64, 96, 3)))
    assert tuple(states) == net.strides
    for stride, state in states.items():
        assert state.shape[1:3] == (64 // stride, 96 // stride)
    assert "classifier" not in variables["params"]


def test_the_heads_read_the_features_that_the_classifier_reads(backbone):
    image = np.random.default_rng(1).normal(size=(2, 8, 12, 3)).astype(np.float32)
    chain = ChainNetwork(networks.network_space("chain:nor_conv_1x1+skip_connect"), channels=2, num_classes=1)
    heads = {"plain": backbone, "boxes": Detector(chain, 3, (1, 2, 4), 8, 1), "sphere": Embedder(chain, 3, 5)}
    weights = {
        name: dict(zip(("params", "batch_stats"), nets.initialise(net, jax.random.key(0), (8, 12, 3)), strict=True))
        for name, net in heads.items()
    }

    @jax.jit
    def look(weights, image):
        outputs = {name: net.apply(weights[name], image, train=False) for name, net in heads.items()}
        return outputs, backbone.apply(weights["plain"], image, train=False, features=True)

    outputs, states = jax.device_get(look(weights, image))
    linear = weights["plain"]["params"]["classifier"]["Linear_0"]["Dense_0"]
    # the classifier's batch norm is at its start
    features = np.maximum(states[backbone.strides[-1]] / np.sqrt(1 + 1e-5), 0).mean((1, 2))
    logits = features @ np.asarray(linear["kernel"]) + np.asarray(linear["bias"])
    np.testing.assert_allclose(outputs["plain"].main, logits, atol=1e-5)

    said = outputs["boxes"]  # untrained, it expects little
    assert said.logit.shape == (2, 96 + 24 + 6, 3)
    assert (1 / (1 + np.exp(-said.logit))).mean() < 0.05
    assert said.distances.min() > 0

    seen = outputs["sphere"]
    np.testing.assert_allclose((seen.embedding**2).sum(-1), 1, atol=1e-5)
    assert np.abs(seen.cosine).max() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"strides": (1, 8)}, "strides"), ({"strides": (1, 4)}, "skip one"), ({"strides": ()}, "strides"),
        ({"channels": 12}, "multiple of 8"), ({"depth": 0}, "depth 0"),
    ],
)  # fmt: skip
def test_a_detector_that_does_not_fit_is_refused(backbone, wrong, words):
    with pytest.raises(ValueError, match=words):
        Detector(backbone, 3, **{"strides": (1, 2), **wrong})
