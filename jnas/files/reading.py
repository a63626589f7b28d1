"""The one door for files that jnas reads: of bounded size, UTF-8, and checked against a schema before anything else."""

import contextlib
import csv
import functools
import gzip
import io
import json
import math
import os
import pathlib
import reprlib
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np

from jnas.errors import UserError
from jnas.files import schemas
from jnas.files.plain_yaml import plain_yaml
from jnas.files.text import shortened
from jnas.files.writing import explain

LONGEST, LONGEST_LINE = 2**26, 2**24  # bytes of a file of text, and of a line of one that is read line by line
DEEPEST = 64  # lists and mappings in one another: what walks over them does so by recursion
WORDS = {
    "missing": "what jnas writes there", "dict_type": "a mapping", "list_type": "a list", "string_type": "text",
    "int_type": "a whole number", "float_type": "a finite number", "bool_type": "true or false",
    "greater_than_equal": "a number of at least {ge}", "less_than_equal": "a number of at most {le}",
    "greater_than": "a number above {gt}", "too_short": "at least {min_length} entries",
    "too_long": "at most {max_length} entries", "literal_error": "{expected}",
}  # fmt: skip
REMEDY = "restore the file, or delete it and make it again"


def wrong(path: object, field: str, found: str, expected: str, remedy: str = REMEDY) -> UserError:
    """What to raise for a field of a file: one sentence with the field, what is found there and what belongs there."""
    return UserError(
        f"{path}: {f'field {field}' if field else 'the content'} is {found}; expected {expected}: {remedy}"
    )


def checked(value: Any, schema: Any, path: object, remedy: str = REMEDY) -> Any:
    """A value out of a file, if it is as its schema says.

    Args:
      value: of JSON or YAML.
      schema: any type that pydantic knows, such as one of `schemas`; fields that it does not name may be there.
      path: of the file, for the sentence.
      remedy: with which it ends; a file that the user wrote is not made again by jnas.

    Returns:
      The value itself.

    Raises:
      UserError: if it is not, naming the file, the field, its value and what was expected.
    """
    from pydantic import ValidationError

    try:
        _adapter(schema).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(part if str(part).isprintable() else ascii(part) for part in map(str, first["loc"]))
        expected = WORDS.get(first["type"], "{}").format(first["msg"], **first.get("ctx", {}))
        found = "missing" if first["type"] == "missing" else reprlib.repr(first["input"])
        raise wrong(path, field if len(field) <= 120 else f"{field[:120]}...", found, expected, remedy) from error
    return value


