"""Strict tests: implicit promotion of dtypes and ranks is an error, warnings are errors (pyproject.toml)."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


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
