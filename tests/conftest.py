"""Strict tests: implicit promotion of dtypes and ranks is an error, warnings are errors (pyproject.toml)."""

import os
import pathlib
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Less optimised machine code: these programs are compiled for longer than they run. What is compared with the result of
# another process is compiled in the same way there.
LESS_OPTIMISED = "--xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = f"{LESS_OPTIMISED} {os.environ.get('XLA_FLAGS', '')}".strip()
# One cache for all the tests and the processes they start: what one compiled the others read. Not the user's own.
CACHE = os.environ.setdefault(
    "JNAS_CACHE_DIR", str(pathlib.Path(tempfile.gettempdir()) / f"jnas-test-cache-{os.getuid()}")
)

# Programs with arguments: the first is run by test_parallel.py, the second by hand.
collect_ignore = ["parallel_script.py", "golden/golden.py"]

import jax  # noqa: E402 - after its environment
import pytest  # noqa: E402

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
