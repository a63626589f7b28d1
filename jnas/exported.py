"""Exported networks: one file with program, weights and class names, used with JAX and NumPy alone.

```
from jnas import exported

network = exported.load("cells.jnas")
network(images)  # uint8 [batch, height, width, channels], any batch, on CPU, GPU or TPU
```
This module imports nothing of the search: it may be copied out of the package together with `jnas/errors.py`.
"""

import dataclasses
import functools
import hashlib
import io
import json
import os
import pathlib
import zipfile
import zlib
from typing import Any

import jax
import numpy as np

from jnas.errors import UserError

FORMAT, VERSION = "jnas-network", 1
HEADER, PROGRAM, WEIGHTS, GALLERY = "header.json", "program.bin", "weights.npz", "gallery.npz"

# How a damaged archive fails: in the zip reader, the decompressor, the JSON, or for what it lacks.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, EOFError, KeyError, TypeError, AttributeError, ValueError, NotImplementedError,
    RuntimeError,
)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class ExportedNetwork:
    """A trained network read from a file; call it with images.

    Args:
      header: what the file says of itself: `task`, `class_names`, `input` and `outputs` (shapes and dtypes),
        `platforms`, `genotype`, `space`.
      program: the deserialised `jax.export.Exported`.
      weights: in the order in which the program takes them.
      gallery: of a recognition network `{"embedding": [num_gallery, dimension], "label": [num_gallery]}`, else empty.
    """

    header: dict[str, Any]
    program: Any
    weights: tuple[np.ndarray, ...]
    gallery: dict[str, np.ndarray]

    @property
    def task(self) -> str:
        """Classification, recognition or detection."""
        return self.header["task"]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the labels, in their order."""
        return tuple(self.header["class_names"])

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        height, width, channels = self.header["input"]["shape"][1:]
        return height, width, channels

    @functools.cached_property
    def _compiled(self):
        # On the device once, and not at every call.
        weights = jax.tree.map(jax.numpy.asarray, self.weights)
        return functools.partial(jax.jit(self.program.call), weights)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Looks at images.

        Args:
          images: `[batch, height, width, channels]` uint8 of the header's shape; a new batch size compiles anew.

        Returns:
          Arrays with leading axis `[batch]`. Classification: `probability [batch, num_classes]`. Recognition:
          `embedding [batch, dimension]`. Detection: `boxes [batch, most, 4]` (left, top, right, bottom in pixels),
          `score [batch, most]` (0: nothing), `label [batch, most]`.

        Raises:
          ValueError: if the images have another shape or dtype.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != self.shape or not len(images):
            sides = ", ".join(map(str, self.shape))
            raise ValueError(f"images are {images.dtype} {images.shape}: give uint8 of shape (batch, {sides})")
        return {name: np.asarray(value) for name, value in self._compiled(images).items()}


def load(path: str | os.PathLike[str]) -> ExportedNetwork:
    """Read a file that `jnas export` wrote.

    Args:
      path: of the file.

    Returns:
      The network.

    Raises:
      UserError: if the file is absent, damaged, changed, or of another version.
    """
    name = os.fspath(path)
    try:
        content = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {name}: {error.strerror}; name a file that jnas export wrote") from error
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            parts = {entry: archive.read(entry) for entry in archive.namelist()}
        header = json.loads(parts[HEADER])
        known = header["format"] == FORMAT
        for entry, digest in header["digests"].items():
            if hashlib.sha256(parts[entry]).hexdigest() != digest:
                raise ValueError(entry)
        if set(header["digests"]) != set(parts) - {HEADER}:
            raise ValueError("other parts")
    except _DAMAGE as error:
        raise UserError(f"{name} is damaged, changed or no exported network: run jnas export again") from error
    if not known or header.get("version") != VERSION:
        raise UserError(
            f"{name} is of format {header.get('format')} {header.get('version')} and this program reads {FORMAT} "
            f"{VERSION}: export the network again with this version"
        )
    try:
        from jax import export  # here: it needs the package flatbuffers, which nothing else does

        program = export.deserialize(bytearray(parts[PROGRAM]))
    except ImportError as error:
        raise UserError(f"{name} cannot be read without the package flatbuffers: pip install flatbuffers") from error
    except Exception as error:  # a program of a JAX too old or too new fails in many ways
        raise UserError(
            f"{name} was exported with JAX {header.get('jax')} and JAX {jax.__version__} does not read it "
            f"({type(error).__name__}): use a version closer to that"
        ) from error
    weights = _arrays(parts[WEIGHTS])
    gallery = _arrays(parts[GALLERY]) if GALLERY in parts else {}
    return ExportedNetwork(header, program, tuple(weights[str(i)] for i in range(len(weights))), gallery)


def _arrays(content: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return dict(archive.items())
