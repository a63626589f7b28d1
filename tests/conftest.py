"""Strict tests: implicit promotion of dtypes and ranks is an error, warnings are errors (pyproject.toml)."""

import gc
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# One cache for all the tests and the processes they start: what one compiled the others read. Not the user's own.
CACHE = os.environ.setdefault(
    "JNAS_CACHE_DIR", str(pathlib.Path(tempfile.gettempdir()) / f"jnas-test-cache-{os.getuid()}")
)

HELPERS = pathlib.Path(__file__).parent / "helpers"
sys.path.insert(0, str(HELPERS))  # which scripts in subprocesses import, too
from compiling import FLAGS  # noqa: E402

# What is compared with the result of another process is compiled in the same way there.
os.environ["XLA_FLAGS"] = f"{FLAGS} {os.environ.get('XLA_FLAGS', '')}".strip()
collect_ignore = ["parallel_script.py", "helpers", "golden/golden.py"]  # programs with arguments

import jax  # noqa: E402 - after its environment
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402
from tiny import ENTRY, TINY  # noqa: E402

import jnas  # noqa: E402
from jnas.data.load import load  # noqa: E402

gc.set_threshold(
    50_000, 20, 100
)  # what tracing allocates mostly lives on: looking through it takes a twelfth of the time
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture
def x64():
    """Double precision inside one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def standard_promotion():
    """For tests that run optax's Adam, whose bias correction mixes dtypes (optax 0.2.8)."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="session")
def start_script(tmp_path_factory):
    """`start_script(text, *arguments, **environment)`: the text as a running Python process."""
    started = []

    def start(text, *arguments, **environment):
        script = tmp_path_factory.mktemp("script") / "script.py"
        script.write_text(text)
        env = {name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}
        env |= {
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": os.pathsep.join([str(HELPERS), str(HELPERS.parents[1])]),
        } | environment
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


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """120 + 40 images of the embedded slice, of 4 classes, halved twice to 7 x 7 pixels."""
    splits = load("fashion-mnist-slice")
    arrays = {}
    for name, part, count in (("train", splits.train, 30), ("test", splits.test, 10)):
        chosen = np.concatenate([np.flatnonzero(part.labels == c)[:count] for c in range(4)])
        pictures = part.images[chosen].reshape(-1, 7, 4, 7, 4).mean((2, 4)).astype(np.uint8)
        arrays |= {f"x_{name}": pictures, f"y_{name}": part.labels[chosen]}
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Sixteen photos with one or two bright shapes each, as VOC lays them out: 12 to train, 4 to test."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / part).mkdir(parents=True)
    for index in range(16):
        picture = Image.new("RGB", (48, 32))
        objects = ""
        for column in range(rng.integers(1, 3)):
            name = ("disc", "square")[rng.integers(2)]
            left, top, side = 24 * column + rng.integers(1, 8), rng.integers(1, 16), rng.integers(10, 15)
            draw = ImageDraw.Draw(picture)
            (draw.ellipse if name == "disc" else draw.rectangle)([left, top, left + side, top + side], fill="white")
            corners = zip(("xmin", "ymin", "xmax", "ymax"), (left, top, left + side, top + side), strict=True)
            inside = "".join(f"<{key}>{value + 1}</{key}>" for key, value in corners)
            objects += f"<object><name>{name}</name><bndbox>{inside}</bndbox></object>"
        picture.save(root / "JPEGImages" / f"{index:02}.jpg")
        (root / "Annotations" / f"{index:02}.xml").write_text(f"<annotation>{objects}</annotation>")
    for part, numbers in (("train", range(12)), ("test", range(12, 16))):
        (root / "ImageSets" / "Main" / f"{part}.txt").write_text("\n".join(f"{i:02}" for i in numbers))
    return root


@pytest.fixture(scope="session")
def command():
    """Runs the program as a user does; returns the finished process, or the running one with `wait=False`.

    `before`: Python that the process runs first.
    """

    def run(*words, wait=True, cwd=None, env=None, before=None):
        environment = {
            **os.environ,
            "XLA_FLAGS": FLAGS,
            "PYTHONPATH": str(pathlib.Path(jnas.__file__).parents[1]),
            **(env or {}),
        }
        process = subprocess.Popen(
            [sys.executable, *(["-m", "jnas"] if before is None else ["-c", before + ENTRY]), *map(str, words)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, env=environment,
        )  # fmt: skip
        if not wait:
            return process
        out, err = process.communicate(timeout=600)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return run


@pytest.fixture(scope="session")
def finished(images, command, tmp_path_factory):
    """The folder of a finished search by the default method, and what the program printed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    done = command("search", f"data={images}", *TINY, "--out", folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout
