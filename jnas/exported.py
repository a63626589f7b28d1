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
import math
import os
import pathlib
import subprocess
import sys
import zipfile
from typing import Any

import jax
import numpy as np

from jnas.errors import UserError

FORMAT, VERSION = "jnas-network", 1
HEADER, PROGRAM, WEIGHTS, GALLERY = "header.json", "program.bin", "weights.npz", "gallery.npz"
ANSWERS = {  # by task
    "classification": {"probability"}, "recognition": {"embedding"}, "detection": {"boxes", "score", "label"},
}  # fmt: skip
MOST_SIDE = 2**14  # pixels
PATIENCE = 120  # seconds for reading a program, which takes less than one
# All that a network needs of the compiler beside arithmetic. Any other custom call names a function of the process that
# loads the file, which would be called with whatever arguments the file says.
CUSTOM_CALLS = {"shape_assertion", "stablehlo.dynamic_reduce_window", "stablehlo.dynamic_top_k"}
DIALECTS = {"builtin", "func", "stablehlo", "chlo"}
OUTWARD = {f"stablehlo.{name}" for name in ("infeed", "outfeed", "recv", "send")}
# A program from standard input as the names of its operations and of its custom calls. The reader of MLIR ends its
# process at some damages, so it runs in one of its own, which loads jaxlib alone: 0.3 s, with JAX 1.5 s.
READER = """
import contextlib, json, sys

with contextlib.suppress(ImportError, ValueError, OSError):  # where there is no such limit
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (2**32, 2**32))
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import chlo, sdy, stablehlo

operations, called = set(), set()

def look(operation):
    operations.add(operation.name)
    if operation.name == "stablehlo.custom_call":
        called.add(ir.StringAttr(operation.attributes["call_target_name"]).value)
    return ir.WalkResult.ADVANCE

with ir.Context() as context:
    for dialect in (chlo, sdy, stablehlo):
        dialect.register_dialect(context)
    module = stablehlo.deserialize_portable_artifact(context, sys.stdin.buffer.read())
    module.operation.walk(lambda operation: look(operation.operation))
print(json.dumps([sorted(operations), sorted(called)]))
"""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ExportedNetwork:
    """A trained network read from a file; call it with images.

    Args:
      header: what the file says of itself: `task`, `class_names`, `input` and `outputs` (shapes and dtypes),
        `platforms`, `genotype`, `space`, `weights_bytes`, and of a quantised network `quantisation`: by layer the
        widths of its weights, which are packed at them, and of its inputs.
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

    def __repr__(self) -> str:
        names = self.class_names
        shown = f"{', '.join(names[:3])}{', ...' * (len(names) > 3)}"
        return f"ExportedNetwork(task={self.task!r}, shape={self.shape}, {len(names)} classes: {shown})"

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
        images = checked(images, self.shape)
        try:
            said = {name: np.asarray(value) for name, value in self._compiled(images).items()}
        except ValueError as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"the network's program does not run here ({reason[:200]}): export it again") from error
        if "label" in said and said["label"].max(initial=0) >= len(self.class_names):
            raise UserError(f"the network knows more classes than its {len(self.class_names)} names: export it again")
        return said


def checked(images: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Images that a network of this shape reads; raises a ValueError unless they are `[batch, *shape]` uint8."""
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
        sides = ", ".join(map(str, shape))
        raise ValueError(f"images are {images.dtype} {images.shape}: give uint8 of shape (batch, {sides})")
    return images


def load(path: str | os.PathLike[str]) -> ExportedNetwork:
    """Read a file that `jnas export` wrote.

    Args:
      path: of the file.

    Returns:
      The network; it is compiled when it is called.

    Raises:
      UserError: if the file is absent, damaged, changed, of another version, or asks for more than a network needs.
    """
    name = os.fspath(path)
    damaged = UserError(f"{name} is damaged, changed or no exported network: run jnas export again")
    try:
        if pathlib.Path(path).exists() and not pathlib.Path(path).is_file():  # a pipe would keep us waiting
            raise damaged
        with open(path, "rb") as file:
            parts = _parts(file, os.fstat(file.fileno()).st_size)
        header = json.loads(parts.pop(HEADER))
        version = header["format"], header.get("version")
        if version == (FORMAT, VERSION):
            _check_digests(header, parts)
        stored, arrays = parts[PROGRAM], parts[WEIGHTS]
    except OSError as error:
        raise UserError(f"cannot read {name}: {error.strerror}; name a file that jnas export wrote") from error
    except Exception as error:  # in the zip reader, the decompressor, the JSON, or for what it lacks
        raise damaged from error
    if version != (FORMAT, VERSION):
        raise UserError(
            f"{name} is of format {version[0]} {version[1]} and this program reads {FORMAT} {VERSION}: export the "
            "network again with this version"
        )
    _check_header(name, header)
    program = _program(name, stored, header["jax"])
    _check_against(name, header, program)
    try:
        weights = _arrays(arrays)
        gallery = _arrays(parts[GALLERY]) if GALLERY in parts else {}
        ordered = tuple(weights[str(i)] for i in range(len(weights)))
        if [(array.shape, array.dtype) for array in ordered] != [(a.shape, a.dtype) for a in program.in_avals[:-1]]:
            raise ValueError("other weights")
        if not all(np.isfinite(array).all() for array in (*ordered, *gallery.values())):
            raise ValueError("numbers that are not finite")
        if header["task"] == "recognition":
            _check_gallery(header, **gallery)
    except Exception as error:
        raise damaged from error
    return ExportedNetwork(header, program, ordered, gallery)


