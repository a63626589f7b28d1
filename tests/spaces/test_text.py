"""Strings in and out: nothing is evaluated, and every refusal is one sentence that quotes the fault."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jnas import spaces
from jnas.errors import UserError
from jnas.spaces import Genotype, genotypes, networks

CIFAR = spaces.to_string(spaces.darts(), networks.from_string(spaces.darts(), "PC_DARTS_cifar"))
BENCH = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|"

# Cells that github.com/xiangning-chen/SmoothDARTS and ruocwang/darts-pt publish as found in S1 (CIFAR-10, CIFAR-100,
# SVHN): each of their operators must be on its edge.
FOUND_IN_S1 = [
    "Genotype(normal=[('dil_conv_5x5', 1), ('dil_conv_3x3', 0), ('sep_conv_3x3', 1), ('skip_connect', 2), ('dil_conv_3x3', 3), ('sep_conv_3x3', 2), ('sep_conv_3x3', 0), ('dil_conv_3x3', 2)], normal_concat=range(2, 6), reduce=[('max_pool_3x3', 0), ('dil_conv_3x3', 1), ('dil_conv_5x5', 2), ('max_pool_3x3', 1), ('dil_conv_5x5', 3), ('sep_conv_3x3', 1), ('dil_conv_5x5', 2), ('dil_conv_5x5', 3)], reduce_concat=range(2, 6))",  # noqa: E501
    "Genotype(normal=[('dil_conv_5x5', 1), ('dil_conv_3x3', 0), ('sep_conv_3x3', 1), ('skip_connect', 2), ('sep_conv_3x3', 2), ('dil_conv_3x3', 3), ('sep_conv_3x3', 0), ('dil_conv_3x3', 2)], normal_concat=range(2, 6), reduce=[('max_pool_3x3', 0), ('dil_conv_3x3', 1), ('dil_conv_5x5', 2), ('max_pool_3x3', 0), ('dil_conv_5x5', 3), ('dil_conv_3x3', 2), ('dil_conv_5x5', 4), ('dil_conv_5x5', 2)], reduce_concat=range(2, 6))",  # noqa: E501
    "Genotype(normal=[('dil_conv_5x5', 1), ('dil_conv_3x3', 0), ('dil_conv_5x5', 0), ('sep_conv_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 0)], normal_concat=range(2, 6), reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('max_pool_3x3', 1), ('max_pool_3x3', 0), ('sep_conv_3x3', 1), ('max_pool_3x3', 0), ('dil_conv_5x5', 2), ('max_pool_3x3', 0)], reduce_concat=range(2, 6))",  # noqa: E501
    "Genotype(normal=[('skip_connect', 0), ('dil_conv_5x5', 1), ('sep_conv_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 0), ('skip_connect', 3), ('sep_conv_3x3', 0), ('max_pool_3x3', 1)], normal_concat=range(2, 6), reduce=[('avg_pool_3x3', 0), ('max_pool_3x3', 1), ('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('dil_conv_5x5', 3), ('dil_conv_5x5', 2), ('skip_connect', 3)], reduce_concat=range(2, 6))",  # noqa: E501
    "Genotype(normal=[('skip_connect', 0), ('skip_connect', 1), ('dil_conv_5x5', 0), ('skip_connect', 2), ('max_pool_3x3', 0), ('sep_conv_3x3', 2), ('dil_conv_3x3', 3), ('dil_conv_3x3', 4)], normal_concat=range(2, 6), reduce=[('max_pool_3x3', 0), ('dil_conv_3x3', 1), ('avg_pool_3x3', 1), ('dil_conv_5x5', 2), ('skip_connect', 2), ('dil_conv_5x5', 3), ('avg_pool_3x3', 0), ('skip_connect', 4)], reduce_concat=range(2, 6))",  # noqa: E501
    "Genotype(normal=[('dil_conv_3x3', 0), ('skip_connect', 1), ('skip_connect', 0), ('skip_connect', 2), ('skip_connect', 0), ('dil_conv_3x3', 3), ('skip_connect', 2), ('dil_conv_5x5', 3)], normal_concat=range(2, 6), reduce=[('avg_pool_3x3', 0), ('max_pool_3x3', 1), ('max_pool_3x3', 0), ('dil_conv_5x5', 2), ('avg_pool_3x3', 0), ('sep_conv_3x3', 1), ('max_pool_3x3', 1), ('skip_connect', 4)], reduce_concat=range(2, 6))",  # noqa: E501
    "Genotype(normal=[('dil_conv_3x3', 0), ('skip_connect', 1), ('dil_conv_3x3', 2), ('sep_conv_3x3', 1), ('dil_conv_3x3', 3), ('sep_conv_3x3', 2), ('skip_connect', 0), ('dil_conv_3x3', 4)], normal_concat=range(2, 6), reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('dil_conv_5x5', 2), ('max_pool_3x3', 1), ('dil_conv_5x5', 3), ('dil_conv_3x3', 2), ('dil_conv_5x5', 4), ('dil_conv_5x5', 3)], reduce_concat=range(2, 6))",  # noqa: E501
    "Genotype(normal=[('skip_connect', 0), ('dil_conv_5x5', 1), ('skip_connect', 1), ('skip_connect', 0), ('skip_connect', 2), ('skip_connect', 0), ('skip_connect', 1), ('skip_connect', 2)], normal_concat=range(2, 6), reduce=[('max_pool_3x3', 0), ('dil_conv_3x3', 1), ('dil_conv_5x5', 2), ('max_pool_3x3', 0), ('dil_conv_5x5', 3), ('dil_conv_3x3', 2), ('dil_conv_5x5', 2), ('dil_conv_5x5', 3)], reduce_concat=range(2, 6))",  # noqa: E501
    "Genotype(normal=[('skip_connect', 0), ('dil_conv_5x5', 1), ('skip_connect', 0), ('sep_conv_3x3', 1), ('max_pool_3x3', 0), ('skip_connect', 3), ('sep_conv_3x3', 0), ('max_pool_3x3', 1)], normal_concat=range(2, 6), reduce=[('max_pool_3x3', 0), ('dil_conv_3x3', 1), ('avg_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('dil_conv_5x5', 3), ('dil_conv_5x5', 2), ('skip_connect', 3)], reduce_concat=range(2, 6))",  # noqa: E501
]


def by_node(pairs):
    return [sorted(pairs[start : start + 2], key=lambda pair: pair[1]) for start in range(0, len(pairs), 2)]


@pytest.mark.parametrize("name", genotypes.PUBLISHED)
def test_published_genotypes_encode_and_decode(name):
    published = genotypes.PUBLISHED[name]
    arch = networks.from_string(spaces.darts(), name)
    np.testing.assert_array_equal(spaces.encode(spaces.darts(), published), arch)
    back = spaces.to_genotype(spaces.darts(), arch)
    assert by_node(back.normal) == by_node(published.normal)
    assert by_node(back.reduce) == by_node(published.reduce)
    assert list(back.normal_concat) == list(published.normal_concat) == [2, 3, 4, 5]
    np.testing.assert_array_equal(spaces.from_string(spaces.darts(), f"{name} = {published!r}"), arch)


def test_published_genotypes_differ():
    assert len({str(value) for value in genotypes.PUBLISHED.values()}) == len(genotypes.PUBLISHED) == 9


@pytest.mark.parametrize("text", FOUND_IN_S1)
def test_cells_found_in_s1_fit_its_edges(text):
    arch = spaces.from_string(spaces.s1(), text)
    np.testing.assert_array_equal(spaces.from_string(spaces.s1(), spaces.to_string(spaces.s1(), arch)), arch)
    assert spaces.is_connected(spaces.s1(), arch)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.tuples(*(st.integers(0, len(choice.options) - 1) for choice in spaces.darts().choices)))
def test_genotype_pastes_back_in(codes):
    genotype = spaces.to_genotype(spaces.darts(), codes)
    assert eval(repr(genotype), {"Genotype": Genotype}) == genotype
    np.testing.assert_array_equal(spaces.encode(spaces.darts(), genotype), codes)
    assert all(pair == tuple(pair) and type(pair[1]) is int for pair in [*genotype.normal, *genotype.reduce])


def test_genotype_looks_as_darts_prints_it():
    assert CIFAR == (
        "Genotype(normal=[('skip_connect', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('dil_conv_3x3', 1), "
        "('sep_conv_5x5', 0), ('sep_conv_3x3', 1), ('avg_pool_3x3', 0), ('dil_conv_3x3', 1)], "
        "normal_concat=range(2, 6), "
        "reduce=[('max_pool_3x3', 0), ('sep_conv_5x5', 1), ('sep_conv_5x5', 1), "
        "('sep_conv_5x5', 2), ('sep_conv_3x3', 0), "
        "('sep_conv_3x3', 3), ('sep_conv_3x3', 1), ('sep_conv_3x3', 2)], reduce_concat=range(2, 6))"
    )


def test_other_ways_of_writing_are_read():
    arch = spaces.from_string(spaces.darts(), CIFAR)
    positional = (
        CIFAR.replace("normal=", "").replace("reduce=", "").replace("normal_concat=", "").replace("reduce_concat=", "")
    )
    for text in (positional, CIFAR.replace("range(2, 6)", "[2, 3, 4, 5]"), CIFAR.replace("[", "(").replace("]", ")")):
        np.testing.assert_array_equal(spaces.from_string(spaces.darts(), text), arch)
    bench = spaces.nasbench201()
    shuffled = "|nor_conv_3x3~0| + |skip_connect~1|none~0|+|nor_conv_1x1~2|avg_pool_3x3~0|none~1|"
    np.testing.assert_array_equal(spaces.from_string(bench, shuffled), spaces.from_string(bench, BENCH))
    np.testing.assert_array_equal(spaces.from_string(bench, BENCH), [3, 0, 1, 4, 0, 2])


JUNK = [
    ("darts", "", "''"),
    ("darts", "DARTS_V3", "'DARTS_V3'"),
    ("darts", BENCH, "nor_conv_3x3~0"),
    ("darts", "Genotype(normal=[], normal_concat=[])", "reduce_concat"),
    ("darts", CIFAR + ")", "Genotype(normal="),
    ("darts", CIFAR.replace("Genotype", "print"), "print(normal="),
    ("darts", CIFAR.replace("reduce_concat", "reduced"), "reduce_concat"),
    ("darts", CIFAR.replace("'avg_pool_3x3'", "'conv_9x9'"), "'conv_9x9' in 'normal'"),
    ("darts", CIFAR.replace("'avg_pool_3x3'", "'none'"), "'none' on edge 0->5 of 'normal'"),
    ("darts", CIFAR.replace("('avg_pool_3x3', 0)", "('avg_pool_3x3', 7)"), "('avg_pool_3x3', 7)"),
    ("darts", CIFAR.replace("('avg_pool_3x3', 0)", "('avg_pool_3x3', 1)"), "second edge 1->5"),
    ("darts", CIFAR.replace("('avg_pool_3x3', 0)", "('avg_pool_3x3', -1)"), "('avg_pool_3x3', -1)"),
    ("darts", CIFAR.replace("('avg_pool_3x3', 0)", "'avg_pool_3x3'"), "'avg_pool_3x3'"),
    ("darts", CIFAR.replace("('avg_pool_3x3', 0)", "*[('avg_pool_3x3', 0)]"), "*[("),
    ("darts", CIFAR.replace("('avg_pool_3x3', 0), ", ""), "'normal' has 7 pairs"),
    ("darts", CIFAR.replace("range(2, 6)", "range(3, 6)"), "[3, 4, 5]"),
    ("darts", CIFAR.replace("range(2, 6)", "range(0, 10**12)"), "10 ** 12"),
    ("darts", CIFAR.replace("range(2, 6)", "range(0, 10000000000000)"), "range(0, 10000000000000)"),
    ("darts", CIFAR.replace("range(2, 6)", "2"), "'2' lists no nodes"),
    ("darts", CIFAR.replace("range(2, 6)", "0x" + "f" * 1200), "lists no nodes"),
    ("darts", "(" * 1000, "'((("),
    ("darts", "-" * 2900 + "1", "'---"),
    ("darts", CIFAR.replace("range(2, 6)", "0x" + "f" * 9000), "Genotype(normal="),
    ("darts", "Genotype\x00", "Genotype"),
    ("s1", "DARTS_V1", "'sep_conv_3x3' on edge 0->2 of 'normal' is not in space 's1'"),
    ("s2", "DARTS_V2", "'dil_conv_3x3' in 'normal' is no operator of space 's2'"),
    ("nasbench201", "", "''"),
    ("nasbench201", "DARTS_V1", "'DARTS_V1'"),
    ("nasbench201", CIFAR, '"Genotype(normal='),
    ("nasbench201", BENCH[:-1], "'|avg_pool_3x3~0|none~1|nor_conv_1x1~2'"),
    ("nasbench201", BENCH + "+|none~0|", "4 nodes"),
    ("nasbench201", BENCH.replace("avg_pool_3x3", "avg_pool"), "'avg_pool~0'"),
    ("nasbench201", BENCH.replace("nor_conv_1x1~2", "nor_conv_1x1~3"), "'nor_conv_1x1~3'"),
    ("nasbench201", BENCH.replace("nor_conv_1x1~2", "nor_conv_1x1~²"), "'nor_conv_1x1~²'"),
    ("nasbench201", BENCH.replace("none~1", "none~2"), "second edge 2->3"),
    ("nasbench201", BENCH.replace("|none~1", ""), "'cell/1->3' has 0 operators"),
]


@pytest.mark.parametrize("depth", [300, 700, 5000])
def test_what_is_nested_deeply_is_refused(depth):
    text = f"Genotype(normal=[('skip_connect', {depth * '+'}0)], normal_concat=[2], reduce=[], reduce_concat=[2])"
    with pytest.raises(UserError, match=r"is no (pair|genotype): write"):
        spaces.from_string(spaces.darts(), text)


@pytest.mark.parametrize(("name", "text", "quoted"), JUNK, ids=range(len(JUNK)))
def test_junk_gives_one_sentence_that_quotes_the_fault(name, text, quoted):
    with pytest.raises(UserError) as caught:
        networks.from_string(spaces.by_name(name), text)
    message = str(caught.value)
    assert quoted in message
    assert message.endswith(".")
    assert "\n" not in message
    assert len(message) < 260


def test_text_is_never_evaluated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call = "__import__('pathlib').Path('evaluated').touch()"
    for text in (call, CIFAR.replace("range(2, 6)", call), CIFAR.replace("('avg_pool_3x3', 0)", call)):
        with pytest.raises(UserError):
            spaces.from_string(spaces.darts(), text)
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.sampled_from([CIFAR, BENCH]), st.integers(0, 500), st.integers(0, 12), st.text(max_size=6))
def test_a_damaged_string_is_read_or_refused(text, start, length, inserted):
    damaged = text[:start] + inserted + text[start + length :]
    for space in (spaces.darts(), spaces.nasbench201()):
        try:
            arch = spaces.from_string(space, damaged)
        except UserError:
            continue
        np.testing.assert_array_equal(spaces.from_string(space, spaces.to_string(space, arch)), arch)


def test_by_name():
    assert spaces.by_name("NAS-Bench-201") is spaces.nasbench201()
    assert spaces.by_name("DARTS") is spaces.darts()
    assert [spaces.by_name(f"S{number}").name for number in (1, 2, 3, 4)] == ["s1", "s2", "s3", "s4"]
    with pytest.raises(UserError, match=r"'nasbench101'.*darts, nasbench201, s1, s2, s3, s4"):
        spaces.by_name("nasbench101")


def test_several_cells_are_named_in_the_string():
    edge_ops = ((("a", "b"), (), ("b",)), (("a",), ("a", "b"), ("a", "b")))
    space = spaces.CellSpace("two", ("left", "right"), 1, 2, ("a", "b"), edge_ops, None, "last")
    text = spaces.to_string(space, [1, 0, 0, 0, 1])
    assert text == "left=|b~0|+|b~1| right=|a~0|+|a~0|b~1|"
    np.testing.assert_array_equal(spaces.from_string(space, text), [1, 0, 0, 0, 1])
    for junk in (text.replace("right", "left"), text.partition(" ")[0], "left"):
        with pytest.raises(UserError, match=r"right=\|op~0\|"):
            spaces.from_string(space, junk)
    with pytest.raises(UserError, match=r"'b' on edge 0->1 of 'right' is not in space 'two': choose a\."):
        spaces.from_string(space, text.replace("right=|a~0|", "right=|b~0|"))
    with pytest.raises(UserError, match=r"'a' on edge 0->2 of 'left' .* leave the edge out"):
        spaces.from_string(space, text.replace("|b~1| right", "|a~0|b~1| right"))


def test_encode_refuses_another_graph_and_an_open_space():
    with pytest.raises(UserError, match="'nasbench201' is no network over the cells of 'darts'"):
        spaces.encode(spaces.darts(), spaces.fix(spaces.nasbench201(), [0] * 6))
    with pytest.raises(UserError, match="pass what fix returned"):
        spaces.encode(spaces.darts(), spaces.darts())
    with pytest.raises(UserError, match="has no genotypes"):
        spaces.encode(spaces.nasbench201(), genotypes.PUBLISHED["DARTS_V1"])
    with pytest.raises(ValueError, match="use to_string"):
        spaces.to_genotype(spaces.nasbench201(), [0] * 6)


def test_a_found_network_encodes_in_a_wider_space():
    narrow, wide = spaces.s2(), spaces.darts()
    arch = np.arange(8) // 2
    genotype = spaces.to_genotype(narrow, arch)
    assert spaces.to_genotype(wide, spaces.encode(wide, genotype)) == genotype
    np.testing.assert_array_equal(spaces.encode(narrow, spaces.fix(wide, spaces.encode(wide, genotype))), arch)
