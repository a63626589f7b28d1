"""Ten minutes on an accelerator: agreement with the CPU, steps, memory and compilation, the default search, PyTorch.

Command:  python experiments/gpu/check.py --out check [--minutes 10] [--torch-python PEERS/bin/python] [--small]
          The same command goes on where it was cut off. --small takes the smallest networks, so that the whole can be
          tried on a CPU in two minutes.
Prints:   a line a part, kept in check/parts.jsonl, and what each part wrote beside it:
          agreement  relative differences of hypergradients from the CPU's, edges in a loop and merged; in double
                     precision, on a TPU, which has none, in single precision with exact products
          steps      `jnas bench`: seconds, bytes and compilation of a gradient and of a step, bench.jsonl
          search     `jnas search` with its defaults: seconds and the accuracy of the found cell
          race       the same work in PyTorch, races.jsonl, if its interpreter is given
          No part takes longer than its share of the minutes: one that would is stopped, and its line says so.
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
SHARES = {"agreement": 0.25, "steps": 0.3, "search": 0.3, "race": 0.15}  # of the minutes; what is left over goes on


def agreement(small: bool) -> dict[str, float | str]:
    """By how much hypergradients on the first accelerator, else on the CPU, differ from those on the CPU."""
    import jax
    import jax.numpy as jnp

    from jnas import bilevel, nets, spaces
    from jnas.recipes.supernet import supernet_problem
    from jnas.types import Batches, Context, Examples

    here, cpu = jax.devices()[0], jax.devices("cpu")[0]
    double = here.platform != "tpu"
    jax.config.update("jax_enable_x64", double)
    jax.config.update("jax_default_matmul_precision", "highest")
    dtype = jnp.float64 if double else jnp.float32
    channels, batch, side = (2, 4, 8) if small else (8, 32, 32)
    space = spaces.by_name("nasbench201")
    cast = lambda tree: jax.tree.map(lambda x: x.astype(dtype), tree)

    def examples(key):
        image = jax.random.normal(key, (batch, side, side, 3), dtype)
        return Examples(image, jax.random.randint(key, (batch,), 0, 10))

    def case(estimator, edges):
        net = nets.network_for(space, channels=channels, depth=1, num_classes=10, dtype=dtype, edge_strategy=edges)
        problem, _ = supernet_problem(net)
        keys = jax.random.split(jax.random.key(0), 4)
        params, statistics = cast(nets.initialise(net, keys[0], (side, side, 3)))
        alpha, v = cast(spaces.init_alpha(space, keys[1], 0.3)), jax.tree.map(jnp.ones_like, params)
        point = bilevel.Point(params, alpha, v if estimator == "single_loop" else ())
        made = bilevel.single_loop() if estimator == "single_loop" else bilevel.implicit(bilevel.neumann(2))
        batches = Batches(examples(keys[2]), examples(keys[3]))

        @jax.jit
        def direction(point, batches, context):
            found = made.estimate(problem, point, batches, context, made.init(point))[0]
            return found.weights, found.alpha

        def on(device):
            return jax.device_get(direction(*jax.device_put((point, batches, Context(statistics)), device)))

        pairs = zip(*(map(jax.tree.leaves, (on(cpu), on(here)))), strict=True)
        return max(float(abs(a - b).max() / abs(a).max()) for a, b in pairs)

    cases = [("single_loop", "scan"), ("neumann", "scan"), ("single_loop", "merge")]
    found = {f"{estimator}, {edges}": case(estimator, edges) for estimator, edges in cases[: 1 if small else 3]}
    return {"device": here.device_kind, "dtype": jnp.dtype(dtype).name, **found}


def commands(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """The command of each part."""
    out, jnas = arguments.out, [sys.executable, "-m", "jnas"]
    size = ["channels=2", "depth=1", "batch_size=4"] if arguments.small else ["channels=16", "depth=1", "batch_size=64"]
    tiny = ["channels=2", "depth=1", "epochs=1", "random_cells=1", "train.channels=2", "train.epochs=1"]
    race = ["--cases", "nb201-c4-n1-b8"] if arguments.small else ["--cases", "nb201-c16-n1-b64", "darts-c8-l5-b32"]
    found = {
        "agreement": [sys.executable, __file__, "--part", *(["--small"] if arguments.small else [])],
        "steps": [
            *jnas, "bench", "nasbench201", "data=synthetic", *size, "--what", "gradient,step", "--repeats", "5",
            "--sweep", "estimator=first_order,single_loop", "--out", str(out / "bench.jsonl"),
        ],
        "search": [*jnas, "search", *(tiny if arguments.small else []), "--out", str(out / "search")],
    }  # fmt: skip
    if arguments.torch_python:
        found["race"] = [
            sys.executable, str(HERE.parent / "peers" / "race.py"), "--torch-python", arguments.torch_python, *race,
            "--what", "gradient,step", "--peers", "torch", "--layouts", "channels_last", "--repeats", "5",
            "--device", arguments.device, "--out", str(out / "races.jsonl"),
        ]  # fmt: skip
    return found


def run(command: list[str], log: pathlib.Path, seconds: float) -> tuple[int | None, str]:
    """The status of a command, None if its time was up, and its last line; all that it prints is in the log."""
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True, start_new_session=True)
        try:
            shown, _ = process.communicate(timeout=seconds)
            status = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            shown, _ = process.communicate()
            status = None
        file.write(shown)
    return status, (shown.strip().splitlines() or [""])[-1]


def result_of(name: str, out: pathlib.Path, last: str) -> dict:
    """What a part that came to its end has found."""
    if name == "agreement":
        return json.loads(last)
    if name == "search":
        found = json.loads((out / "search" / "result.json").read_text(encoding="utf-8"))
        return {"genotype": found["genotype"], "test_accuracy": found["found"]["test_accuracy"]}
    file = out / {"steps": "bench.jsonl", "race": "races.jsonl"}[name]
    return {"lines": [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("check"), metavar="DIR")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all parts together (default: 10)")
    parser.add_argument("--torch-python", metavar="PYTHON", help="an interpreter that has PyTorch for this device")
    parser.add_argument("--device", default="cuda", help="of the race (default: cuda)")
    parser.add_argument("--small", action="store_true", help="the smallest networks")
    parser.add_argument("--part", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(agreement(arguments.small)))
        return 0
    arguments.out.mkdir(parents=True, exist_ok=True)
    kept = arguments.out / "parts.jsonl"
    lines = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()] if kept.exists() else []
    done = {line["part"] for line in lines if "found" in line}
    begin, share, failed = time.monotonic(), 0.0, 0
    for name, command in commands(arguments).items():
        share += SHARES[name]
        if name in done:
            continue
        start = time.monotonic()
        limit = begin + 60 * share * arguments.minutes - start
        print(f"{name}: up to {limit:.0f} s", flush=True)
        status, last = run(command, arguments.out / f"{name}.log", limit)
        line = {"part": name, "seconds": round(time.monotonic() - start, 1)}
        line |= {"found": result_of(name, arguments.out, last)} if status == 0 else {"stopped": status, "last": last}
        failed += status != 0
        text = json.dumps(line)
        with kept.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
        print(text, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
