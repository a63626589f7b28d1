"""Several devices, and several processes, against one: in subprocesses, for devices are counted before JAX starts."""

import json
import socket

import jax
import numpy as np
import pytest
from engine_problem import KEY, data, make_learner, resident

from jnas.distributed.meshes import data_mesh
from jnas.errors import UserError
from jnas.train import chunks_of, fit

DEVICES = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from engine_problem import KEY, make_learner, resident, rows
from jnas.distributed.meshes import data_mesh
from jnas.distributed.sharding import Place, home
from jnas.train import Saving, chunks_of, fit
from jnas.train.program import compile_steps, split_key
from jnas.types import Batches, Source

jax.config.update("jax_numpy_rank_promotion", "raise")
mesh, learner, keys = data_mesh(), make_learner(), split_key(KEY)
assert mesh.size == 4
plain = resident()

def batch(arrays, step, key):
    one = lambda k: plain.batch(arrays, step, k)
    return Batches(one(key), one(jax.random.fold_in(key, 1)), jax.vmap(one)(jax.random.split(key, 2)))

def fetch(step):
    at = np.asarray(rows(step, keys.data))
    return jax.tree.map(lambda a: a[at], plain.arrays), np.float32(0)

bilevel = plain._replace(batch=batch)
fetched = Source(lambda arrays, step, key: arrays[0], fetch=fetch)
run = lambda source, mesh, num_steps=5, **options: fit(
    learner, source, key=KEY, mesh=mesh, num_steps=num_steps, hooks=chunks_of(5), **options
)

def error(one, four):
    assert all(len(leaf.devices()) == 4 for leaf in jax.tree.leaves(four))
    pairs = zip(jax.tree.leaves(one.params), jax.tree.leaves(four.params))
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(a)).max()) for a, b in pairs)

one = run(plain, None)
result = {"resident": error(one, run(plain, mesh)), "fetched": error(one, run(fetched, mesh))}
run(plain, mesh, 3, checkpoints=Saving(sys.argv[1]))
moved = run(plain, None, 5, checkpoints=Saving(sys.argv[1]))
result["moved"] = float(jnp.abs(moved.params["w"] - one.params["w"]).max())

# Compiled by hand, for the text of the program says what is split.
program = compile_steps(learner, batch, False, 5, Place(mesh))
arguments = program.init(keys.init), np.int32(0), np.int32(5), jax.device_put(plain.arrays, home(mesh)), keys
lowered = program.run.lower(*arguments)
compiled = lowered.compile()
result |= {"asked": lowered.as_text(), "compiled": compiled.as_text()}
result["bilevel"] = error(run(bilevel, None), compiled(*arguments)[0])
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def result(start_script, tmp_path_factory):
    process = start_script(DEVICES, tmp_path_factory.mktemp("c"), JAX_NUM_CPU_DEVICES="4")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return json.loads(output.splitlines()[-1])


@pytest.mark.parametrize("name", ["resident", "fetched", "bilevel"])
def test_four_devices_end_where_one_does(result, name):
    assert result[name] < 1e-5


def test_batches_are_split_along_their_examples_and_gradients_summed(result):
    asked = [line.split("<@mesh, ")[1] for line in result["asked"].splitlines() if "sharding_constraint" in line]
    x, y = '[{"data"}, {}]> : tensor<8x4xf32>', '[{"data"}]> : tensor<8xf32>'
    terms = ['[{}, {"data"}, {}]> : tensor<2x8x4xf32>', '[{}, {"data"}]> : tensor<2x8xf32>']
    assert asked == [x, y, x, y, *terms]
    assert "f32[2,4]" in result["compiled"]  # 8 examples over 4 devices
    assert "all-reduce" in result["compiled"]


def test_a_checkpoint_moves_to_another_number_of_devices(result):
    assert result["moved"] < 1e-5


PROCESSES = """
import sys
import jax, numpy as np
port, index, folder = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=int(index), initialization_timeout=60)
from engine_problem import KEY, make_learner, resident
from jnas.distributed.meshes import data_mesh
from jnas.train import Hook, Saving, chunks_of, fit, jsonl_log
from jnas.errors import Interrupted
import os, signal

def stop(event):
    if event.step == 4 and int(index) == 1:
        os.kill(os.getpid(), signal.SIGTERM)

options = dict(key=KEY, num_steps=6, mesh=data_mesh(), checkpoints=Saving(f"{folder}/c"))
log = jsonl_log(f"{folder}/log.jsonl")
learner, source = make_learner(), resident()
try:
    fit(learner, source, hooks=[*chunks_of(2), log, Hook(steps=stop)], **options)
except Interrupted as error:
    print(error)
state = fit(learner, source, hooks=[*chunks_of(2), log], **options)
print(np.asarray(state.params["w"]).tolist(), flush=True)
jax.distributed.shutdown()
"""


def test_two_processes_stop_together_resume_and_end_where_one_does(start_script, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    both = [start_script(PROCESSES, port, index, tmp_path) for index in range(2)]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    first, second = ([line for line in output.splitlines() if "Gloo" not in line] for output, _ in said)
    assert first[0].startswith("stopped by a signal to another process after step 4 of 6")
    assert second[0].startswith("stopped by SIGTERM after step 4 of 6")
    alone = fit(make_learner(), resident(), key=KEY, num_steps=6, hooks=chunks_of(2))
    for lines in (first, second):
        np.testing.assert_allclose(json.loads(lines[1]), alone.params["w"], rtol=1e-5)
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_mesh_of_one_device_is_no_special_case():
    run = lambda mesh: fit(make_learner(), resident(), key=KEY, num_steps=3, mesh=mesh)
    np.testing.assert_array_equal(run(data_mesh()).params["w"], run(None).params["w"])


def test_a_batch_that_the_devices_do_not_divide_is_one_sentence():
    from jax.sharding import AbstractMesh, AxisType

    from jnas.distributed.sharding import split_batch
    from jnas.types import Batches

    mesh = AbstractMesh((3,), ("data",), axis_types=(AxisType.Auto,))
    sentence = "^a batch of 64 cannot be split over 3 devices: choose a batch size that is a multiple of 3"
    split = lambda batch: jax.eval_shape(lambda tree: split_batch(tree, mesh), batch)
    with pytest.raises(UserError, match=sentence):
        split(data())
    fine, terms = np.zeros((3, 2)), lambda size: np.zeros((5, size))
    split(Batches(fine, fine, terms(6)))
    with pytest.raises(UserError, match=sentence):
        split(Batches(fine, fine, terms(64)))


def test_more_devices_than_there_are():
    with pytest.raises(UserError, match=r"^99 devices were asked for and \d+ are there"):
        data_mesh(99)
    assert data_mesh(1).shape == {"data": 1}
    assert len(jax.devices()) == data_mesh().size
