"""These tests need the compilers of accelerators: each file is collected where its compiler is installed."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

NEEDS = {"test_compiled.py": ("libtpu", "tpu"), "test_cuda.py": ("jax_cuda12_plugin", "cuda12")}
ABSENT = {file: needed for file, needed in NEEDS.items() if importlib.util.find_spec(needed[0]) is None}
collect_ignore = list(ABSENT)


def pytest_report_header():
    return [
        f"tests/topology/{file}: not collected, for {module} is not installed (pip install 'jnas[{extra}]')"
        for file, (module, extra) in ABSENT.items()
    ]


@pytest.fixture(scope="session")
def lines(tmp_path_factory):
    """What `jnas bench --topology` prints for the smallest search: `lines(topology, *words)`."""

    def predict(topology, *words):
        words = [
            "space=nasbench201", "channels=4", "depth=1", "batch_size=4", "data=synthetic:8x8x3:4", "edges=scan",
            "estimator=first_order", "momentum=none", "dtype=float32", *words,
        ]  # fmt: skip
        out = tmp_path_factory.mktemp("lines") / "lines.jsonl"
        command = [sys.executable, "-m", "jnas", "bench", *words, "--topology", topology, "--out", str(out)]
        subprocess.run([*command, "--effort", "O0"], env=os.environ, check=False, stdout=subprocess.DEVNULL)
        return [json.loads(line) for line in out.read_text().splitlines()]

    return predict
