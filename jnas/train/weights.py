"""A tree of arrays in one file, for weights that are done."""

import io
import json
import math
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jnas.errors import UserError
from jnas.files import reading, schemas
from jnas.files.writing import atomic_write
from jnas.train.checkpoint import describe, first_difference
from jnas.types import PyTree

_HEADER = "leaves"


def save_tree(path: str | os.PathLike[str], tree: PyTree) -> None:
    """Write a tree of arrays to one `.npz` file, whole or not at all.

    Use it for final weights; the state of a run in progress belongs to `Checkpoints`. Any program that reads NumPy's
    format reads the file: entry `tree['params']['w']` is that leaf, entry `leaves` a JSON text of `[path, shape,
    dtype]`.

    Args:
      path: the file; its folder must exist.
      tree: of arrays of any numeric dtype.

    Raises:
      ValueError: if a leaf is a typed PRNG key.
      UserError: if the file cannot be written.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    arrays: dict[str, Any] = {_HEADER: np.array(json.dumps(describe(tree)))}
    for key_path, leaf in leaves:
        name = jax.tree_util.keystr(key_path)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise ValueError(
                f"leaf {name} is a typed PRNG key, which the file cannot hold: save its jax.random.key_data"
            )
        arrays[f"tree{name}"] = np.asarray(leaf)
    content = io.BytesIO()
    np.savez(content, **arrays)
    atomic_write(path, content.getvalue())


def load_tree(path: str | os.PathLike[str], abstract: PyTree) -> PyTree:
    """Read a tree written by `save_tree`.

    Args:
      path: the file.
      abstract: a tree of arrays or `jax.ShapeDtypeStruct` that says what the file must hold.

    Returns:
      The tree, of arrays on the default device.

    Raises:
      UserError: if the file is absent, damaged, or holds another tree.
    """
    file, wanted = pathlib.Path(path), describe(abstract)
    leaves, tree = jax.tree_util.tree_flatten_with_path(abstract)
    names = [f"tree{jax.tree_util.keystr(key)}" for key, _ in leaves]
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for _, leaf in leaves)
    try:
        header = str(reading.arrays_of(file, [_HEADER], most=reading.LONGEST)[_HEADER])
        stored = reading.parsed(header, f"{file}:{_HEADER}", list[schemas.Leaf])
        if (difference := first_difference(stored, wanted)) is not None:
            raise UserError(f"{file} holds other weights: {difference}; name the file that belongs to this network")
        found = reading.arrays_of(file, names, most=size + 2**12 * len(names))  # with the heads of the arrays
        # A dtype that NumPy has not of its own, such as bfloat16, comes back as raw bytes.
        arrays = [
            array.view(leaf.dtype) if array.dtype.kind == "V" else array
            for array, (_, leaf) in zip(found.values(), leaves, strict=True)
        ]
        filled = jax.tree.unflatten(tree, arrays)
        if (difference := first_difference(describe(filled), wanted)) is not None:
            raise ValueError(difference)
        for name, array in zip(names, arrays, strict=True):
            if jnp.issubdtype(array.dtype, jnp.floating) and not np.isfinite(array).all():
                raise ValueError(f"{name} holds numbers that are not finite")
    except UserError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is damaged or no file of weights ({error}): write it again or name another file"
        ) from error
    return jax.tree.map(jnp.asarray, filled)
