"""Path counts against walking the paths one by one."""

import jax
import numpy as np
import pytest

from jnas import spaces
from jnas.spaces.paths import count_paths, path_words

SMALL_DARTS = spaces.cells_of_darts(
    "two operators",
    ("skip_connect", "sep_conv_3x3", "max_pool_3x3"),
    ((("skip_connect", "sep_conv_3x3", "max_pool_3x3"),) * 14,) * 2,
)


def walked(space, arch, longest):
    """Counts by following every way through the fixed cell."""
    fixed, counts = spaces.fix(space, arch), {}
    for cell in fixed.cells:
        edges = [edge for edge in fixed.edges(cell) if edge.ops and edge.ops[0] not in ("none", "noise")]
        last = space.num_inputs + space.num_nodes - 1
        ends = {last} if space.output == "last" else set(range(space.num_inputs, last + 1))

        def walk(state, start, word, cell=cell, edges=edges, ends=ends):
            if state in ends and len(word) <= longest:
                counts[cell, start, word] = counts.get((cell, start, word), 0) + 1
            for edge in edges:
                if edge.source == state:
                    walk(edge.target, start, word if edge.ops[0] == "skip_connect" else (*word, edge.ops[0]))

        for start in range(space.num_inputs):
            walk(start, start, ())
    return counts


@pytest.mark.parametrize("space", [spaces.nasbench201(), SMALL_DARTS, spaces.s4()], ids=lambda space: space.name)
def test_counts_are_those_of_walking(space):
    archs = np.asarray(spaces.sample(space, jax.random.key(0), 6))
    words = path_words(space)
    longest = max(len(word) for _, _, word in words)
    assert len(words) <= 256
    assert len(set(words)) == len(words)
    for arch, row in zip(archs, np.asarray(count_paths(space, archs)), strict=True):
        found = {word: count for word, count in zip(words, row, strict=True) if count}
        assert found == walked(space, arch, longest)


def test_renamed_nodes_and_dead_edges_change_no_count():
    space = spaces.nasbench201()
    renamed = [
        "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|skip_connect~1|avg_pool_3x3~2|",
        "|none~0|+|nor_conv_3x3~0|none~1|+|none~0|avg_pool_3x3~1|skip_connect~2|",
    ]
    archs = np.stack([spaces.from_string(space, text) for text in renamed])
    one, other = np.asarray(count_paths(space, archs))
    np.testing.assert_array_equal(one, other)
    assert one.sum() == 1


def test_a_length_can_be_given():
    space = spaces.nasbench201()
    arch = spaces.from_string(space, "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|none~0|none~1|skip_connect~2|")[None]
    assert len(path_words(space, longest=1)) == 1 + 3
    assert count_paths(space, arch, longest=1).sum() == 0
    assert count_paths(space, arch, longest=2).sum() == 1
