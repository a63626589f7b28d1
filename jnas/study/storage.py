"""Where trials are kept: an Optuna study in a file, a database, a key-value server, or in memory."""

import contextlib
import json
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from jnas.errors import UserError
from jnas.files.locks import exclusive
from jnas.files.urls import masked
from jnas.files.writing import explain

_BEGIN = b'{"op_code":'


class JournalLock:
    """The lock of Optuna's journal file: the one it brings along outlives its holder by half a minute.

    Before anybody writes, what a process or machine left that failed while writing, lines that are none, is taken off.
    """

    def __init__(self, path: str):
        self._path = path
        self._held: contextlib.AbstractContextManager | None = None

    def acquire(self) -> bool:
        """Wait for the lock."""
        held = exclusive(f"{self._path}.lock")
        held.__enter__()
        self._held = held
        try:
            _drop_torn_lines(self._path)
        except BaseException:
            self.release()
            raise
        return True

    def release(self) -> None:
        """Give it back."""
        held, self._held = self._held, None
        if held is not None:
            held.__exit__(None, None, None)


def _record(line: bytes) -> dict[str, Any] | None:
    """What a line of a journal holds; None of one that is torn, or overwritten by a machine that failed."""
    with contextlib.suppress(ValueError, RecursionError):
        if line.endswith(b"\n") and isinstance(record := json.loads(line), dict):
            return record
    return None


def _drop_torn_lines(path: str) -> None:
    with open(path, "r+b") as file:
        end = size = file.seek(0, os.SEEK_END)
        while end:
            start = end - 1  # a line ends with its last byte
            while start:
                begin = max(start - 4096, 0)
                file.seek(begin)
                found = file.read(start - begin).rfind(b"\n")
                start = begin + found + 1
                if found >= 0:
                    break
            file.seek(start)
            if _record(file.read(end - start)) is not None:
                break
            end = start
        if end < size:
            file.truncate(end)


def check_journal(path: str) -> None:
    """Refuse a file that is no journal, or that is damaged before its end, in one sentence; nothing is written."""
    from optuna.storages.journal._storage import JournalOperation

    if not os.path.isfile(path):
        raise UserError(f"{path} is no file: name a journal of trials, or a new file")
    with open(path, "rb") as file:
        if file.read(len(_BEGIN)) not in (_BEGIN, b""):
            raise UserError(f"{path} is no journal of trials, and is left as it is: name one, or a new file")
        file.seek(0)
        damaged, line, known = 0, b"\n", set(JournalOperation)
        for number, line in enumerate(file, start=1):
            record = _record(line)
            damaged = damaged or number * (record is None or record.get("op_code") not in known)
            if damaged and (record is not None or (number == 1 and line.endswith(b"\n"))):
                kept = f", or a copy of the {damaged - 1} lines before it with their trials" * (damaged > 1)
                raise UserError(f"line {damaged} of {path} is damaged or of another program: name a new file{kept}")
    if damaged and (b"\0" in line or line.endswith(b"\n")):  # not what a kill leaves
        print(f"line {damaged} of {path} is damaged: the trials before it are kept", file=sys.stderr)


if TYPE_CHECKING:
    import optuna

CHOICES, ABOUT = "choices", "about"  # user attributes of a study
MOST_LABELS = 32  # a choice with more options is kept as the index of the option: labels are stored with every trial


def open_study(
    storage: str | os.PathLike[str] | None = None,
    *,
    name: str = "search",
    objectives: Mapping[str, Literal["maximize", "minimize"]] | None = None,
    choices: Sequence[tuple[str, Sequence[Hashable]]] = (),
    about: Mapping[str, Any] | None = None,
) -> "optuna.Study":
    """Open a study for `search`, or make it if there is none of this name; many processes may do so at once.

    What comes back is a study of Optuna's: its Pareto front, its importance plots and optuna-dashboard work on it.

    >>> from jnas import spaces
    >>> study = open_study(choices=spaces.nasbench201().choices)
    >>> study.user_attrs["choices"][0]
    ['cell/0->1', ['none', 'skip_connect', 'nor_conv_1x1', 'nor_conv_3x3', 'avg_pool_3x3']]

    Args:
      storage: the path of a journal file, which several processes of one machine or of one network file system may
        share, made if absent; a URL of a database, `sqlite:///FILE`, `postgresql+psycopg://USER@HOST/NAME`,
        `mysql+pymysql://...`, or of a server, `redis://HOST`; None: in memory, for one process.
      name: of the study in its storage.
      objectives: their names and directions, in the order of the scores; None: one "score" to maximise.
      choices: of the space, `space.choices`: trials then show what was chosen by name.
      about: what must agree between all who share the study, values of JSON: settings, say.

    Returns:
      The study.

    Raises:
      UserError: if the storage cannot be reached, or holds another search of this name.
    """
    objectives = objectives or {"score": "maximize"}
    labels = [[choice, [_label(option) for option in options]] for choice, options in choices]
    attrs = {CHOICES: labels, ABOUT: json.loads(json.dumps(dict(about or {})))}
    url = "memory" if storage is None else os.fspath(storage)
    shown = masked(url)
    with _explained(shown, url):
        import optuna

        opened = _storage(storage)
        try:
            study = optuna.create_study(
                storage=opened, study_name=name, directions=list(objectives.values()), load_if_exists=True,
                sampler=optuna.samplers.RandomSampler(),  # never asked: the architectures come from a searcher
            )  # fmt: skip
            difference = _difference(study, list(objectives.values()), attrs)
            if difference:
                raise UserError(
                    f"study {name!r} in {shown} is of another search, {difference}: choose another name or storage"
                )
            for key in attrs.keys() - study.user_attrs.keys():
                study.set_user_attr(key, attrs[key])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names(list(objectives))
        except BaseException:
            _close(opened)
            raise
    return study


