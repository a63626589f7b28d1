"""Several processes as one run: real processes of this machine, one CPU device each, over the loopback interface.

The story: a search by 2 processes to its end; the same stopped by SIGTERM, restored by 1 process, and by 4, of which
one is killed; what is left is restored by 2 processes with 2 devices each. All must end where one process does.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys

import host_worker
import numpy as np
import pytest
from compiling import FLAGS
from host_worker import BATCH, EPOCH, SIDE, STEPS

from jnas.cli import hosts
from jnas.distributed import from_first, is_first, peers
from jnas.distributed.hosts import Hosts, joined
from jnas.errors import UserError
from jnas.train.checkpoint import Checkpoints

WORKER = pathlib.Path(host_worker.__file__)


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def environment(kind, number, count, port):
    """What the launcher of a cluster tells its processes, and what `Hosts` is then told."""
    if kind == "slurm":
        return {
            "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": count, "SLURM_PROCID": number,
            "SLURM_LOCALID": number, "SLURM_STEP_NUM_NODES": 1, "JAX_COORDINATOR_PORT": port,
        }, {}  # fmt: skip
    if kind == "open mpi":
        return {
            "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911", "OMPI_COMM_WORLD_SIZE": count,
            "OMPI_COMM_WORLD_RANK": number, "OMPI_COMM_WORLD_LOCAL_RANK": number, "JAX_COORDINATOR_PORT": port,
        }, {}  # fmt: skip
    return {}, {"coordinator": f"localhost:{port}", "num_processes": count, "process_id": number}


@pytest.fixture(scope="module")
def pod():
    """`pod(count, kind, script=..., **what)` starts the processes, waits, and returns status and output of each."""
    started = []

    def run(count, kind="explicit", script=WORKER, of=None, start_timeout=120, **what):
        port, processes = free_port(), []
        for number in range(count):
            tells, told = environment(kind, number, of or count, port)
            env = {name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}
            env |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": FLAGS}
            env |= {"PYTHONPATH": str(WORKER.parents[2])} | {name: str(value) for name, value in tells.items()}
            # Nothing is learned from silence within the test, nor from the silence of a process that is only slow.
            told |= {"start_timeout": start_timeout, "heartbeat_timeout": 3600}
            spec = json.dumps({"hosts": told} | what)
            process = subprocess.Popen(
                [sys.executable, str(script), spec],
                env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            started.append(process)
            processes.append(process)
        said = [process.communicate(timeout=240) for process in processes]
        return [(process.returncode, *words) for process, words in zip(processes, said, strict=True)]

    yield run
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A data set of TensorFlow Datasets as array_record: images of the embedded slice, at every third pixel."""
    import tensorflow_datasets as tfds

    from jnas.data.load import load

    train = load("fashion-mnist-slice").train
    pictures = train.images[: 2 * BATCH * EPOCH].reshape(-1, *train.shape)[:, 2:26:3, 2:26:3]
    assert pictures.shape[1:] == (SIDE, SIDE, 1)
    with tfds.core.registered.skip_registration():

        class Tiny(tfds.core.GeneratorBasedBuilder):
            __module__ = "__main__"
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                image = tfds.features.Tensor(shape=(SIDE, SIDE, 1), dtype=np.uint8)
                label = tfds.features.ClassLabel(num_classes=10)
                features = tfds.features.FeaturesDict({"image": image, "label": label})
                return tfds.core.DatasetInfo(builder=self, features=features)

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples()}

            def _generate_examples(self):
                for i, (picture, label) in enumerate(zip(pictures, train.labels, strict=False)):
                    yield i, {"image": picture, "label": label}

    folder = tmp_path_factory.mktemp("data")
    Tiny(data_dir=folder, file_format="array_record").download_and_prepare()
    return f"tfds:tiny:{folder}"


@pytest.fixture(scope="module")
def alone(images, tmp_path_factory):
    """The whole search in one process on one device."""
    return host_worker.search(folder=tmp_path_factory.mktemp("alone"), images=images)


def results(processes):
    assert [status for status, _, _ in processes] == [0] * len(processes), processes
    return [
        json.loads(line.removeprefix("RESULT "))
        for _, output, _ in processes
        for line in output.splitlines()
        if line.startswith("RESULT ")
    ]


