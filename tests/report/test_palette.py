import itertools

import numpy as np
import pytest

from jnas import spaces
from jnas.report.plots import style

# Machado, Oliveira, Fernandes, "A physiologically-based model for simulation of color vision deficiency", 2009;
# severity 1
SEEN = {
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def lab(colour: str, seen) -> np.ndarray:
    srgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    t = XYZ @ np.clip(np.asarray(seen) @ linear, 0, 1) / [0.95047, 1.0, 1.08883]
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("seen", SEEN)
def test_the_kinds_can_be_told_apart_with_any_cones(seen):
    ops = {*spaces.darts().ops, *spaces.nasbench201().ops, "noise"}
    colours = {style(op).colour for op in ops}
    assert len(colours) == 8
    for a, b in itertools.combinations(colours, 2):
        assert np.linalg.norm(lab(a, SEEN[seen]) - lab(b, SEEN[seen])) > 12  # about 2 is a just noticeable difference


def test_operators_of_the_users_own_differ_in_their_dashes():
    assert len({style(op).dash for op in ("squeeze_excite", "blur", "lstm")}) > 1
    assert {style(op).colour for op in ("squeeze_excite", "blur", "lstm")} == {style("noise").colour}


def test_operators_of_one_kind_differ_in_their_dashes():
    for space in (spaces.darts(), spaces.nasbench201()):
        assert len({style(op)[1:] for op in space.ops}) == len(space.ops)
