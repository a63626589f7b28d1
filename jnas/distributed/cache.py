"""Where compiled programs are kept between processes."""

import os
import pathlib

import jax

from jnas.errors import UserError
from jnas.files.writing import prepare_folder


def enable_compilation_cache() -> pathlib.Path | None:
    """Keep compiled programs on disk, so that the second run of a command starts in seconds.

    Call it before anything is compiled. The folder is `$JNAS_CACHE_DIR`; if that is unset `$XDG_CACHE_HOME/jnas/xla` or
    `~/.cache/jnas/xla`; if it is empty nothing is kept. A folder that cannot be written does no harm.

    Returns:
      The folder in use, or None.
    """
    chosen = os.environ.get("JNAS_CACHE_DIR")
    if chosen == "":
        return None
    try:
        base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        folder = prepare_folder(chosen or pathlib.Path(base) / "jnas" / "xla")
    except (UserError, RuntimeError):  # RuntimeError: there is no home
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return folder
