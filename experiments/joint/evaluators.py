"""How well scores with shared weights rank candidates, untrained and trained for a few steps each.

Command:  python experiments/joint/evaluators.py --data other.npz --out evaluators.jsonl [--part 1/2] [key=value ...]
          python experiments/joint/evaluators.py --table evaluators.jsonl [...]
          The images should not be those that the package holds, on which the search is judged in the end.
Time:     half a minute a candidate for 12 epochs of training, on one core; 30 candidates.

Candidates are random architectures under random policies of the preset joint. A line a candidate: its accuracy after 12
epochs of training under its policy, on the test images of the file, and its score by each evaluator, on the validation
images of the search. The table has Kendall's tau with the former, an interval of 95 % from 2,000 bootstrap samples of
the candidates, and the seconds of a score.
"""

import argparse
import dataclasses
import json
import pathlib
import tempfile
import time

import jax
import numpy as np
from scipy.stats import kendalltau

from jnas import spaces
from jnas.recipes import config, quantised, train_network
from jnas.recipes.joint import recipe
from jnas.recipes.joint.plan import make_plan, own_policies
from jnas.recipes.joint.settings import QuantisedSearch

STEPS = (0, 5, 20, 80)  # of each candidate's own training before it is scored


def lines(settings, count, part, parts, folder, done):
    """What is found of each candidate of this part."""
    plan = make_plan(settings)
    key = jax.random.key(1000 + settings.seed)
    archs = np.asarray(spaces.sample(plan.space, key, count))
    policies = own_policies(settings, plan)
    columns = policies.columns(np.asarray(spaces.sample(policies, jax.random.fold_in(key, 1), count)))
    judges = {}
    for steps in STEPS:
        one = dataclasses.replace(settings, tuning_steps=steps)
        judges[steps] = recipe._supernet(one, plan, folder / "supernet")()
        judges[steps](archs[:1], columns[:1])  # compiles
    for n in range(part, count, parts):
        if n in done:
            continue
        scores, seconds = {}, {}
        for steps, judge in judges.items():
            begin = time.perf_counter()
            scores[steps] = float(judge(archs[n : n + 1], columns[n : n + 1])[0])
            seconds[steps] = time.perf_counter() - begin
        policy = {name: str(plan.methods[column]) for name, column in zip(plan.units.names, columns[n], strict=True)}
        prepared = train_network.prepare(plan.space, archs[n], plan.splits, settings.train)
        trained = quantised.train(
            prepared, {"units": settings.units, "policy": policy}, plan.splits, settings.train, folder / f"{n}", n
        )
        yield {
            "seed": settings.seed, "candidate": n, "arch": archs[n].tolist(), "columns": columns[n].tolist(),
            "trained": trained["test_accuracy"], "scores": scores, "seconds": seconds,
        }  # fmt: skip


def table(found):
    """Kendall's tau of each evaluator, over all candidates of all seeds."""
    trained = np.array([line["trained"] for line in found])
    rng = np.random.default_rng(0)
    samples = rng.integers(0, len(found), (2000, len(found)))
    print("| steps of a candidate | Kendall's tau with 12 epochs | 95 % interval | seconds a score |")
    print("|---|---|---|---|")
    for steps in map(str, STEPS):
        scores = np.array([line["scores"][steps] for line in found])
        each = [kendalltau(scores[rows], trained[rows]).statistic for rows in samples]
        low, high = np.nanquantile(each, (0.025, 0.975))
        seconds = np.median([line["seconds"][steps] for line in found])
        tau = kendalltau(scores, trained).statistic
        print(f"| {steps} | {tau:.2f} | {low:.2f} to {high:.2f} | {seconds:.2f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="key=value", help="settings over those of the preset joint")
    parser.add_argument("--data", help="an .npz file of images that the package does not hold")
    parser.add_argument("--candidates", type=int, default=30)
    parser.add_argument("--part", default="1/1", metavar="K/N", help="only every N-th candidate, from the K-th on")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).with_name("evaluators.jsonl"))
    parser.add_argument("--table", type=pathlib.Path, nargs="+", metavar="JSONL")
    arguments = parser.parse_args()
    if arguments.table:
        table([json.loads(line) for path in arguments.table for line in path.read_text().splitlines()])
        return
    words = [f"data={arguments.data}", "train.epochs=12", *arguments.words]
    settings = config.build(QuantisedSearch, config.read_preset("joint"), config.read_words(words))
    part, parts = map(int, arguments.part.split("/"))
    kept = arguments.out.read_text().splitlines() if arguments.out.exists() else []
    done = {json.loads(line)["candidate"] for line in kept if json.loads(line)["seed"] == settings.seed}
    with tempfile.TemporaryDirectory() as folder:
        for line in lines(settings, arguments.candidates, part - 1, parts, pathlib.Path(folder), done):
            with arguments.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(f"candidate {line['candidate']}: {line['trained']:.4f}, {line['scores']}", flush=True)


if __name__ == "__main__":
    main()
