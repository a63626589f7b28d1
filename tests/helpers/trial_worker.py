"""One worker of a search whose trials leave files: STORAGE FOLDER NUM_EVALUATIONS [hang].

`FOLDER/NAME.start.PID` when an evaluation begins, `FOLDER/NAME.done.PID` when it ends. A worker that hangs never ends
its second evaluation: it waits to be killed.
"""

import itertools
import os
import pathlib
import subprocess
import sys
import time

import jax
import numpy as np

from jnas.searchers.base import Evaluation, Searcher
from jnas.study import ledger, search
from jnas.study.storage import close_study, open_study

CHOICES = [(f"choice {n}", ("a", "b", "c")) for n in range(4)]
ALL = np.array(list(itertools.product(range(3), repeat=4)), np.int32)


def main():
    storage, folder, num, hangs = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3]), "hang" in sys.argv
    begun = 0

    def objective(code, key):
        nonlocal begun
        begun += 1
        name = "".join(map(str, code))
        (folder / f"{name}.start.{os.getpid()}").touch()
        time.sleep(1000 if hangs and begun == 2 else 0.05)
        (folder / f"{name}.done.{os.getpid()}").touch()
        return Evaluation(float(code.sum()), {"key": jax.random.key_data(key).tolist()})

    def ask(told, key, num):
        order = np.random.default_rng(np.asarray(jax.random.key_data(key))).permutation(len(ALL))
        return np.array([ALL[at] for at in order if tuple(ALL[at].tolist()) not in told][:num])

    # By its process alone a worker of this machine is known to be dead: no lease ends within the test, however slow.
    searcher = Searcher(frozenset, ask, lambda told, codes, values: told | set(map(tuple, codes.tolist())))
    study = open_study(storage, choices=CHOICES, about={"seed": 1})
    result = search(searcher, objective, key=jax.random.key(1), num_evaluations=num, study=study, lease_seconds=600)
    close_study(study)
    assert len(result.trials) == num


def run_and_kill_one(storage, folder, num_workers, num_evaluations):
    """Start workers, kill the one that hangs in its second trial, wait for the others.

    Returns:
      The name of the architecture in whose evaluation it was killed.
    """
    root = pathlib.Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, __file__, storage, str(folder), str(num_evaluations)]
    victim = subprocess.Popen([*command, "hang"], env=environment)
    others = []
    try:
        deadline = time.monotonic() + 300  # alone until it hangs: so it is there while there is something to do
        while len(names(folder, "start", victim.pid)) < 2:
            assert victim.poll() is None, "the worker ended before it could be killed"
            assert time.monotonic() < deadline, "the worker did not begin"
            time.sleep(0.05)
        (hung,) = names(folder, "start", victim.pid) - names(folder, "done", victim.pid)
        others += [subprocess.Popen(command, env=environment) for _ in range(num_workers - 1)]
        while not names(folder, "done") - names(folder, "done", victim.pid):  # now they share the study
            assert time.monotonic() < deadline, "the other workers did not begin"
            time.sleep(0.05)
        victim.kill()
        victim.wait()
        assert [other.wait(timeout=300) for other in others] == [0] * len(others)
    finally:
        for process in [victim, *others]:
            process.kill()
            process.wait()
    return hung


def names(folder, what, pid="*"):
    """The architectures of which there is such a file."""
    return {path.name.partition(".")[0] for path in pathlib.Path(folder).glob(f"*.{what}.{pid}")}


def check_nothing_lost(storage, folder, num_evaluations, hung):
    """Every trial is complete exactly once, that of the killed worker by another one and with the same key."""
    study = open_study(storage, choices=CHOICES, about={"seed": 1})
    rows = ledger.rows_of(study)
    close_study(study)
    complete = [row for row in rows if row.state == "complete"]
    done = [path.name.partition(".")[0] for path in pathlib.Path(folder).glob("*.done.*")]
    started = [path.name.partition(".")[0] for path in pathlib.Path(folder).glob("*.start.*")]
    assert len(complete) == num_evaluations
    assert sorted("".join(map(str, row.code)) for row in complete) == sorted(done)  # each evaluated to its end once
    assert sorted(started) == sorted([*done, hung])  # and begun once, but for that of the killed worker
    (first,) = [row for row in rows if row.lost]
    again, *superfluous = sorted((row for row in rows if row.retry_of is not None), key=lambda row: row.number)
    assert (first.state, first.lost, again.state) == ("failed", "died", "complete")
    assert (again.retry_of, again.code, again.ask) == (first.number, first.code, first.ask)
    assert {row.state for row in superfluous} <= {"dropped"}  # left by workers that saw the death at the same moment
    assert {row.state for row in rows if row is not first} <= {"complete", "dropped"}
    keys = [
        jax.random.key_data(jax.random.fold_in(jax.random.split(jax.random.key(1))[1], row.ask)) for row in complete
    ]
    assert [row.metrics["key"] for row in complete] == [key.tolist() for key in keys]
    assert sorted(row.ask for row in complete) == list(range(num_evaluations))


if __name__ == "__main__":
    main()
