"""The front of a score that has to be measured and of costs that are known: a linear model says where to measure."""

import collections
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jnas.searchers.base import Searcher, bred
from jnas.spaces.base import Space, mutate, num_options

OPTIMISM = 0.5  # standard deviations of the model's mean with which a candidate is credited
SHARED = 2.0  # what an option is worth wherever it stands, in units of its deviations: see experiments/joint

Costs = Callable[[np.ndarray], np.ndarray]  # codes [n, num_choices] -> [n, num_costs], smaller is better


def front(space: Space, costs: Costs, *, num_initial: int = 20, num_candidates: int = 512) -> Searcher:
    """Asks for what a model believes to be on the Pareto front of score and costs, evenly along it.

    The first `num_initial` are random. From then on the model of `estimates` is fitted to all that is known. Children
    of those that are on the front of its mean and the costs, crossed from two and mutated in one choice, are credited
    with half a standard deviation; of the undominated ones so many as are asked are taken, evenly in the order of the
    first cost. What a cost is need not be learnt, and of a noisy score the model averages over all architectures that
    share an option, where a front of the scores themselves is one of lucky draws.

    Args:
      space: any space with at least two architectures.
      costs: of architectures, known without an evaluation.
      num_initial: random architectures before the model is used.
      num_candidates: children among which each ask chooses.

    Returns:
      A searcher that is told `[n]` scores, larger is better, or `[n, num_objectives]`, of which the first counts.

    Raises:
      ValueError: if the space has one architecture.
    """

    @jax.jit
    @jax.vmap
    def child(key, first, second):
        key_side, key_mutation = jax.random.split(key)
        return mutate(space, key_mutation, jnp.where(jax.random.bernoulli(key_side, 0.5, first.shape), first, second))

    def children(codes, values, key, num):
        best = codes[undominated(estimates(space, codes, values), costs(codes))]
        pairs = np.asarray(jax.random.randint(key, (2, num_candidates), 0, len(best)))
        known = {code.tobytes() for code in codes}
        born = np.unique(np.asarray(child(jax.random.split(key, num_candidates), *best[pairs])), axis=0)
        born = born[[code.tobytes() not in known for code in born]]
        if not len(born):
            return born
        prices = costs(born)
        left = np.flatnonzero(undominated(estimates(space, codes, values, born, optimism=OPTIMISM), prices))
        left = left[np.argsort(prices[left, 0], kind="stable")]
        return born[left[np.unique(np.linspace(0, len(left) - 1, min(num, len(left))).round().astype(int))]]

    searcher = bred(space, num_initial, lambda state, rows: rows, children)
    first = lambda values: np.asarray(values, np.float64).reshape(len(values), -1)[:, 0]
    return searcher._replace(tell=lambda state, codes, values: searcher.tell(state, codes, first(values)))


def estimates(
    space: Space, codes: np.ndarray, scores: np.ndarray, of: np.ndarray | None = None, optimism: float = 0.0
) -> np.ndarray:
    """What Bayesian ridge regression says of scores that are sums over the options of an architecture.

    Choices with the same options have their effects in common, and each deviates: `score = sum over choices of
    e[option] + SHARED * c[options, option]`, all `e` and `c` of one prior variance. So few noisy scores tell what an
    operator or a width is worth, and more of them where.

    Args:
      space: of the codes.
      codes: `[n, num_choices]` int, of known score.
      scores: `[n]`.
      of: `[m, num_choices]`, what is asked about; None: the codes themselves.
      optimism: standard deviations of the mean that are added to it.

    Returns:
      `[m]`.

    Reference: MacKay, "Bayesian interpolation", Neural Computation 4(3), 1992.
    """
    from sklearn.linear_model import BayesianRidge

    tables = [np.eye(bound) for bound in num_options(space)]
    alike = collections.defaultdict(list)
    for number, choice in enumerate(space.choices):
        alike[choice.options].append(number)

    def inputs(rows: np.ndarray) -> np.ndarray:
        own = [table[column] for table, column in zip(tables, rows.T, strict=True)]
        common = [SHARED * np.sum([own[n] for n in of], axis=0) for of in alike.values() if len(of) > 1]
        return np.concatenate([*own, *common], axis=1)

    model = BayesianRidge().fit(inputs(codes), scores)
    mean, deviation = model.predict(inputs(codes if of is None else of), return_std=True)
    return mean + optimism * np.sqrt(np.maximum(deviation**2 - 1 / model.alpha_, 0))  # without the noise of a score


def undominated(scores: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Of which architectures no other is better in one and as good in all else.

    >>> undominated(np.array([0.7, 0.8, 0.6]), np.array([[1.0], [2.0], [1.5]]))
    array([ True,  True, False])

    Args:
      scores: `[n]`, larger is better.
      costs: `[n, num_costs]`, smaller is better.

    Returns:
      `[n]` bool.
    """
    points = np.column_stack([-scores, costs])
    return np.array([not ((points <= one).all(1) & (points < one).any(1)).any() for one in points], bool)


def hypervolume(scores: np.ndarray, costs: np.ndarray, least: float, most: float) -> float:
    """What architectures dominate, in score times octaves of a cost.

    That is the area between them and the reference point, the cost on a scale of log2.

    >>> round(hypervolume(np.array([0.8, 0.9, 0.85]), np.array([1024, 2048, 2048]), 0.7, 4096), 6)  # .1 x 2 + .1 x 1
    0.3

    Args:
      scores: `[n]`, larger is better.
      costs: `[n]`, positive.
      least: the score of the reference point; what is below it dominates nothing.
      most: its cost, likewise.

    Returns:
      The area.
    """
    total, best = 0.0, least
    for score, cost in sorted(zip(scores, costs, strict=True), key=lambda one: one[1]):
        if cost < most and score > best:
            total += float((score - best) * np.log2(most / cost))
            best = score
    return total


def representatives(scores: np.ndarray, costs: np.ndarray, count: int, *, most: float) -> list[int]:
    """A few architectures that stand for a front, its knees: each adds most to the hypervolume of those before it.

    The reference point has the lowest score. A lower one, such as that of guessing, would favour the cheapest
    architectures, however much a little more cost buys.

    >>> representatives(np.array([0.3, 0.75, 0.8, 0.81]), np.array([1, 8, 10, 32]), 2, most=64)
    [1, 2]

    Args:
      scores: `[n]`.
      costs: `[n]`, positive.
      count: at most so many.
      most: cost of the reference point.

    Returns:
      Their positions, the one that alone dominates most first.
    """
    taken, least = [], scores.min()
    for _ in range(min(count, len(scores))):
        left = [n for n in range(len(scores)) if n not in taken]
        taken.append(max(left, key=lambda n: hypervolume(scores[[*taken, n]], costs[[*taken, n]], least, most)))
    return taken
