"""SIGKILL at random moments in every recipe: nothing is lost, and the final bits are those of a run left alone.

The small tasks of `tests/golden/golden.py` are run once undisturbed. Then each is started again in a folder of its own,
killed after a time drawn uniformly from the length of the undisturbed run, given again word for word (with a chance of
one half it is killed once more), and left to its end. Compared bit by bit: every array of every `.npz`, every number of
every JSON file and curve; times, hosts and digests of files with times in them are left out, and so are the numbers of
trials and their order, for one that was killed keeps its number and its repetition has the next.

Command:   python experiments/kills/kills.py --kills 100
Result, hardware, time: README.md beside this file.
"""

import argparse
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "golden"))
import golden  # noqa: E402

NAMES = (
    "neumann", "single_loop", "many", "grouped", "trials_training", "trials_shared_weights", "trials_front",
    "space_search", "joint", "train", "detection", "recognition", "zoo",
)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--names", nargs="*", default=NAMES)
    parser.add_argument("--results", default="experiments/kills/kills.jsonl")
    arguments = parser.parse_args()
    results = pathlib.Path(arguments.results).resolve()
    drawn = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="jnas-kills-") as folder:
        os.chdir(folder)
        golden.make_data()
        cases = {name: alone(name) for name in arguments.names}
        done, differing = 0, 0
        while done < arguments.kills:
            name = drawn.choice(sorted(cases))
            words, expected, seconds = cases[name]
            moments, status, said = disturb(words, seconds, drawn)
            found = bits(pathlib.Path("killed"))
            wrong = sorted(part for part in {*expected, *found} if expected.get(part) != found.get(part))
            row = {"case": name, "killed after [s]": moments, "status": status, "differs": wrong}
            if status != 0:
                row["said"] = said[-500:]
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            done, differing = done + len(moments), differing + bool(wrong or status)
            print(f"{done} kills, {differing} runs lost or differing  {row}", flush=True)
    raise SystemExit(differing > 0)


def alone(name):
    """The last command of a case that writes a folder, what it leaves undisturbed, and how long it takes [s]."""
    case = golden.CASES[name]
    for need in case.needs:
        for words in golden.CASES[need].commands:
            assert start(words).wait() == 0, words
    at = max(
        n for n, words in enumerate(case.commands) if "--out" in words and words[0] in ("search", "train", "select")
    )
    for words in case.commands[:at]:
        assert start(words).wait() == 0, words
    words = case.commands[at][: case.commands[at].index("--out")]
    for folder in (f"compiled-{name}", f"alone-{name}"):  # the second reads from the cache what the first compiled
        begun = time.monotonic()
        shutil.rmtree("zoo/records", ignore_errors=True)
        assert start([*words, "--out", folder]).wait() == 0, words
        seconds = time.monotonic() - begun
    print(f"{name}: {seconds:.1f} s undisturbed", flush=True)
    return words, bits(pathlib.Path(f"alone-{name}")), seconds


def disturb(words, seconds, drawn):
    """Kills the command once or twice and lets it end; returns when it was killed, its status and what it said."""
    shutil.rmtree("killed", ignore_errors=True)
    if words[0] == "select":  # which leaves records in the zoo, from which the next one would learn
        shutil.rmtree("zoo/records", ignore_errors=True)
    moments = []
    for moment in [round(drawn.uniform(0.0, seconds), 2) for _ in range(drawn.choice((1, 2)))]:
        process = start([*words, "--out", "killed"])
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        moments += [moment] * (process.wait() == -signal.SIGKILL)  # and else it had ended
    process = start([*words, "--out", "killed"], stderr=subprocess.PIPE)
    said = process.communicate()[1]
    return moments, process.returncode, said


def start(words, stderr=subprocess.DEVNULL):
    environment = {
        **os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JNAS_CACHE_DIR": str(pathlib.Path(tempfile.gettempdir()) / "jnas-kills-cache"),
    }  # fmt: skip
    command = [sys.executable, "-m", "jnas", *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=stderr, text=True)


def bits(folder):
    """File -> digest of what it holds, times and the like left out."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if "checkpoints/" in name or "costs/" in name or path.name == "environment.json":
            continue
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                value = [(key, str(arrays[key].dtype), arrays[key].tobytes().hex()) for key in sorted(arrays)]
        elif path.suffix == ".json":
            value = untimed(json.loads(path.read_text(encoding="utf-8")))
        elif path.suffix == ".jsonl":
            value = [untimed(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        else:
            continue
        found[name] = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
    return found


def untimed(value):
    if isinstance(value, dict):
        return {
            k: untimed(part) for k, part in value.items() if k not in ("trial", "curve") and not golden.TIMED.search(k)
        }
    return [untimed(part) for part in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
