"""The folder of a run that was given none: its name says what the run is."""

import dataclasses
import itertools
import os
import pathlib
from typing import Any

from jnas import distributed
from jnas.recipes import run_folder
from jnas.recipes.zoo.entries import slug

LONGEST = 40  # characters of a part of a name


def folder_of(given: str | os.PathLike[str] | None, settings: Any, kind: str, *words: str) -> pathlib.Path:
    """The folder that a user gave, or `runs/WORDS-SPACE-DATA-SEED`, without the data where they are the default.

    Where another run has that folder a number is added, so that the same command always finds its own one. In a run of
    several processes all must call it.

    Args:
      given: by the user.
      settings: of the run.
      kind: of the run, as its config.yaml says it.
      words: what is done, and by which method; empty ones are left out.

    Returns:
      The folder.
    """
    if given:
        return pathlib.Path(given)
    usual = {field.name: field.default for field in dataclasses.fields(settings)}["data"]
    data = "" if settings.data == usual else pathlib.PurePath(settings.data).stem
    space = getattr(settings, "space", "").partition("@")[0]  # of the user's own: without its digest
    parts = (*words, space, data, str(settings.seed))
    name = os.path.join("runs", "-".join(slug(part)[:LONGEST].strip("-") for part in parts if part))

    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    free = lambda path: run_folder.is_free(pathlib.Path(path), settings, kind)
    return pathlib.Path(distributed.from_first(lambda: next(filter(free, names))))