def digest_of(header: dict[str, Any]) -> str:
    """SHA-256 of a header, its own digest left out."""
    rest = {name: value for name, value in header.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _parts(file: io.BufferedReader, size: int) -> dict[str, bytes]:
    """The members of an archive, if they are few and none takes memory out of proportion."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len(members) > 4 or sum(member.file_size for member in members) > 2**26 + 16 * size:
            raise ValueError("too much")
        return {member.filename: archive.read(member) for member in members}


def _check_digests(header: dict[str, Any], parts: dict[str, bytes]) -> None:
    if header["digests"] != {entry: hashlib.sha256(content).hexdigest() for entry, content in parts.items()}:
        raise ValueError("other parts")
    if header.get("digest", digest_of(header)) != digest_of(header):  # before version 0.11 there was none
        raise ValueError("another header")


def _check_header(name: str, header: dict[str, Any]) -> None:
    """Raises a UserError for the first field that is not what `jnas export` writes."""
    texts = lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value)
    sides = lambda value: (
        isinstance(value, list) and len(value) == 4 and value[0] == "batch"
        and all(type(side) is int and 0 < side <= MOST_SIDE for side in value[1:])
    )  # fmt: skip
    table = lambda value: isinstance(value, dict)
    rules = [
        ("task", lambda value: isinstance(value, str) and value in ANSWERS, f"one of {', '.join(ANSWERS)}"),
        ("class_names", texts, "a list of texts"),
        ("platforms", texts, "a list of texts"),
        *((field, lambda value: isinstance(value, str), "a text") for field in ("genotype", "space", "jax")),
        ("input", table, "an object"),
        ("input.shape", sides, f"[batch, height, width, channels], numbers from 1 to {MOST_SIDE}"),
        ("outputs", table, "an object"),
    ]
    for path, right, expected in rules:
        value: Any = header
        for key in path.split("."):
            value = value.get(key)
        if not right(value):
            raise _wrong(name, path, value, expected)


def _check_against(name: str, header: dict[str, Any], program: Any) -> None:
    """Raises a UserError where the header says anything else than the program."""
    described = lambda aval: {"shape": [str(aval.shape[0]), *map(int, aval.shape[1:])], "dtype": str(aval.dtype)}
    *weights, images = program.in_avals
    outputs = jax.tree.unflatten(program.out_tree, program.out_avals)
    if program.in_tree != jax.tree.structure(((tuple(weights), images), {})):
        raise _wrong(name, PROGRAM, program.in_tree, "a program of weights and images")
    wanted = {"input": described(images), "outputs": {key: described(value) for key, value in outputs.items()}}
    for path in ("input", "outputs"):
        if header[path] != wanted[path]:
            raise _wrong(name, path, header[path], f"{json.dumps(wanted[path])}, as its program has it")
    if set(outputs) != ANSWERS[header["task"]]:
        raise _wrong(name, "task", header["task"], f"that of a network which answers {', '.join(sorted(outputs))}")
    if "probability" in outputs and len(header["class_names"]) != outputs["probability"].shape[1]:
        raise _wrong(name, "class_names", header["class_names"], f"{outputs['probability'].shape[1]} names")


def _check_gallery(header: dict[str, Any], embedding: np.ndarray, label: np.ndarray) -> None:
    dimension = header["outputs"]["embedding"]["shape"][1]
    if embedding.dtype != np.float32 or embedding.shape != (len(label), dimension) or label.dtype.kind not in "iu":
        raise ValueError("other embeddings")
    if label.ndim != 1 or not 0 <= label.min() <= label.max() < len(header["class_names"]):
        raise ValueError("other classes")


def _wrong(name: str, path: str, value: Any, expected: str) -> UserError:
    shown = "absent" if value is None else ascii(value)
    return UserError(f"{name}: field {path} is {shown[:80]}{'...' * (len(shown) > 80)}; expected {expected}")


def _program(name: str, content: bytes, version: str) -> Any:
    """The program, if it is one of arithmetic alone; it is looked at before anything is compiled."""
    command = [sys.executable or "python", "-P", "-c", READER]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    operations, called, why = set(), set(), None
    try:
        from jax import export  # here: it needs the package flatbuffers, which nothing else does

        program = export.deserialize(bytearray(content))
        done = subprocess.run(
            command, input=program.mlir_module_serialized, env=environment, capture_output=True, timeout=PATIENCE
        )
        if done.returncode < 0:
            why = "it ends the reader of JAX"
        else:
            operations, called = map(set, json.loads(done.stdout))
    except ImportError as error:
        raise UserError(f"{name} cannot be read without the package flatbuffers: pip install flatbuffers") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        why = getattr(error, "strerror", None) or f"it takes more than {PATIENCE} s"
    except Exception as error:  # a program of a JAX too old or too new fails in many ways, there and here
        raise UserError(
            f"{name} was exported with JAX {version} and JAX {jax.__version__} does not read it: export it again, or "
            "use a version closer to that"
        ) from error
    if why:
        raise UserError(f"{name}: its program cannot be read ({why}): run jnas export again")
    outside = {kind for kind in operations if kind in OUTWARD or kind.partition(".")[0] not in DIALECTS}
    if refused := sorted(outside | called - CUSTOM_CALLS):
        raise _wrong(name, PROGRAM, refused, "a program that calls nothing but the arithmetic of a network")
    return program


def _arrays(content: bytes) -> dict[str, np.ndarray]:
    """The arrays of a file of NumPy, none of which says that it is larger than it is."""
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            with archive.open(member) as file:
                if np.lib.format.read_magic(file) != (1, 0):
                    raise ValueError("another version")
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            if member.compress_type or math.prod(shape) * dtype.itemsize > len(content):
                raise ValueError("too much")
            with archive.open(member) as file:
                arrays[member.filename.removesuffix(".npy")] = np.lib.format.read_array(file, allow_pickle=False)
    return arrays