def close_study(study: "optuna.Study") -> None:
    """Close the connections to a database; a study of another storage is left as it is."""
    _close(study._storage)


@contextlib.contextmanager
def reached() -> Iterator[None]:
    """Inside the block a storage that can no longer be reached or written, as on a full disk, is one sentence."""
    import optuna

    try:
        yield
    except BrokenPipeError:  # of a reader of our lines
        raise
    except (OSError, optuna.exceptions.StorageInternalError) as error:
        said = getattr(error, "strerror", None) or masked(str(error.__cause__ or error)).partition("\n")[0]
        raise UserError(
            f"cannot keep the trials: {said}; see to their disk or server, and the same command goes on"
        ) from error


def _close(storage: "optuna.storages.BaseStorage") -> None:
    storage.remove_session()
    pool = getattr(getattr(storage, "_backend", storage), "engine", None)
    if pool is not None:
        pool.dispose()


def _label(option: Hashable) -> str:
    """An option in a word or two, without commas and quotes."""
    if isinstance(option, tuple):
        return " ".join(_label(part) for part in option)
    return str(option)


def _difference(study: "optuna.Study", directions: list[str], attrs: dict[str, Any]) -> str:
    """How a study that was found is not the one that is wanted, in words; empty if it is."""
    if [direction.name.lower() for direction in study.directions] != directions:
        return "its objectives differ"
    for name, new in attrs.items():
        old = study.user_attrs.get(name, new)
        if old != new and isinstance(old, dict):
            key = next(key for key in [*new, *old] if old.get(key) != new.get(key))
            return f"{key} is {old.get(key)!r} and not {new.get(key)!r}"
        if old != new:
            return f"its {name} differ"
    return ""


def _storage(storage: str | os.PathLike[str] | None) -> "optuna.storages.BaseStorage":
    import optuna
    import sqlalchemy
    from optuna.storages import journal

    if storage is None:
        return optuna.storages.InMemoryStorage()
    url = os.fspath(storage)
    if "://" not in url:
        with explain("write", url):
            lock: Any = JournalLock(url)
            if os.path.lexists(url):
                check_journal(url)
                lock.acquire()  # which takes off what is torn
                lock.release()
            return optuna.storages.JournalStorage(journal.JournalFileBackend(url, lock_obj=lock))
    if url.startswith(("redis://", "rediss://")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.storages.JournalStorage(journal.JournalRedisBackend(url))
    # A connection that lay idle during a long trial is tried first.
    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("sqlite"):
        options = {"connect_args": {"timeout": 60}}  # it gives up after 5 s behind another writer
        if sqlalchemy.make_url(url).database and not re.search("[:=]memory", url):
            # A file is quickly opened: none stays open, whether or not somebody closes the study. Python 3.13 warns.
            # In memory all would be lost with the connection.
            options["poolclass"] = sqlalchemy.pool.NullPool
    for attempt in range(5):
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=options)
        except (optuna.exceptions.StorageInternalError, RuntimeError):
            raise
        except Exception as error:  # two processes that make the tables at once: one is told that they are there
            if attempt == 4 or not re.search("exist|duplicate", str(error), re.IGNORECASE):
                raise
            time.sleep(0.2 * 2**attempt)
    raise AssertionError


@contextlib.contextmanager
def _explained(shown: str, url: str) -> Iterator[None]:
    """What a storage refuses, in one sentence and without its password; and what Optuna has to say, left unsaid."""
    import optuna

    logger, level = logging.getLogger("optuna"), optuna.logging.get_verbosity()
    logger.setLevel(logging.ERROR)
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        missing = getattr(error, "name", None) or "its driver"
        hint = " (pip install 'jnas[postgres]')" if "psycopg" in str(missing) else ""
        raise UserError(f"{shown} needs {missing}, which is not installed: install it{hint}") from error
    except Exception as error:  # of Optuna, of a database, of a server, or of a journal that does not fit together
        said = masked(str(error.__cause__ or error), url).strip().splitlines()
        reason = said[0] if said and not isinstance(error, LookupError) else repr(error)
        remedy = "check the address and its server" if "://" in url else "name another journal, or a new file"
        raise UserError(f"{shown} cannot hold a study ({reason}): {remedy}") from error
    finally:
        logger.setLevel(level)
