"""Where a zoo is: a folder of this machine, or what fsspec reads under a URL."""

import contextlib
import dataclasses
import os
import pathlib
import posixpath
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

from jnas.errors import UserError
from jnas.files.urls import masked


@dataclasses.dataclass(frozen=True)
class Remote:
    """A file or folder under a URL, with as much of `pathlib.Path` as reading a zoo takes.

    What the storage refuses is an `OSError`, whatever its library calls it.
    """

    system: Any  # an fsspec file system
    path: str
    label: str  # for sentences; no password in it

    def __truediv__(self, name: str) -> "Remote":
        return Remote(self.system, _joined(self.path, name), _joined(self.label, name))

    def __str__(self) -> str:
        return self.label

    @property
    def name(self) -> str:
        """The last part of the path."""
        return posixpath.basename(_without_query(self.path).rstrip("/"))

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        with _as_os_error():
            return bool(self.system.isdir(self.path))

    def is_file(self) -> bool:
        """Whether it is a file."""
        with _as_os_error():
            return bool(self.system.isfile(self.path))

    def read_bytes(self, most: int) -> bytes:
        """The content of the file; an OSError where it says that it has more than so many bytes, or more arrive."""
        with _as_os_error(), self.system.open(self.path, "rb") as file:
            content, declared = bytearray(), getattr(file, "size", None) or 0
            while declared <= most >= len(content) and (part := file.read(2**20)):  # of a stream: what has arrived
                content += part
        if max(declared, len(content)) > most:
            raise OSError(f"it has more than {most:,} bytes")
        return bytes(content)

    def iterdir(self) -> Iterator["Remote"]:
        """What is in the folder."""
        with _as_os_error():
            found = self.system.ls(self.path, detail=False)
        return iter([self / posixpath.basename(_without_query(name).rstrip("/")) for name in found])


Place = pathlib.Path | Remote


def place_of(zoo: str | os.PathLike[str]) -> Place:
    """The folder of a zoo.

    Args:
      zoo: a path, `file://...`, or any URL that fsspec reads, such as `s3://bucket/zoo` or `zip://zoo::file:///a.zip`.

    Returns:
      A path, or what can be read only.

    Raises:
      UserError: if there is no such storage, or the library for it is missing.

    >>> place_of("zoo"), place_of("file:///data/my%20zoo")
    (PosixPath('zoo'), PosixPath('/data/my zoo'))
    """
    text = os.fspath(zoo)
    if "://" not in text:
        return pathlib.Path(text)
    import fsspec

    label = masked(text)
    try:
        with _as_os_error():
            url = urllib.parse.urlsplit(text)
            if url.scheme in ("file", "local") and "::" not in text:
                return pathlib.Path(urllib.request.url2pathname(url.netloc + url.path))
            system, path = fsspec.core.url_to_fs(text)
            system.invalidate_cache()  # others may have written since this process looked
    except OSError as error:
        raise UserError(f"cannot open {label}: {error}; give a folder or a URL that fsspec reads") from error
    return Remote(system, path.rstrip("/"), label.rstrip("/"))


def writable(zoo: str | os.PathLike[str]) -> bool:
    """Whether a zoo is on a file system that renames whole folders, and so can be written by several at once."""
    return isinstance(place_of(zoo), pathlib.Path)


def to_write(zoo: str | os.PathLike[str]) -> pathlib.Path:
    """The folder of a zoo that is going to be written.

    Raises:
      UserError: if it can be read only.
    """
    place = place_of(zoo)
    if isinstance(place, pathlib.Path):
        return place
    raise UserError(
        f"{place} can be read only, for no storage behind a URL renames a whole folder at once: "
        "write to a folder of this machine and copy that there"
    )


def _joined(path: str, name: str) -> str:
    """What stands under a folder, with the same query, in which services expect a signature."""
    folder = _without_query(path)
    return posixpath.join(folder, name) + path[len(folder) :]


def _without_query(path: str) -> str:
    return path.partition("?")[0] if "://" in path else path


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    """Storages have errors of their own libraries, which are not imported here."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {masked(str(error))}") from error
