"""The settings of a joint search for an architecture and a quantisation policy."""

import dataclasses
from typing import Literal

from jnas.recipes.joint.rewards import METRICS, Reward
from jnas.recipes.settings import LARGE, MANY, POSITIVE, Augmentation, Level, Training, settings
from jnas.spaces.policy import method_of

_WEIGHTS = Level("sgd", 0.1, 0.001, heavy_ball=0.9, weight_decay=5e-4, clip=5.0)
_AUGMENTATION, _TRAINING = Augmentation(), Training()
_REWARD = Reward(size=0.07, scale="logarithmic", map="exp")  # MnasNet's form


@settings(epochs=(0, MANY))
class Supernet:
    """The weights that candidates share: trained on one random architecture and one random policy a step."""

    channels: int = 8
    depth: int = 1
    epochs: int = 8  # 0: every candidate begins from the same random weights, and `tuning_steps` train it
    batch_size: int = 32
    weights: Level = _WEIGHTS


@settings(
    learning_rate=(POSITIVE, LARGE),
    tuning_steps=(0, MANY),
    tuning_rate=(POSITIVE, LARGE),
    num_evaluations=(2, MANY),
    networks=(1, 9),
    **dict.fromkeys(("method_rank", "operator_rank"), (1, 100)),
)
class QuantisedSearch:
    """A search by reward for an architecture and, unless `policy` fixes it, for the widths of its units."""

    data: str = "fashion-mnist-slice"
    image_size: int | None = None  # side to which the images of a folder are resized
    shrink: int = 1  # by which the sides of the images that score candidates are less
    space: str = "nasbench201"
    operators: str = "skip_connect nor_conv_1x1 nor_conv_3x3"  # left at every edge or layer; empty: all of the space
    seed: int = 0
    # what a policy is made of
    methods: str = "w2a8 w4a8 w8a8"  # each wWaA or wWaA-pow2
    units: Literal["shared", "edges", "blocks"] = "shared"  # an edge in all blocks, an edge of a block, or a block
    policy: str = ""  # a method for all units, or one for each: then only the architecture is searched
    # what filters leave: methods of each unit, quantised alone, and operators, quantised alone by `policy`
    method_threshold: float | None = None  # largest relative loss of validation accuracy; null: no filter
    # Latency, size or compute -> its largest relative growth, such as {latency: 0.0}.
    method_growth: dict[str, float] = dataclasses.field(default_factory=dict)
    method_rank: dict[str, int] = dataclasses.field(default_factory=dict)  # accuracy or a cost -> how many stay
    operator_threshold: float | None = None  # see method_threshold
    operator_growth: dict[str, float] = dataclasses.field(default_factory=dict)  # see method_growth
    operator_rank: dict[str, int] = dataclasses.field(default_factory=dict)  # see method_rank
    sensitivity_from: Literal["w32a32", "w8a8"] = "w32a32"  # what the others have, and what is lost or grows against
    probes: int = 4  # random architectures over which sensitivities are averaged
    # how candidates are scored
    supernet: Supernet = Supernet()  # whose weights candidates share
    score: Literal["probability", "accuracy"] = "probability"  # of the true class, its mean; or the share that is right
    tuning_steps: int = 0  # for which each candidate is trained from them under its policy before it is scored
    tuning_rate: float = 0.02  # of those steps at their beginning; it falls to 0
    validation: float = 0.2  # share of the training images that only scores candidates; from 2 on: so many of them
    augmentation: Augmentation = _AUGMENTATION
    reward: Reward = _REWARD  # of accuracy and costs
    latency: str = ""  # "measured" on this device; or a JSON file, method -> milliseconds for 10^6 products
    # the search
    searcher: Literal["reinforce", "genetic", "evolution", "random", "nsga2", "front"] = (
        "reinforce"  # asks for candidates
    )
    order: Literal["structure", "policy", "together"] = "structure"  # what is drawn first in a candidate
    beside: list[str] = dataclasses.field(default_factory=list)  # costs, for a front
    num_evaluations: int = 300  # candidates that are scored, at most
    at_once: int = 10  # candidates an iteration
    learning_rate: float = 3e-3  # of the controller; published: 1e-4
    repeats: int = 5  # of its steps along a batch; published: 1
    entropy: float = 0.03  # weight of its entropy
    queue: int = 5  # best candidates so far that it imitates; published: 0
    imitation: float = 3.0  # weight of that
    population: int = 100  # of genetic, evolution and nsga2; random candidates with which front begins
    window: int = 10  # converged: the best reward rose by at most `tolerance` of itself over so many iterations
    tolerance: float | None = None  # see window; null: only the number of evaluations ends the search
    # afterwards
    compare: bool = True  # with 8 bits everywhere, and with an architecture search followed by one for its policy
    networks: int = 1  # that are trained: the best by reward; from 2 on so many that stand for the front as well
    train: Training = _TRAINING
    # the machine
    steps_per_call: int | None = None

    def __post_init__(self):
        methods = [str(method_of(text)) for text in self.methods.split()]
        if not methods or len(set(methods)) < len(methods):
            raise ValueError(f"methods is {self.methods!r}: name at least one, each once")
        filtered = self.operator_threshold is not None or self.operator_growth or self.operator_rank
        if filtered and len(self.policy.split()) != 1:
            raise ValueError(f"operators are filtered and policy is {self.policy!r}: name the method of all units")
        costs = {*self.method_growth, *self.operator_growth, *self.beside}
        for name in sorted(costs | {*self.method_rank, *self.operator_rank}):
            known = METRICS[1:] if name in costs else METRICS
            if name not in known:
                raise ValueError(
                    f"{name!r} is no {'cost' if name in costs else 'metric'}: choose among {', '.join(known)}"
                )
            if name == "latency" and not self.latency:
                raise ValueError(
                    "latency has a threshold, a rank or a front: give latency=measured or latency=FILE.json"
                )
        if len(set(self.beside)) < len(self.beside):
            raise ValueError(f"beside is {self.beside}: name each cost once")
        if not self.supernet.epochs and not self.tuning_steps:
            raise ValueError("supernet.epochs and tuning_steps are 0: candidates would be scored with random weights")
        thresholds = self.method_threshold is not None or self.operator_threshold is not None
        accuracy = "accuracy" in {**self.method_rank, **self.operator_rank}
        if not self.supernet.epochs and (thresholds or accuracy):
            raise ValueError(
                "supernet.epochs is 0 and losses of accuracy filter: they are those of its weights; train it"
            )
        if self.searcher == "front" and not self.beside:
            raise ValueError("searcher is front and beside is empty: name a cost, such as beside=[size]")
        if self.networks > 1 and not self.beside:
            raise ValueError(f"networks is {self.networks} and beside is empty: name a cost, such as beside=[size]")
        if self.reward.latency and not self.latency:
            raise ValueError("reward: latency has a weight: give latency=measured or latency=FILE.json")
