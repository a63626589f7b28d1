"""Cells as other codes print them: each beside the same cell in the form of this one."""

import re

import numpy as np
import pytest

from jnas import spaces
from jnas.cli.main import main
from jnas.errors import UserError
from jnas.spaces import genotypes, networks

BENCH = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|"
DARTS_V2 = genotypes.PUBLISHED["DARTS_V2"]
FLAT = repr(DARTS_V2)
# Its pairs (source, operator) among max_pool_3x3, avg_pool_3x3, skip_connect, sep 3 and 5, dil 3 and 5, by hand.
COMPACT = (
    ((0, 3), (1, 3), (0, 3), (1, 3), (1, 3), (0, 2), (0, 2), (2, 5)),
    ((0, 0), (1, 0), (2, 2), (1, 0), (0, 0), (2, 2), (2, 2), (1, 0)),
)


def by_node(open_, close):
    """As forks of DARTS print it, whose cells are lists with a list a node."""
    cells = [[pairs[i : i + 2] for i in range(0, 8, 2)] for pairs in (DARTS_V2.normal, DARTS_V2.reduce)]
    text = repr(DARTS_V2._replace(normal=cells[0], reduce=cells[1]))
    return text.replace("[(", open_ + "(").replace(")]", ")" + close)


def autodl(number="{}"):
    """As searches of D-X-Y/AutoDL-Projects print it, see `genotype` of lib/models/cell_searchs: the larger first."""
    names = {"sep_conv": "dua_sepc", "dil_conv": "dil_sepc"}
    weights, cells = iter(("0.13160914", "0.12849186", "1.2e-05", "9e-06") * 4), {}
    for cell, pairs in (("normal", DARTS_V2.normal), ("reduce", DARTS_V2.reduce)):
        of = [f"('{op}', {source}, {number.format(next(weights))})" for op, source in pairs]
        cells[cell] = ", ".join(f"({', '.join(of[i : i + 2])})" for i in range(0, 8, 2))
    text = ", ".join(f"'{cell}': [{nodes}], '{cell}_concat': [2, 3, 4, 5]" for cell, nodes in cells.items())
    return re.sub("sep_conv|dil_conv", lambda name: names[name[0]], f"{{{text}}}")


@pytest.mark.parametrize(
    "text",
    [
        # NASLib: skip, none, 3x3, 1x1, pooling on the edges 0-1, 0-2, 0-3, 1-2, 1-3, 2-3
        "naslib:(2, 1, 4, 0, 1, 3)",
        "naslib: [2, 1, 4, 0, 1, 3]",
        "naslib:(np.int64(2), np.int64(1), 4, 0, 1, 3)",
        # naszilla: pooling, 1x1, 3x3, none, skip on the edges 0-1, 0-2, 1-2, 0-3, 1-3, 2-3
        "naszilla:[2, 3, 4, 0, 3, 1]",
        "nasbench201:(3, 0, 1, 4, 0, 2)",
        f"Structure(4 nodes with {BENCH})",
        f" _Structure(4 nodes with {BENCH})\n",
    ],
)
def test_cells_of_the_benchmark(text):
    space = spaces.nasbench201()
    np.testing.assert_array_equal(networks.from_string(space, text), spaces.from_string(space, BENCH))


@pytest.mark.parametrize(
    "text",
    [
        f"genotypes.{FLAT}",
        f"best = cnn.genotypes.{FLAT}",
        re.sub(r", (\d)\)", r", np.int64(\1))", FLAT),
        FLAT.replace("range(2, 6)", "[np.int64(2), np.int64(3), np.int64(4), np.int64(5)]"),
        by_node("[", "]"),
        by_node("(", ")"),
        by_node("[", "]").replace("[[(", "[\n  [ (").replace(", [(", ",\n  [("),
        f"naslib:{COMPACT}",
        autodl(),
        f" autodl: {autodl('np.float32({})')}\n",
        autodl().replace("], '", "],\n '").replace("dua_sepc", "sep_conv"),
    ],
)
def test_cells_of_darts(text):
    space = spaces.darts()
    np.testing.assert_array_equal(networks.from_string(space, text), networks.from_string(space, "DARTS_V2"))


@pytest.mark.parametrize(
    ("space", "text"),
    [
        ("nasbench201", "(2, 1, 4, 0, 1, 3)"), ("nasbench201", "4"), ("nasbench201", "naslib:(2, 1, 4)"),
        ("nasbench201", "naslib:(2, 1, 5, 0, 1, 3)"), ("nasbench201", "other:(2, 1, 4, 0, 1, 3)"),
        ("nasbench201", f"naslib:{COMPACT}"), ("nasbench201", "naslib:((2, 1), 3)"), ("nasbench201", "naslib:(2, 1"),
        ("nasbench201", "naslib:" + "(" * 900 + "1"), ("darts", "(" * 2000 + "1"),
        ("nasbench201", f"naslib:({'9' * 2900},)"),
        ("darts", str(COMPACT)), ("darts", f"naszilla:{COMPACT}"), ("darts", "naslib:(2, 1, 4, 0, 1, 3)"),
        ("darts", f"naslib:{COMPACT}".replace("5", "7")),
    ],
)  # fmt: skip
def test_numbers_of_no_convention_are_refused(space, text):
    with pytest.raises(UserError, match=r"are no numbers of a convention for space '.*: write naslib:"):
        networks.from_string(spaces.by_name(space), text)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[:-1], "is no genotype: write Genotype"),
        (lambda text: text.replace("'reduce_concat': [2, 3, 4, 5]", ""), "must give normal, normal_concat, reduce,"),
        (
            lambda text: text.replace("'skip_connect', 0", "'conv_3x1_1x3', 0"),
            "'conv_3x1_1x3' in 'normal' is no operator",
        ),
        (lambda text: text.replace("'dil_sepc_3x3', 2", "'dil_sepc_3x3', 7"), "has no source 7: node 5 takes 0 to 4"),
        (lambda text: text.replace("0.13160914", "nan", 1), "is no pair: write (operator, source)"),
        (lambda text: text.replace("(('", "('"), "is no genotype: write Genotype"),
    ],
)
def test_what_is_damaged_is_said_in_one_sentence(change, said):
    with pytest.raises(UserError) as error:
        networks.from_string(spaces.darts(), change(autodl()))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_the_command_takes_them(capsys):
    for text, space in (
        (autodl(), "darts"),
        (f"naslib:{COMPACT}", "darts"),
        ("naslib:[2, 1, 4, 0, 1, 3]", "nasbench201"),
    ):
        assert main(["train", text, "--show"]) == 0
        assert f"space: {space}" in capsys.readouterr().out
