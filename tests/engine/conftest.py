import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))  # for engine_problem, which scripts in subprocesses import too


@pytest.fixture(scope="session")
def start_script(tmp_path_factory):
    """`start_script(text, *arguments, **environment)`: the text as a running Python process."""
    started = []

    def start(text, *arguments, **environment):
        script = tmp_path_factory.mktemp("script") / "script.py"
        script.write_text(text)
        env = {name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}
        env |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])])} | environment
        process = subprocess.Popen(
            [sys.executable, str(script), *map(str, arguments)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
