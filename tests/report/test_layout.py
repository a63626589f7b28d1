import itertools

import numpy as np
import pytest

from jnas.report import layout


def random_dag(seed: int, num: int) -> list[tuple[int, int]]:
    rng = np.random.default_rng(seed)
    return [(a, b) for a, b in itertools.combinations(range(num), 2) if rng.random() < 0.5]


@pytest.mark.parametrize("seed", range(5))
def test_layers_are_the_longest_paths_found_by_trying_all(seed):
    links = random_dag(seed, 6)

    def longest(vertex):
        return max((longest(a) + 1 for a, b in links if b == vertex), default=0)

    assert layout.layers(6, links[::-1]) == [longest(v) for v in range(6)]


@pytest.mark.parametrize("seed", range(4))
def test_ordering_reaches_the_fewest_crossings_of_all_orders(seed):
    rng = np.random.default_rng(seed)
    columns = [[0, 1, 2], [3, 4, 5], [6, 7]]
    links = [
        (a, b) for a, b in [*itertools.product(*columns[:2]), *itertools.product(*columns[1:])] if rng.random() < 0.5
    ]
    every = itertools.product(*(map(list, itertools.permutations(column)) for column in columns))
    fewest = min(layout.crossings(list(order), links) for order in every)
    ordered = layout.ordered(columns, links)
    assert layout.crossings(ordered, links) == fewest
    assert [sorted(column) for column in ordered] == columns


def test_crossings_counts_segments_that_really_intersect():
    links = [(a, b) for a in range(3) for b in range(3, 6)]
    assert layout.crossings([[0, 1, 2], [3, 4, 5]], links) == 9  # K_3,3 in two columns: C(3,2)^2


def test_heights_keep_boxes_apart_and_line_up_what_is_free():
    height = {0: 30.0, 1: 30.0, 2: 10.0, 3: 50.0}
    y = layout.heights([[0, 1], [2, 3]], [(0, 2), (1, 3)], height, gap=8)
    assert y[1] - y[0] >= 30 + 8 - 1e-9
    assert y[3] - y[2] >= 30 + 8 - 1e-9
    assert y[0] == pytest.approx(y[2], abs=0.5)
    assert y[1] == pytest.approx(y[3], abs=0.5)
    assert min(y[v] - height[v] / 2 for v in y) == pytest.approx(0)
