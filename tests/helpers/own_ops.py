"""Parts of a user's own, as a test copies them beside a run; each time the file is run it says so in a file beside."""

import pathlib

import numpy as np
from flax import linen as nn

from jnas import data, spaces
from jnas.types import Source

if __name__ != "own_ops":  # and not imported by a test
    with open(f"{__file__}.ran", "a", encoding="utf-8") as ran:
        ran.write("run\n")


class SqueezeExcite(nn.Module):
    channels: int
    stride: int

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(self.channels, (3, 3), self.stride, use_bias=False)(nn.relu(x))
        return x * nn.sigmoid(nn.Dense(self.channels)(x.mean((1, 2))))[:, None, None]


NAME = "squeeze_excite"
WHOLE = spaces.extend(spaces.branched(("none", "skip_connect"), 2), spaces.Operator(NAME, SqueezeExcite))
# One edge has no other candidate, so that whatever is found holds the operator.
SPACE = spaces.narrow(WHOLE, {"cell": [WHOLE.ops, (NAME,), WHOLE.ops]})

PLAIN = spaces.branched(("none", "skip_connect", "nor_conv_1x1"), 2)
BUILT_IN = spaces.narrow(PLAIN, {"cell": [PLAIN.ops, ("nor_conv_1x1",), PLAIN.ops]})  # found by no name

LABELS = np.arange(120) % 4
IMAGES = (60 * LABELS[:, None, None] + np.random.default_rng(0).integers(0, 60, (120, 7, 7))).astype(np.uint8)
ARRAYS = IMAGES[:80], LABELS[:80], IMAGES[80:], LABELS[80:]
NAMED = dict(zip(("x_train", "y_train", "x_test", "y_test"), ARRAYS, strict=True))
FLAT = data.Dataset(IMAGES.reshape(120, 49), LABELS.astype(np.int32), (7, 7, 1), 4, "mine")
SPLITS = data.Splits(FLAT.part(np.arange(80)), FLAT.part(np.arange(80, 120)))
STREAM = Source(lambda arrays, step, key: arrays)


def images():
    return ARRAYS


def fails():
    raise RuntimeError(pathlib.Path(__file__).name)


def score(space, train, validation, training):
    assert (len(train), len(validation), training.channels) == (50, 20, 2)
    return lambda arch, key: -float(np.sum(arch))