def text_of(path: pathlib.Path, *, most: int = LONGEST) -> str:
    """The text of a file.

    Args:
      path: of a regular file.
      most: bytes that it may have; no more are read.

    Returns:
      The text.

    Raises:
      UserError: if it cannot be read, is longer, or is no UTF-8.
    """
    with opened(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise UserError(f"{path} is longer than {most:,} characters: {REMEDY}")
    return decoded(content, path)


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[BinaryIO]:
    """A regular file, open for reading; raises a UserError where there is none, or it cannot be read."""
    with explain("read", path):
        if path.exists() and not path.is_file():  # of a pipe one would wait for the other end
            raise UserError(f"{path} is no file: move it away, or name another")
        with path.open("rb") as file:
            yield file


def decoded(content: bytes, path: object) -> str:
    """Bytes as UTF-8, without the mark that some editors put before it; raises a UserError where they are not."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text (byte {error.start:,} is not UTF-8): {REMEDY}") from error


def json_of(path: pathlib.Path, schema: Any = None) -> Any:
    """The value of a JSON file, checked.

    Args:
      path: of the file.
      schema: see `checked`; None: the one that `schemas.of` has for a file of this name.

    Returns:
      The value.

    Raises:
      UserError: if it cannot be read, is no JSON, or does not agree with the schema.
    """
    return parsed(text_of(path), path, schema)


def yaml_of(path: pathlib.Path, *, typed: bool) -> dict[str, Any]:
    """The mapping of a YAML file of settings.

    Args:
      path: of the file.
      typed: see `plain_yaml`.

    Returns:
      The mapping; an empty one for an empty file.

    Raises:
      UserError: if it cannot be read, is no YAML, or holds anything else.
    """
    import yaml

    text = text_of(path, most=2**17)
    try:
        value = whole(plain_yaml(text, typed=typed) or {})
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is {_reason(error)}: correct it") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{path} is not YAML{where}: correct it") from error
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise UserError(f"{path} holds a {kind} and not a mapping: write lines of the form key: value")
    return value


def parsed(text: str, path: Any, schema: Any = None) -> Any:
    """The value of JSON that was read from a file, see `json_of`."""
    try:
        value = whole(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is {_reason(error)}: {REMEDY}") from error
    return checked(value, schemas.of(path, value) if schema is None else schema, path)


def whole(value: Any) -> Any:
    """A value of JSON or YAML that can be walked over by recursion and written as UTF-8.

    Raises:
      RecursionError: if it is nested too deeply.
      ValueError: if a text of it has half a character of UTF-16.
    """
    level = [value]
    for _ in range(DEEPEST):
        level = [part for one in level if isinstance(one, dict | list) for part in _parts(one)]
        for part in level:
            if isinstance(part, str) and not part.isascii():
                part.encode()
        if not level:
            return value
    raise RecursionError


def lines_of(path: pathlib.Path, schema: Any) -> tuple[list[Any], int]:
    """The values of a file of JSON lines, without those that are torn or not as the schema says, and how many.

    Args:
      path: of the file; none is none without lines.
      schema: of a line, see `checked`.

    Returns:
      The values and the number of lines left out.

    Raises:
      UserError: if the file cannot be read.
    """
    found, unreadable = [], 0
    if path.exists():
        with opened(path) as file:
            for line in filter(bytes.strip, iter(lambda: file.readline(LONGEST_LINE), b"")):
                try:
                    found.append(parsed(decoded(line, path), path, schema))
                except UserError:
                    unreadable += 1
    return found, unreadable


@contextlib.contextmanager
def table_of(path: pathlib.Path) -> Iterator[csv.DictReader]:
    """A table of the user's, for the block to read line by line.

    Args:
      path: of a CSV file, also .gz, whose first line names the columns.

    Yields:
      Its reader.

    Raises:
      UserError: if the file cannot be read, also within the block, or two columns have one name, or a line is endless.
    """
    with opened(path) as file, gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file as plain:
        try:
            text = io.TextIOWrapper(plain, "utf-8-sig", newline="")
            reader = csv.DictReader(_lines(text, path))
            names = list(reader.fieldnames or ())
            if twice := [name for name in names if names.count(name) > 1 and name]:
                raise UserError(f"{path} has two columns {shortened(twice[0])!r}: leave one of them out")
            yield reader
        except (EOFError, csv.Error, UnicodeDecodeError, zlib.error) as error:
            raise UserError(f"{path} cannot be read as CSV ({error}): write it anew") from error


def _lines(text: io.TextIOBase, path: pathlib.Path) -> Iterator[str]:
    for line in iter(lambda: text.readline(LONGEST_LINE), ""):
        if len(line) == LONGEST_LINE:
            raise UserError(f"{path} has a line of {LONGEST_LINE:,} characters or more: write it in shorter ones")
        yield line


def arrays_of(
    path: pathlib.Path, names: Collection[str], *, optional: Collection[str] = (), most: int | None = None
) -> dict[str, np.ndarray]:
    """Arrays of an `.npz` file, whose sizes are looked at before memory is taken; nothing is unpickled.

    Args:
      path: of the file.
      names: of the arrays.
      optional: names of those that it may lack.
      most: bytes that they may have together; None: what the machine has of memory.

    Returns:
      The arrays by name.

    Raises:
      UserError: if the file is no regular one, or cannot be read, or the arrays are larger.
      KeyError: if it lacks some; its arguments are their names and, last, the list of those that it has.
      ValueError: if it is damaged in whatever way.
    """
    most = memory() if most is None else most
    with opened(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                there = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
                if missing := [name for name in names if name not in there]:
                    raise KeyError(*missing, list(there))
                names = [*names, *(name for name in optional if name in there)]
                if (total := sum(there[name].file_size for name in names)) > most:
                    raise UserError(f"{path} has arrays of {total:,} bytes and {most:,} can be read: leave some out")
                return {name: _array(archive, there[name]) for name in names}
        except (OSError, KeyError, ValueError, UserError):
            raise
        except Exception as error:  # the zip reader, its decompressors and NumPy's headers have each their own
            raise ValueError(str(error) or "it ends too soon") from error


def memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as member:
        long = np.lib.format.read_magic(member)[0] > 1
        read = np.lib.format.read_array_header_2_0 if long else np.lib.format.read_array_header_1_0
        shape, _, dtype = read(member)
        size = member.tell() + math.prod(map(int, shape)) * dtype.itemsize  # that may be more than 64 bits count
    if dtype.hasobject or size != info.file_size:
        raise ValueError(f"{info.filename} says {dtype}{list(shape)} and has {info.file_size:,} bytes")
    with archive.open(info) as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else f"damaged ({str(error).partition(chr(10))[0]})"


def _parts(value: dict | list) -> Iterable[Any]:
    return [*value, *value.values()] if isinstance(value, dict) else value


@functools.cache
def _adapter(schema: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(schema)
