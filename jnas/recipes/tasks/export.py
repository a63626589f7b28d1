"""Export of a trained network: one file that runs on CPU, GPU and TPU and needs no code of the search."""

import functools
import hashlib
import importlib.util
import io
import json
import os
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from jnas import exported, files
from jnas.errors import UserError
from jnas.recipes import quantised
from jnas.recipes.models import Model, answer
from jnas.recipes.tasks import recognise

PLATFORMS = ("cpu", "cuda", "tpu")


def export_network(
    model: Model, path: str | os.PathLike[str], *, platforms: Sequence[str] = PLATFORMS
) -> dict[str, Any]:
    """Write a trained network to a file, normalisation and softmax (or the choice of boxes) inside.

    The program is lowered for each platform and compiled where it is loaded; it takes a batch of any size. The weights
    of a quantised network are integers packed at their widths, which the program unpacks.

    Args:
      model: from `load_model`.
      path: the file; written whole or not at all.
      platforms: among "cpu", "cuda", "rocm" and "tpu".

    Returns:
      The header, see `exported.ExportedNetwork`.

    Raises:
      UserError: if the file cannot be written, or the package flatbuffers is missing.
    """
    if importlib.util.find_spec("flatbuffers") is None:  # JAX asks for it at the end only
        raise UserError("export needs the package flatbuffers: pip install flatbuffers")
    if model.policy is None:
        leaves, tree = jax.tree.flatten(model.weights)
        unpack = functools.partial(jax.tree.unflatten, tree)
    else:
        leaves, unpack = quantised.packed_weights(model.policy, model.weights)
    function = answer(model)

    def program(weights: tuple[jax.Array, ...], images: jax.Array) -> dict[str, jax.Array]:
        return function(unpack(weights), images)

    lowered = _export(program, leaves, model.shape, platforms)
    parts = {
        exported.PROGRAM: bytes(lowered.serialize()),
        exported.WEIGHTS: _npz({str(i): np.asarray(leaf) for i, leaf in enumerate(leaves)}),
    }
    if model.task == recognise.TASK:
        parts[exported.GALLERY] = _npz(recognise.read_gallery(model.folder, model.facts))
    outputs = jax.tree.unflatten(lowered.out_tree, lowered.out_avals)
    header = {
        "format": exported.FORMAT, "version": exported.VERSION, "task": model.task, "class_names": model.class_names,
        "input": {"shape": ["batch", *model.shape], "dtype": "uint8"},
        "outputs": {
            name: {"shape": ["batch", *map(int, value.shape[1:])], "dtype": str(value.dtype)}
            for name, value in sorted(outputs.items())
        },
        "platforms": list(platforms), "genotype": model.facts["genotype"], "space": model.facts["space"],
        "jax": jax.__version__, "weights_bytes": sum(leaf.nbytes for leaf in leaves),
        "digests": {name: hashlib.sha256(content).hexdigest() for name, content in parts.items()},
    }  # fmt: skip
    if model.policy is not None:
        header["quantisation"] = {"/".join(at): method._asdict() for at, method in model.policy.by_layer().items()}
    header["digest"] = exported.digest_of(header)
    files.atomic_write(pathlib.Path(path), _archive({exported.HEADER: json.dumps(header, indent=1).encode(), **parts}))
    return header


def _export(program, leaves, shape: tuple[int, int, int], platforms: Sequence[str]):
    (batch,) = export.symbolic_shape("batch")
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    images = jax.ShapeDtypeStruct((batch, *shape), jnp.uint8)
    return export.export(jax.jit(program), platforms=tuple(platforms))(shapes, images)


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)  # pyright: ignore[reportArgumentType]
    return content.getvalue()


def _archive(parts: Mapping[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in parts.items():
            archive.writestr(zipfile.ZipInfo(name), part)  # with a fixed date: equal networks give equal files
    return content.getvalue()