def logged(folder):
    return [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_ends_as(found, expected):
    for one in found:
        for name in ("alpha", "weights"):
            np.testing.assert_array_equal(one[name], found[0][name])
            np.testing.assert_allclose(one[name], expected[name], rtol=1e-5, atol=1e-5)
        assert one["genotype"] == expected["genotype"]


@pytest.fixture(scope="module")
def uninterrupted(pod, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return folder, results(pod(2, "slurm", folder=str(folder), images=images))


@pytest.fixture(scope="module")
def stopped(pod, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped")
    return folder, pod(2, folder=str(folder), images=images, act=[3, 1, "SIGTERM"])


@pytest.fixture(scope="module")
def killed(pod, images, stopped, tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    shutil.copytree(stopped[0], folder, dirs_exist_ok=True)
    said = pod(4, "open mpi", folder=str(folder), images=images, act=[7, 2, "SIGKILL"])
    # That of step 6 is written in the background, and may not have been done.
    last = max(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit())
    return folder, said, last


def test_two_processes_end_where_one_does(uninterrupted, alone):
    folder, found = uninterrupted
    assert [(one["process"], one["devices"], one["from"]) for one in found] == [(0, 2, 0), (1, 2, 0)]
    assert_ends_as(found, alone)
    assert logged(folder) == list(range(1, STEPS + 1))


def test_each_example_is_read_once_an_epoch_by_one_of_the_processes(uninterrupted, alone):
    _, (first, second) = uninterrupted
    for level in ("inner", "outer"):
        both = list(zip(first[level], second[level], strict=True))
        share = BATCH // 2 * EPOCH  # of an epoch, for one process
        for epoch in range(2):
            seen = [i for pair in both[epoch * share : (epoch + 1) * share] for i in pair]
            assert sorted(seen) == list(range(BATCH * EPOCH))
        # The batches are those of one process, cut in two.
        batches = np.reshape(alone[level], (-1, 2, BATCH // 2))
        np.testing.assert_array_equal(batches[:, 0].ravel(), first[level])
        np.testing.assert_array_equal(batches[:, 1].ravel(), second[level])


def test_sigterm_to_one_process_stops_all_at_the_same_step(stopped):
    folder, ((status, first, _), (other_status, second, _)) = stopped
    assert (status, other_status) == (143, 143), stopped
    assert "stopped by a signal to another process after step 3 of 12" in first
    assert "stopped by SIGTERM after step 3 of 12" in second
    with Checkpoints(folder / "checkpoints") as checkpoints:
        assert checkpoints.latest() == 3
    assert logged(folder) == [1, 2, 3]


def test_what_two_processes_saved_is_restored_by_one(stopped, images, alone, tmp_path):
    shutil.copytree(stopped[0], tmp_path / "copy")
    assert_ends_as([host_worker.search(folder=tmp_path / "copy", images=images)], alone)
    assert logged(tmp_path / "copy") == list(range(1, STEPS + 1))


def test_a_killed_process_ends_all_by_name(killed):
    _, said, _ = killed
    assert said[2][0] == -signal.SIGKILL, said
    for number in (0, 1, 3):
        status, _, errors = said[number]
        assert status == peers.STATUS, said
        words = [line for line in errors.splitlines() if line.startswith("jnas: ")]
        assert words[0].startswith("jnas: process 2 of 4 ("), said
        assert words[0].endswith(") has died: run the same command again to go on from the last checkpoint"), said


def test_after_the_kill_two_processes_of_two_devices_end_where_one_does(killed, pod, images, alone):
    """The rows of a process do not lie together here: its devices are the first and the third, or the others."""
    folder, _, last = killed
    assert last in (4, 6)  # the save of step 6 began before the kill, and waited for that of step 4
    found = results(pod(2, folder=str(folder), images=images, devices=2, order=[0, 2, 1, 3]))
    assert [(one["process"], one["devices"]) for one in found] == [(0, 4), (1, 4)]
    assert_ends_as(found, alone)
    assert logged(folder) == list(range(1, STEPS + 1))
    share = [i % BATCH // 2 % 2 for i in range(BATCH * (STEPS - last))]  # from the last checkpoint on
    for one in found:
        rows = [i for i, owner in zip(alone["inner"][-len(share) :], share, strict=True) if owner == one["process"]]
        assert one["inner"] == rows


LIVES = """
import json, os, signal, sys, time
import jax
from jnas.distributed import from_first, hosts, peers
from jnas.errors import UserError

spec = json.loads(sys.argv[1])
number = spec["hosts"]["process_id"]
# However slow the machine is: who fails stays until the other has ended, and the other until it knows who failed.
blame = peers.Watch.blame
if number == spec["who"]:
    peers.GRACE = 100.0
else:
    peers.Watch.blame = lambda self, seconds: blame(self, 100.0)
try:
    with hosts.joined(hosts.Hosts(**spec["hosts"])):
        if number == spec["who"]:
            if spec["how"] == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise {"user": UserError, "fault": RuntimeError}[spec["how"]]("no such flower")
        if spec["waits"] == "in a collective":
            from jax.experimental import multihost_utils
            multihost_utils.process_allgather(jax.numpy.ones(1))
        elif spec["waits"] == "for the first":
            from_first(lambda: time.sleep(1000))
        time.sleep(1000)
except UserError as error:
    print(f"jnas: {error}", file=sys.stderr, flush=True)
    os._exit(2)
"""


@pytest.fixture(scope="module")
def lives(tmp_path_factory):
    script = tmp_path_factory.mktemp("lives") / "lives.py"
    script.write_text(LIVES)
    return script


@pytest.mark.parametrize(
    ("who", "how", "waits", "words"),
    [
        (0, "kill", "asleep", "process 0 of 2 (localhost) has died: run the same command again"),
        (1, "kill", "in a collective", "process 1 of 2 ("),
        (1, "user", "for the first", ") has stopped: no such flower"),
        (0, "fault", "in a collective", ") has stopped: no such flower"),
    ],
)
def test_the_end_of_one_process_is_the_end_of_the_other_by_name(pod, lives, who, how, waits, words):
    said = pod(2, script=lives, who=who, how=how, waits=waits)
    assert said[who][0] == {"kill": -signal.SIGKILL, "user": 2, "fault": 1}[how], said
    status, _, errors = said[1 - who]
    if (who, how, status) == (0, "kill", -signal.SIGABRT):  # the client of JAX was quicker, and aborts in its own words
        assert "the JAX distributed service detected fatal errors" in errors, said
        return
    assert words in next(line for line in errors.splitlines() if line.startswith("jnas: ")), said
    assert status == peers.STATUS, said


def test_processes_that_do_not_come(pod, lives):
    ((status, _, errors),) = pod(1, script=lives, who=0, how="", waits="", of=2, start_timeout=3)
    assert status == 2
    sentence = "jnas: process 0 of 2 has not met all the others within 3 s at localhost:"
    assert errors.splitlines()[-1].startswith(sentence)


def test_a_coordinator_out_of_reach_is_one_sentence():
    with (
        pytest.raises(UserError, match=r"^process 1 of 2 cannot reach the coordinator localhost:\d+ \(Conn"),
        joined(Hosts(f"localhost:{free_port()}", 2, 1, start_timeout=1)),
    ):
        pass
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(UserError, match=rf"^process 0 of 2 cannot listen at port {port}: Address already in use"),
            joined(Hosts(f"localhost:{port}", 2, 0)),
        ):
            pass


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("10.0.0.1", 2, 0), "coordinator is '10.0.0.1': give HOST:PORT"),
        (("10.0.0.1:99999", 2, 0), "give HOST:PORT"),
        (("10.0.0.1:8476", 2, 2), "process 2 of 2: number the processes from 0"),
        (("10.0.0.1:8476", None, 0), "give all three, or none"),
        ((None, None, None, 0.5), "heartbeat_timeout is 0.5: give at least 1 second"),
    ],
)
def test_impossible_hosts_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        Hosts(*arguments)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--coordinator", "a:1"], "--processes is missing: give --coordinator HOST:PORT --processes N --process I"),
        (["--distributed", "--process", "0"], "give one of them"),
        (["--coordinator", "a", "--processes", "2", "--process", "0"], "coordinator is 'a': give HOST:PORT"),
    ],
)
def test_impossible_options_are_one_sentence(words, sentence):
    parser = argparse.ArgumentParser()
    hosts.add_arguments(parser)
    with pytest.raises(UserError, match=sentence):
        hosts.from_arguments(parser.parse_args(words))


def test_without_options_a_process_is_alone():
    parser = argparse.ArgumentParser()
    hosts.add_arguments(parser)
    assert hosts.from_arguments(parser.parse_args([])) is None
    assert hosts.from_arguments(parser.parse_args(["--distributed"])) == Hosts()
    with joined(None):
        assert is_first()
        assert from_first(lambda: (1,)) == (1,)
