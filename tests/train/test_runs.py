"""Several runs in one program: each ends where it would have ended alone."""

import json
import socket

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from engine_problem import BATCH, EPOCH, KEY, data, leaves_as_bytes, make_learner, resident, rows

from jnas.distributed.sharding import all_at_once, one_by_one
from jnas.errors import Diverged, Interrupted, UserError
from jnas.train import Saving, Several, chunks_of, fit
from jnas.train.hooks import Hook, of_run
from jnas.train.records import jsonl_each, jsonl_log
from jnas.types import Learner, Source

NUM_RUNS, STEPS = 3, 7


def key_of(run):
    return jax.random.fold_in(KEY, run)


def row(tree, run):
    return jax.tree.map(lambda leaf: leaf[run], tree)


def spoiled_at(count, run):
    """A learner whose run number `run` (told by its settings) returns a loss of NaN at step `count` + 1."""

    def build(number):
        bad = lambda at, loss: jnp.where((at == count) & (number == run), jnp.nan, loss)
        return make_learner(spoil=lambda at, params, loss: (params, bad(at, loss)))

    return build


def assert_alike(one, other, rtol=1e-6):
    for a, b in zip(leaves_as_bytes(one), leaves_as_bytes(other), strict=True):
        assert len(a) == len(b)
    numbers = lambda s: [np.asarray(s.params["w"]), np.asarray(s.params["b"]), np.asarray(s.momentum[0].trace["w"])]
    for a, b in zip(numbers(one), numbers(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("mapper", [one_by_one, all_at_once])
@pytest.mark.parametrize("steps_per_call", [1, 4])
def test_each_run_ends_where_it_would_have_ended_alone(mapper, steps_per_call):
    learner, options = make_learner(), {"num_steps": STEPS, "hooks": chunks_of(steps_per_call)}
    together = fit(learner, resident(), key=KEY, **options, runs=Several(NUM_RUNS, mapper=mapper))
    assert together.diverged_at.tolist() == [0] * NUM_RUNS
    for run in range(NUM_RUNS):
        alone = fit(learner, resident(), key=key_of(run), **options)
        assert_alike(row(together.state, run), alone)
        assert np.array_equal(jax.random.key_data(together.state.key[run]), jax.random.key_data(alone.key))


def test_keys_may_be_given_for_each_run():
    learner, keys = make_learner(), jax.random.split(jax.random.key(9), 2)
    together = fit(learner, resident(), key=keys, num_steps=3, runs=Several(2))
    assert_alike(row(together.state, 1), fit(learner, resident(), key=keys[1], num_steps=3))


def test_settings_are_traced_and_rows_belong_to_a_run():
    """Each run has a step size and a half of the data of its own; plain NumPy says where they end."""
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    traces = []

    def build(rate):
        traces.append(None)
        update = lambda w, batch, key: (w - rate * (w - batch), {"w": w})
        return Learner(lambda key: jnp.zeros(()), update)

    source = Source(
        lambda arrays, step, key: arrays[0][arrays[1][step % 2]], x.ravel(), per_run=np.array([[0, 3], [5, 6]])
    )
    rates = np.array([0.5, 0.1], np.float32)
    found = fit(build, source, key=KEY, num_steps=3, runs=Several(2, settings=rates))
    for run, (rate, pair) in enumerate(zip(rates, [[0, 3], [5, 6]], strict=True)):
        w = 0.0
        for step in range(3):
            w -= rate * (w - x.ravel()[pair[step % 2]])
        np.testing.assert_allclose(found.state[run], w, rtol=1e-6)
    once = len(traces)
    fit(build, source, key=KEY, num_steps=3, runs=Several(2, settings=np.array([0.3, 0.2], np.float32)))
    assert len(traces) <= 2 * once  # the program is kept; a start asks for the shapes again


@pytest.mark.parametrize("mapper", [one_by_one, all_at_once])
def test_a_diverged_run_stands_still_and_the_others_go_on(mapper, tmp_path):
    build, seen = spoiled_at(4, run=1), []
    hooks = [
        *(of_run(run, jsonl_log(tmp_path / f"{run}.jsonl")) for run in range(NUM_RUNS)),
        of_run(1, jsonl_each(tmp_path / "each.jsonl", 2, lambda event: {"loss": event.metrics["loss"][-1]})),
        Hook(steps=lambda event: seen.append(event.done)),
        Hook(steps=lambda event: seen.append(event.metrics["loss"])),
    ]
    numbers = np.arange(NUM_RUNS)
    options = {"key": KEY, "runs": Several(NUM_RUNS, numbers, mapper)}
    found = fit(build, resident(), num_steps=STEPS, hooks=[*chunks_of(3), *hooks], **options)
    assert found.diverged_at.tolist() == [0, 5, 0]
    before = fit(build, resident(), num_steps=4, hooks=chunks_of(3), **options)
    for a, b in zip(leaves_as_bytes(row(found.state, 1)), leaves_as_bytes(row(before.state, 1)), strict=True):
        assert a == b  # as after its last sound step
    assert_alike(row(found.state, 2), fit(make_learner(), resident(), key=key_of(2), num_steps=STEPS))
    steps = [[json.loads(line)["step"] for line in (tmp_path / f"{r}.jsonl").read_text().splitlines()] for r in (0, 1)]
    assert steps == [[1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4]]
    assert [json.loads(line)["step"] for line in (tmp_path / "each.jsonl").read_text().splitlines()] == [2, 4]
    done = np.concatenate([part for part in seen if part.dtype == bool])
    assert done[:, 1].tolist() == [True] * 4 + [False] * 3
    assert done[:, ::2].all()
    losses = np.concatenate([part for part in seen if part.dtype != bool])
    assert losses.shape == (7, NUM_RUNS)
    assert np.isnan(losses[4:, 1]).all()
    assert np.isfinite(losses[:4]).all()


def test_a_state_that_is_not_finite_counts_though_no_metric_tells():
    build = lambda number: make_learner(
        spoil=lambda at, params, loss: (
            {**params, "b": jnp.where((at == 2) & (number == 0), jnp.inf, params["b"])}, loss * 0
        )
    )  # fmt: skip
    found = fit(build, resident(), key=KEY, num_steps=5, runs=Several(2, settings=np.arange(2)))
    assert found.diverged_at.tolist() == [3, 0]
    assert np.isfinite(found.state.params["b"]).all()


def test_all_diverged_is_an_error():
    learner = make_learner(spoil=lambda at, params, loss: (params, jnp.where(at == 2, jnp.nan, loss)))
    with pytest.raises(Diverged, match=r"^all 2 runs have diverged, the last one at step 3: lower"):
        fit(learner, resident(), key=KEY, num_steps=5, hooks=chunks_of(4), runs=Several(2))


def test_stopped_and_resumed_they_end_in_the_same_bits(tmp_path):
    learner = make_learner()
    options = {"key": KEY, "num_steps": STEPS, "runs": Several(NUM_RUNS)}
    whole = fit(learner, resident(), hooks=chunks_of(2), **options)

    def stop(event):
        if event.step == 4:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGTERM)

    log = lambda: [of_run(2, jsonl_log(tmp_path / "log.jsonl"))]
    with pytest.raises(Interrupted):
        fit(
            learner,
            resident(),
            hooks=[*chunks_of(2), Hook(steps=stop), *log()],
            checkpoints=Saving(tmp_path / "c"),
            **options,
        )
    again = fit(learner, resident(), hooks=[*chunks_of(2), *log()], checkpoints=Saving(tmp_path / "c"), **options)
    assert leaves_as_bytes(again) == leaves_as_bytes(whole)
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [*range(1, 8)]


def test_what_does_not_fit_is_one_sentence():
    run = lambda **options: fit(make_learner(), resident(), num_steps=1, **{"key": KEY, **options})
    with pytest.raises(ValueError, match=r"^runs is 0: give 1 or more"):
        run(runs=Several(0))
    with pytest.raises(ValueError, match=r"^key is key<fry>\[2\]: make one with jax.random.key\(seed\), or 3 of them"):
        run(key=jax.random.split(KEY, 2), runs=Several(3))
    with pytest.raises(ValueError, match=r"^settings has 2 rows for 3 runs: give one row a run"):
        run(runs=Several(3, settings=np.zeros(2)))
    with pytest.raises(ValueError, match=r"^there are 2 runs and the batches come from the host"):
        fit(make_learner(), Source(resident().batch, fetch=lambda step: data()), key=KEY, num_steps=1, runs=Several(2))


SPREAD = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from engine_problem import KEY, make_learner, resident
from jnas.distributed import all_at_once
from jnas.distributed.meshes import make_mesh
from jnas.train import Saving, Several, chunks_of, fit
from jnas.errors import UserError

options = dict(key=KEY, num_steps=5, hooks=chunks_of(5))
learner, plain = make_learner(), resident()
alone = [fit(learner, plain, **options | {"key": jax.random.fold_in(KEY, run)}) for run in range(8)]
w = lambda state: np.asarray(state.params["w"])
error = lambda many: max(float(np.abs(w(many.state)[r] - w(alone[r])).max()) for r in range(len(many.diverged_at)))
result = {}
for name, axes, runs in [("8", {"run": 8}, 8), ("4x2", {"run": 4, "data": 2}, 4), ("2x2", {"run": 2, "data": 2}, 8)]:
    for way in ("", "at once"):
        mapper = all_at_once if way else None
        many = fit(learner, plain, mesh=make_mesh(axes), runs=Several(runs, mapper=mapper), **options)
        result[name + way] = error(many)
    shards = many.state.params["w"].addressable_shards
    result[name + " shapes"] = [list(shard.data.shape) for shard in shards]
    result[name + " devices"] = len({shard.device.id for shard in shards if shard.replica_id == 0})
moved = sys.argv[1]
three = options | {"num_steps": 3}
fit(learner, plain, mesh=make_mesh({"run": 8}), runs=Several(8), checkpoints=Saving(moved), **three)
saving = Saving(moved)
again = fit(learner, plain, mesh=make_mesh({"run": 4}), runs=Several(8), checkpoints=saving, **options)
result["moved"] = error(again)
try:
    fit(learner, plain, mesh=make_mesh({"run": 3}), runs=Several(8), **options)
except UserError as failure:
    result["sentence"] = str(failure)
print(json.dumps(result))
"""


def test_runs_spread_over_devices(start_script, tmp_path):
    process = start_script(SPREAD, tmp_path / "c", JAX_NUM_CPU_DEVICES="8")
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    result = json.loads(output.splitlines()[-1])
    for name in ("8", "8at once", "4x2", "4x2at once", "2x2", "2x2at once", "moved"):
        assert result[name] < 1e-6, name
    assert result["8 shapes"] == [[1, 4]] * 8  # one run a device
    assert result["8 devices"] == 8
    assert result["4x2 shapes"] == [[1, 4]] * 8
    assert result["2x2 shapes"] == [[4, 4]] * 4
    assert result["sentence"].startswith(
        "8 runs cannot be spread over run=3: choose a number of runs that is a multiple"
    )


PROCESSES = """
import sys
port, number, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
from jnas.distributed import to_host
from jnas.distributed.hosts import Hosts, joined
from jnas.distributed.meshes import make_mesh
from jnas.train import Hook, Saving, Several, chunks_of, fit, jsonl_log, of_run

with joined(Hosts(f"localhost:{port}", 2, number)):
    import jax
    from engine_problem import KEY, make_learner, resident

    seen = []
    look = Hook(steps=lambda event: seen.append(to_host(event.state.state.params["w"])), every=2)
    logs = [of_run(run, jsonl_log(f"{folder}/{run}.jsonl")) for run in range(4)]
    options = dict(key=KEY, num_steps=5, runs=Several(4), mesh=make_mesh({"run": 2}))
    hooks = [*chunks_of(2), look, *logs]
    found = fit(make_learner(), resident(), hooks=hooks, checkpoints=Saving(f"{folder}/c"), **options)
    assert len(found.state.params["w"].addressable_shards[0].data) == 2  # each process holds two of the runs
    assert len(seen) == 3
    print(to_host(found.state.params["w"]).tolist(), flush=True)
"""


def test_runs_spread_over_processes(start_script, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    both = [start_script(PROCESSES, port, number, tmp_path) for number in range(2)]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    alone = fit(make_learner(), resident(), key=KEY, num_steps=5, runs=Several(4))
    for output, _ in said:
        np.testing.assert_allclose(json.loads(output.splitlines()[-1]), alone.state.params["w"], rtol=1e-6)
    for run in range(4):
        rows = (tmp_path / f"{run}.jsonl").read_text().splitlines()
        assert [json.loads(row)["step"] for row in rows] == [1, 2, 3, 4, 5]


def test_an_unknown_axis_is_one_sentence():
    from jnas.distributed.meshes import make_mesh

    with pytest.raises(UserError, match=r"^a mesh has no axis 'dta': name run or data"):
        make_mesh({"dta": 2})
    with pytest.raises(UserError, match=r"^the axis 'run' has the size 0: give 1 or more"):
        make_mesh({"run": 0})


def test_the_examples_of_the_problem_are_what_these_tests_think():
    assert sorted(np.concatenate([np.asarray(rows(s, KEY)) for s in range(EPOCH)]).tolist()) == [*range(BATCH * EPOCH)]
