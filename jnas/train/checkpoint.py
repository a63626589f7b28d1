"""The checkpoints of a run: written in the background, complete or absent, the newest one restored."""

import contextlib
import json
import logging
import os
import re
import sys
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jnas.distributed.sharding import to_host
from jnas.errors import UserError
from jnas.files.writing import prepare_folder
from jnas.types import PyTree, State


class Saving(NamedTuple):
    """Where `fit` keeps its checkpoints, and how often."""

    folder: str | os.PathLike[str]
    every: int | None = None  # steps between two checkpoints; None: at the end and at a stop only


class Checkpoints:
    """A folder of checkpoints, one a step.

    Use it where a state must survive a crash; for final weights see `save_tree`. A save copies the state and goes on
    in the background; a checkpoint appears under its name only when it is complete, so a kill in the middle leaves the
    older ones. In a run of several processes every process calls every method.

    Args:
      folder: made if absent; leftovers of killed saves in it are removed.
      max_to_keep: how many of the newest checkpoints stay.

    Raises:
      UserError: if the folder cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str], *, max_to_keep: int = 2):
        import orbax.checkpoint as ocp

        self.folder = prepare_folder(os.path.abspath(folder))
        self._args = ocp.args
        self._saving: int | None = None
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(max_to_keep),
            cleanup_tmp_directories=True,
            # When that fails, the threads that wait for the folder keep the process alive for minutes.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        )
        # Orbax logs the traceback of a failed write once a thread; the failure itself is raised and answered below.
        logging.getLogger("absl").addFilter(_not_orbax)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def latest(self) -> int | None:
        """The step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: State, meta: dict[str, Any]) -> None:
        """Start writing a checkpoint, after waiting for the one before it.

        Args:
          step: under which it is filed.
          state: any tree of arrays, typed keys and empty arrays included; it may be donated as soon as this returns.
          meta: values of JSON that `restore` hands back.

        Raises:
          UserError: if this or the previous checkpoint cannot be written.
        """
        self.wait()
        self._saving = step
        # Leaves by number: the tree is the caller's, who has it again when restoring. Empty arrays cannot be stored.
        leaves = {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(state)) if leaf.size}
        about = {"user": meta, "leaves": describe(state)}
        about["sum"] = _sum(about, leaves)
        stored = {"state": self._args.StandardSave(leaves), "meta": self._args.JsonSave(about)}
        with self._explained():
            self._manager.save(step, args=self._args.Composite(**stored))

    def restore(self, abstract: State) -> tuple[int, State, dict[str, Any]]:
        """Read the newest sound checkpoint; those after it that were read and are damaged are told of and removed.

        Args:
          abstract: the tree to fill, of `jax.ShapeDtypeStruct` with shardings, or of arrays.

        Returns:
          The step, the state placed as `abstract` says, and what was saved as `meta`.

        Raises:
          UserError: if there is none, if it belongs to another tree, or if it cannot be read; nothing is removed then.
        """
        damaged: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            where = f"the checkpoint of step {step} in {self.folder}"
            try:
                state, meta = self._read(step, where, abstract)
            except UserError:
                raise
            except Exception as error:
                if why := _refusal(error):
                    raise UserError(
                        f"{where} cannot be read: {why}; try again when its disk is well, or delete "
                        f"{self.folder / str(step)} to do without it"
                    ) from error
                damaged[step] = f"{where} is damaged"
                continue
            for bad, what in damaged.items():
                self._manager.delete(bad)
                if jax.process_index() == 0:
                    print(f"{what}: it is removed, and step {step} is taken up", file=sys.stderr)
            return step, state, meta
        if not damaged:
            raise UserError(f"{self.folder} holds no checkpoint: name the folder of a run that has saved one")
        step, what = damaged.popitem()
        raise UserError(f"{what} and there is none before it: delete {self.folder / str(step)} to begin anew")

    def _read(self, step: int, where: str, abstract: State) -> tuple[State, dict[str, Any]]:
        leaves, tree = jax.tree.flatten(abstract)
        wanted = {str(i): leaf for i, leaf in enumerate(leaves) if leaf.size}
        for part in ("meta", "state"):  # where one is gone, the storage library has no OSError for it
            os.stat(self.folder / str(step) / part)
        about = self._manager.restore(step, args=self._args.Composite(meta=self._args.JsonRestore()))["meta"]
        if (difference := first_difference(about["leaves"], describe(abstract))) is not None:
            raise UserError(
                f"{where} belongs to another run: {difference}; restore its settings or choose another folder"
            )
        read = self._args.Composite(state=self._args.StandardRestore(wanted))
        found = self._manager.restore(step, args=read)["state"]
        known = about.pop("sum", None)  # None: of a version that kept none
        if known not in (None, _sum(about, found)):
            raise ValueError("its checksum differs")
        filled = [found[str(i)] if leaf.size else _empty(leaf) for i, leaf in enumerate(leaves)]
        return jax.tree.unflatten(tree, filled), about["user"]

    def wait(self) -> None:
        """Return when the last `save` is on disk.

        Raises:
          UserError: if it could not be written.
        """
        with self._explained():
            self._manager.wait_until_finished()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        with contextlib.suppress(*[Exception] * (kind is not None)):  # what failed first is told
            self.close()

    def close(self) -> None:
        """Wait for the background work and end it; raises as `wait`."""
        try:
            with self._explained():
                self._manager.close()
        finally:
            logging.getLogger("absl").removeFilter(_not_orbax)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            if (reason := _refusal(error)) is None:
                raise
            raise UserError(
                f"cannot write the checkpoint of step {self._saving} to {self.folder}: {reason}; "
                "free the disk or choose another folder"
            ) from error


def describe(tree: PyTree) -> list[list[Any]]:
    """Path, shape and dtype of every leaf, as values of JSON."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [[jax.tree_util.keystr(path), list(leaf.shape), str(leaf.dtype)] for path, leaf in leaves]


def first_difference(stored: list[list[Any]], wanted: list[list[Any]]) -> str | None:
    """How two descriptions differ, in words; None if they do not."""
    old, new = ({path: f"{dtype}{shape}" for path, shape, dtype in leaves} for leaves in (stored, wanted))
    for path in [*new, *old]:
        if old.get(path) != new.get(path):
            return f"state{path} is {old.get(path, 'absent')} there and {new.get(path, 'absent')} here"
    return None


def _sum(about: dict[str, Any], leaves: dict[str, jax.Array]) -> int:
    """A checksum of values of JSON and of arrays, whatever devices these are spread over."""
    total = zlib.crc32(json.dumps(about, sort_keys=True).encode())
    for _, leaf in sorted(leaves.items()):
        data = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        total = zlib.crc32(np.asarray(to_host(data)).tobytes(), total)
    return total


def _refusal(error: Exception) -> str | None:
    """What a disk or the system refused, in its words; None where something was read and is not as it was written."""
    said = str(error)
    if code := re.search(r"os_error_code='(\d+)'", said):  # of the storage library, which knows no OSError
        return os.strerror(int(code[1]))
    if isinstance(error, ValueError | LookupError | TypeError | AttributeError):
        code = re.match("[A-Z_]+(?=: )", said)
        return code[0] if code and code[0] not in ("DATA_LOSS", "OUT_OF_RANGE", "INVALID_ARGUMENT") else None
    return getattr(error, "strerror", None) or said.partition("\n")[0] or type(error).__name__


def _empty(leaf) -> jax.Array:
    return jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding)


def _not_orbax(record: logging.LogRecord) -> bool:
    return f"{os.sep}orbax{os.sep}" not in record.pathname
