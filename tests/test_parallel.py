"""The same numbers on one device and on many: every estimator, both schemes, in single and in double precision.

In a subprocess, for devices are counted and precision is chosen before JAX starts.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from compiling import FLAGS

SCRIPT = pathlib.Path(__file__).with_name("parallel_script.py")
CASES = {"float32": (["2"], 1e-5), "float64": (["8", "runs"], 1e-12)}


def measure(dtype):
    environment = {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": FLAGS}
    command = [sys.executable, SCRIPT, dtype, *CASES[dtype][0]]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def double():
    return measure("float64")


def worst(result, cases, num_learners):
    """The largest difference among all learners and cases, each of which must be there."""
    assert all(len(result[case]) == num_learners for case in cases)
    return max(difference for case in cases for difference in result[case].values())


def test_every_estimator_on_eight_devices_is_the_one_of_one_device(double):
    assert worst(double, ["data=8"], 11) < CASES["float64"][1], double


def test_so_it_is_on_two_devices_in_single_precision():
    single = measure("float32")
    assert worst(single, ["data=2"], 11) < CASES["float32"][1], single


def test_runs_and_data_together_are_the_runs_alone(double):
    assert worst(double, [f"run {run} of 4x2" for run in range(4)], 2) < CASES["float64"][1], double


def test_a_supernet_on_four_devices_is_the_one_of_one_device(double):
    assert double["supernet data=4"] < CASES["float64"][1]


def test_all_devices_hold_the_same_alphas_after_fifty_steps(double):
    assert (double["shards"], double["shards differ"]) == (2 * 2 * 8, 0)
    assert double["moved"] > 1e-4
