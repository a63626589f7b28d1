"""A zoo: a folder of trained networks with what they cost, safe to share between processes.

```
ZOO/networks/NAME/{entry.json, network.json, weights.npz, result.json}
ZOO/tables/NAME/{entry.json, models.jsonl}            records of models whose weights are elsewhere
ZOO/costs/NAME/DEVICE-KIND-BATCH.json                 what was measured, on which device
ZOO/records/DIGEST.json                               what a fine-tuning came to
```
There is no index that two writers could fight over: an entry is made in a folder of its own and renamed to its place,
which happens whole or not at all. `entry.json` holds the SHA-256 of every file beside it and of itself; an entry that
does not agree with them is refused by name and left out of listings. Nothing is ever unpickled. A zoo behind a URL is
read as it is and not written: such storages cannot rename a folder.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import time
from collections.abc import Mapping
from typing import Any

from jnas.errors import UserError
from jnas.files import atomic_write, explain, prepare_folder, schemas
from jnas.files.reading import LONGEST, checked, decoded, memory, opened, parsed
from jnas.files.urls import masked
from jnas.files.writing import left_name, staged, sweep
from jnas.recipes.zoo.place import Place, place_of, to_write

ENTRY, NETWORKS, TABLES, COSTS, RECORDS = "entry.json", "networks", "tables", "costs", "records"
Facts = dict[str, Any]


def add(
    zoo: str | os.PathLike[str], kind: str, name: str, facts: Mapping[str, Any], files: Mapping[str, bytes]
) -> bool:
    """Put an entry into a zoo, whole or not at all.

    Args:
      zoo: the folder; made if absent. Behind a URL it can be read only, by all functions that write.
      kind: `NETWORKS` or `TABLES`.
      name: of the entry.
      facts: what the zoo says about it; values of JSON.
      files: contents by name.

    Returns:
      False if the very same entry was there already.

    Raises:
      UserError: if the name is unfit, another entry has it, or the zoo cannot be written.
    """
    check_name(name)
    sums = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    folder = prepare_folder(to_write(zoo) / kind)
    sweep(folder)
    place = folder / name
    with explain("write", place):
        try:
            with staged(folder) as made:
                for file, content in files.items():
                    atomic_write(made / file, content)
                atomic_write(made / ENTRY, sealed({**facts, "name": name, "sha256": sums}))
                made.rename(place)  # fails if that folder is there and has anything in it
            return True
        except OSError:
            if not place.is_dir():
                raise
    with contextlib.suppress(UserError):
        if read_entry(place)["sha256"] == sums:
            return False
    raise UserError(f"{folder} has another entry {name!r}: give this one another name with --name")


def read(zoo: str | os.PathLike[str], kind: str, name: str) -> tuple[Facts, dict[str, bytes]]:
    """An entry and its files, after every checksum was compared.

    Args:
      zoo: the folder, or any URL that fsspec reads.
      kind: `NETWORKS` or `TABLES`.
      name: of the entry.

    Returns:
      Its facts and the contents of its files by name.

    Raises:
      UserError: if there is no such entry, or a file of it is missing, truncated or changed; the sentence names it.
    """
    check_name(name)
    said = ""
    for pause in (0.0, 0.01, 0.03, 0.1):  # while others take it out and add it again
        time.sleep(pause)
        try:
            return _read(zoo, kind, name)
        except UserError as error:
            said = str(error)
    raise UserError(said)


def _read(zoo: str | os.PathLike[str], kind: str, name: str) -> tuple[Facts, dict[str, bytes]]:
    folder = place_of(zoo) / kind / name
    with explain("read", str(folder)):
        there = (folder / ENTRY).is_file()
    if not there:
        known = ", ".join([*names(zoo, NETWORKS), *names(zoo, TABLES)]) or "none"
        raise UserError(f"{masked(str(zoo))} has no entry {name!r} among its {kind}: it has {known}")
    facts = read_entry(folder)
    left = min(LONGEST + 16 * facts.get("parameters", 0), memory() // 2)  # bytes: weights are arrays of 4 bytes each
    contents = {}
    for file, expected in facts["sha256"].items():
        if pathlib.PurePath(file).name != file or "\0" in file:
            raise UserError(f"{folder / ENTRY} names a file outside of its folder: remove the entry {name!r}")
        content = content_of(folder / file, left)
        left -= len(content)
        found = hashlib.sha256(content).hexdigest()
        if found != expected:
            raise UserError(
                f"{folder / file} has the SHA-256 {found[:12]}... and the entry says {expected[:12]}...: "
                f"it was truncated or changed; remove {name!r} and add it again"
            )
        contents[file] = content
    return facts, contents


def scan(zoo: str | os.PathLike[str], kind: str) -> tuple[list[tuple[Facts, dict[str, bytes]]], list[str]]:
    """Every sound entry of a kind, by name, and a sentence for each that is not.

    Args:
      zoo: the folder.
      kind: `NETWORKS` or `TABLES`.

    Returns:
      `(entries, complaints)`.

    Raises:
      UserError: if there is no such folder.
    """
    place = place_of(zoo)
    with explain("read", str(place)):
        there = place.is_dir()
    if not there:
        raise UserError(f"{place} is no folder: give that of a zoo, or make one on this machine with jnas zoo add")
    entries, complaints = [], []
    for name in names(zoo, kind):
        try:
            entries.append(read(zoo, kind, name))
        except UserError as error:
            complaints.append(str(error))
    return entries, complaints


def names(zoo: str | os.PathLike[str], kind: str) -> list[str]:
    """The names of all entries of a kind, sound or not."""
    folder = place_of(zoo) / kind
    with explain("read", str(folder)):
        if not folder.is_dir():
            return []
        return sorted(p.name for p in folder.iterdir() if p.name[:1] not in ("", ".") and p.is_dir())


def remove(zoo: str | os.PathLike[str], name: str) -> None:
    """Take an entry out of a zoo with what was measured of it; a reader sees all of it or nothing.

    Args:
      zoo: the folder.
      name: of a network or a table, sound or not.

    Raises:
      UserError: if there is none, or it cannot be removed.
    """
    place = to_write(zoo)
    for kind in (NETWORKS, TABLES):
        folder = place / kind / name
        if name in names(zoo, kind):
            gone = folder.with_name(left_name())
            with explain("remove", folder):
                folder.rename(gone)
                shutil.rmtree(gone, ignore_errors=True)
                sweep(folder.parent)
                shutil.rmtree(place / COSTS / name, ignore_errors=True)
            return
    known = ", ".join([*names(zoo, NETWORKS), *names(zoo, TABLES)]) or "none"
    raise UserError(f"{zoo} has no entry {name!r}: give one of {known}")


def note(zoo: str | os.PathLike[str], *place: str, facts: Mapping[str, Any]) -> pathlib.Path:
    """Write one sealed JSON file, such as a cost or a record of a fine-tuning; two writers each leave theirs.

    Args:
      zoo: the folder.
      *place: folders below it, and the name without suffix; an empty name: the digest of the facts.
      facts: values of JSON.

    Returns:
      The file.
    """
    text = sealed(facts)
    name = place[-1] or json.loads(text)["digest"][:16]
    folder = prepare_folder(to_write(zoo).joinpath(*place[:-1]))
    atomic_write(folder / f"{name}.json", text)
    return folder / f"{name}.json"


def notes(zoo: str | os.PathLike[str], *place: str, schema: Any = schemas.Mapping) -> tuple[list[Facts], list[str]]:
    """The files that `note` left in a folder and that are as `schema` says, and a sentence for each that is not."""
    found, complaints = [], []
    folder = place_of(zoo)
    for name in place:
        check_name(name)
        folder = folder / name
    with explain("read", str(folder)):
        files = [p for p in folder.iterdir() if p.name.endswith(".json")] if folder.is_dir() else []
    for path in sorted(files, key=lambda file: file.name):
        try:
            found.append(checked(unsealed(path), schema, path))
        except UserError as error:
            complaints.append(str(error))
    return found, complaints


def sealed(facts: Mapping[str, Any]) -> str:
    """JSON that holds its own SHA-256."""
    return json.dumps({**facts, "digest": digest_of(facts)}, indent=1, ensure_ascii=False) + "\n"


def unsealed(path: Place) -> Facts:
    """What `sealed` wrote.

    Raises:
      UserError: if the file is damaged, or was changed by hand.
    """
    content = content_of(path, LONGEST)
    with contextlib.suppress(UserError):
        facts = parsed(decoded(content, path), path, schemas.Mapping)
        if facts.pop("digest", None) == digest_of(facts):
            return facts
    raise UserError(f"{path} does not agree with its own checksum: it was truncated or changed; remove that entry")


def content_of(path: Place, most: int = -1) -> bytes:
    """At most so many bytes of a file, all with -1; where there is too much, a checksum will not agree."""
    if isinstance(path, pathlib.Path):
        with opened(path) as file:
            return file.read(most)
    with explain("read", str(path)):
        return path.read_bytes(most)


def digest_of(facts: Mapping[str, Any]) -> str:
    """SHA-256 of facts, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def read_entry(folder: Place) -> Facts:
    """The facts of an entry; its files are not looked at.

    Raises:
      UserError: if they are damaged.
    """
    facts = checked(unsealed(folder / ENTRY), schemas.Sums, folder / ENTRY)
    if facts["name"] != folder.name:
        raise UserError(f"{folder / ENTRY} belongs to the entry {facts['name']!r}: remove it and add it again")
    return facts


def check_name(name: str) -> None:
    """Raises a UserError unless a name is fit for a folder."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise UserError(f"{name!r} is no name for an entry: use letters, digits, '.', '_' and '-', at most 100")


def slug(text: str) -> str:
    """A device's or data set's name as part of a file's.

    >>> slug("NVIDIA H100 80GB")
    'nvidia-h100-80gb'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unnamed"
