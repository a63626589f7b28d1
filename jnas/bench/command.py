"""`jnas bench`: time, memory and arithmetic of the compiled steps of a search, one JSON line a case.

Every case runs in processes of its own, so that a cold compilation is cold and a peak of memory is the case's own. A
first process compiles with an empty cache; a second one finds the program in that cache and runs it. The ceilings of
the machine are measured in the same way before the first case of each number of devices and dtype.
"""

import contextlib
import dataclasses
import datetime
import itertools
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jnas import files, spaces
from jnas.bench.roofline import Ceilings, Work
from jnas.errors import Interrupted, UserError
from jnas.files import reading, schemas
from jnas.files.own import Own
from jnas.files.text import shortened
from jnas.recipes import config, run_folder
from jnas.recipes.gradient.settings import Search

WHAT = ("gradient", "hvp", "step")
Record = dict[str, Any]


class Case(NamedTuple):
    """One combination to measure."""

    what: str  # "gradient", "hvp" or "step"
    devices: int
    settings: Search

    @property
    def dtype(self) -> str:
        """Of the arithmetic."""
        return getattr(self.settings, "dtype", "float32")

    def shown(self) -> Record:
        """The settings that stand in a line by themselves."""
        names = ("estimator", "terms", "space", "channels", "depth", "batch_size", "scheme", "momentum", "data")
        return {name: getattr(self.settings, name) for name in names}

    def key(self) -> str:
        """What makes it the same case in a file: everything that was asked."""
        return key_of(self.what, self.devices, dataclasses.asdict(self.settings))


def plan(layers: Sequence[Mapping[str, Any]], sweep: Sequence[str], what: Sequence[str]) -> list[Case]:
    """The cases: every combination of the values in `sweep` with each thing to measure.

    Args:
      layers: settings of a search, the later over the earlier.
      sweep: words such as `"estimator=first_order,neumann"`: any setting of a search, `devices`, or `preset`, which
        goes below `layers`.
      what: of `WHAT`.

    Returns:
      The cases, the last word of `sweep` varying fastest, each built and checked.

    Raises:
      UserError: for an unknown word, or settings that do not fit each other.
    """
    for name in what:
        if name not in WHAT:
            raise UserError(f"--what {name} is unknown: give some of {','.join(WHAT)}")
    axes = [_axis(word) for word in sweep]
    cases, loaded = [], {}
    for combination in itertools.product(*axes):
        presets = [config.read_preset(text) for name, text in combination if name == "preset"]
        words = [f"{name}={text}" for name, text in combination if name not in ("preset", "devices")]
        settings = config.build(Search, *presets, *layers, config.read_words(words))
        if isinstance(settings.space, Own) or isinstance(settings.data, Own):
            raise UserError(
                "jnas bench measures in processes that read no file of yours: name a space and data it knows"
            )
        spaces.by_name(settings.space)
        if synthetic(settings.data) is None:
            loaded.setdefault(
                (settings.data, settings.image_size), run_folder.load_data(settings.data, settings.image_size)
            )
        devices = _devices(next((text for name, text in combination if name == "devices"), "1"), settings.batch_size)
        cases += [Case(name, devices, settings) for name in dict.fromkeys(what)]
    return list({case.key(): case for case in cases}.values())


def synthetic(name: str) -> tuple[int, int, int, int] | None:
    """Height, width, channels and number of classes of random images, or None for the name of any other data.

    Raises:
      UserError: if the name begins like that of random images and does not go on so.

    >>> synthetic("synthetic"), synthetic("synthetic:8x8x1:4"), synthetic("fashion-mnist-slice")
    ((32, 32, 3, 10), (8, 8, 1, 4), None)
    """
    if not name.startswith("synthetic"):
        return None
    found = re.fullmatch("synthetic(?::(#)x(#)x(#)(?::(#))?)?".replace("#", "[1-9][0-9]{0,3}"), name)
    if not found:
        raise UserError(
            f"data is {name!r}: give synthetic, or synthetic:HEIGHTxWIDTHxCHANNELS:CLASSES, each at most 9999"
        )
    height, width, channels, classes = (
        int(text or usual) for text, usual in zip(found.groups(), (32, 32, 3, 10), strict=True)
    )
    return height, width, channels, classes


def run(
    cases: Sequence[Case],
    out: str | os.PathLike[str] | None,
    *,
    repeats: int = 7,
    timeout: float | None = None,
    profile: bool = False,
) -> int:
    """Measure cases one after another; each line goes to the standard output and, if there is one, to the file.

    A case whose measurement stands in the file is not measured again; one that failed is. Progress goes to the
    standard error.

    Args:
      cases: from `plan`.
      out: a file to which whole lines are appended, for one machine; None keeps none.
      repeats: timed calls of each program.
      timeout: seconds after which a process is stopped and its case has failed.
      profile: whether to trace three calls of each program, after those that are timed, into a folder beside the file.

    Returns:
      How many cases failed.

    Raises:
      UserError: if the file cannot be read or written, or a number is out of range.
      Interrupted: after SIGTERM; the process that runs is stopped first.
    """
    if not 1 <= repeats <= 10**6 or (timeout is not None and not 0 < timeout < 1e9):
        raise UserError(f"--repeats {repeats} --timeout {timeout}: give from 1 to 10^6 repeats, and a positive time")
    if profile and out is None:
        raise UserError("--profile needs --out FILE.jsonl: the traces are written beside that file")
    known = begun(out)
    done = {
        key_of(line["what"], line["devices"], line.get("settings") or {})
        for line in known
        if line["kind"] == "case" and "error" not in line
    }
    ceilings = {(line["devices"], line["dtype"]): line for line in known if line["kind"] == "ceilings"}
    todo = [case for case in cases if case.key() not in done]
    failed = 0
    with terminable():
        for number, case in enumerate(todo, start=1):
            machine = (case.devices, case.dtype)
            if "error" in ceilings.get(machine, {"error": ""}):
                tell(f"ceilings of {case.devices} device(s), {case.dtype}")
                ceilings[machine] = {
                    "kind": "ceilings", "devices": case.devices, "dtype": case.dtype,
                    **measure({"role": "ceilings", "devices": case.devices, "dtype": case.dtype}, timeout, None),
                }  # fmt: skip
                emit(ceilings[machine], out)
            title = f"{number}/{len(todo)} {case.what} {case.settings.space} {case.settings.estimator}"
            tell(f"{title} on {case.devices} device(s), {case.dtype}")
            trace = None if out is None or not profile else _trace_folder(out, case)
            line = _case(case, ceilings[machine], repeats, timeout, trace)
            failed += "error" in line
            tell(
                line["error"] if "error" in line else f"{line['step_s']:.4g} s, compiled in {line['compile_cold_s']} s"
            )
            emit(line, out)
    skipped = len(cases) - len(todo)
    tell(f"{len(todo) - failed} measured, {failed} failed, {skipped} already in the file")
    if out is not None:
        tell(f"next, a page: {shlex.join(['jnas', 'report', os.fspath(out)])}")
    return failed


def begun(out: str | os.PathLike[str] | None) -> list[Record]:
    """The records of a file of `jnas bench`, to which lines can be appended from now on; raises a UserError if not."""
    if out is None:
        return []
    known = read_lines(out) if pathlib.Path(out).exists() else []
    files.prepare_folder(pathlib.Path(out).absolute().parent)
    append(out, b"")
    return known


def read_lines(path: str | os.PathLike[str]) -> list[Record]:
    """The records of a file of `jnas bench`; a line torn by a kill is left out.

    Raises:
      UserError: if the file cannot be read or holds anything else.
    """
    records, torn = reading.lines_of(pathlib.Path(path), Any)
    if any(not isinstance(r, dict) or r.get("kind") not in ("case", "ceilings", "prediction") for r in records) or (
        torn and not records
    ):
        raise UserError(f"{path} is no file of jnas bench: name one that it wrote, or a new one")
    return [reading.checked(record, schemas.of_line(record), path) for record in records]


def _case(case: Case, ceilings: Record, repeats: int, timeout: float | None, trace: str | None) -> Record:
    settings = dataclasses.asdict(case.settings)
    line: Record = {"kind": "case", "what": case.what, "devices": case.devices, "dtype": case.dtype, **case.shown()}
    request = {"what": case.what, "devices": case.devices, "settings": settings, "repeats": repeats, "profile": trace}
    with tempfile.TemporaryDirectory(prefix="jnas-bench-") as cache:
        cold = measure({**request, "role": "cold"}, timeout, cache)
        warm = cold if "error" in cold else measure({**request, "role": "warm"}, timeout, cache)
    if "error" in warm:
        line["error"] = warm["error"]
    else:
        line |= {"compile_cold_s": cold["compile_s"], "compile_peak_bytes": cold["peak_bytes"]}
        line |= {"compile_warm_s": warm.pop("compile_s"), **warm}
        work = Work(line["flops"], line["bytes"])
        line["flops_per_s"] = work.flops / line["step_s"]
        line["intensity"] = work.flops / work.bytes if work.bytes else None
        if "error" not in ceilings:
            least = Ceilings(ceilings["flops_per_s"], ceilings["bytes_per_s"]).least_seconds(work)
            line["roofline"] = least / line["step_s"]
    return {**line, "settings": settings}


def measure(
    request: Record,
    timeout: float | None,
    cache: str | None,
    *,
    worker: str = "jnas.bench.worker",
    variables: Mapping[str, str] | None = None,
) -> Record:
    """Ask a worker in a process of its own.

    Args:
      request: what it reads.
      timeout: seconds after which it is stopped.
      cache: a folder for compiled programs; None switches the cache off.
      worker: the module that answers.
      variables: of the environment, beside those of this process.

    Returns:
      Its answer, or `{"error": sentence}`.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if request.get("devices", 1) > 1:  # so many on a CPU; other platforms do not read it
        flags += f" --xla_force_host_platform_device_count={request['devices']}"
    environment = {**os.environ, "XLA_FLAGS": flags.strip(), "JNAS_CACHE_DIR": cache or "", **(variables or {})}
    with tempfile.TemporaryDirectory(prefix="jnas-bench-") as folder:
        asked, answered, said = (pathlib.Path(folder) / name for name in ("request", "answer", "stderr"))
        asked.write_text(json.dumps(request), encoding="utf-8")
        with said.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", worker, str(asked), str(answered)],
                stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, env=environment, start_new_session=True,
            )  # fmt: skip
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                return {"error": f"stopped after {timeout:g} s"}
            finally:
                process.kill()
                process.wait()
        if answered.is_file():
            return json.loads(answered.read_text(encoding="utf-8"))
        spoken = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = spoken[-1:] or ["it said nothing"]
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        fatal = [line for line in spoken if re.match(r"F\d{4} ", line)]  # the compiler's last words
        if fatal:
            return {"error": f"killed by {name}: {fatal[0].partition('] ')[2][:300]}"}
        return {"error": f"killed by {name}" + (", as for want of memory" if name == "SIGKILL" else "")}
    return {"error": f"ended with status {process.returncode}: {last[0][:300]}"}


def key_of(*parts: Any) -> str:
    """One text for equal values of JSON."""
    return json.dumps(parts, sort_keys=True)


def _axis(word: str) -> list[tuple[str, str]]:
    name, equals, values = word.partition("=")
    if not equals or not name or not all(values.split(",")):
        raise UserError(f"--sweep {word!r} is not of the form key=value,value: write it so")
    return [(name, value) for value in values.split(",")]


def _devices(text: str, batch_size: int) -> int:
    if not re.fullmatch("[1-9][0-9]{0,4}", text):
        raise UserError(f"devices is {shortened(text)!r}: give a number of at least 1 and at most 99,999")
    if batch_size % int(text):
        raise UserError(f"a batch of {batch_size} cannot be split over {text} devices: choose a multiple as batch_size")
    return int(text)


def _trace_folder(out: str | os.PathLike[str], case: Case) -> str:
    import hashlib

    name = f"{case.what}-{case.settings.space}-{case.settings.estimator}-"
    return str(pathlib.Path(out).with_suffix("") / (name + hashlib.sha256(case.key().encode()).hexdigest()[:8]))


def emit(line: Record, out: str | os.PathLike[str] | None) -> None:
    """Print a line, with the time, and append it to the file."""
    line = {**line, "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    text = json.dumps(line)
    print(text, flush=True)
    if out is not None:
        append(out, text.encode() + b"\n")


def append(path: str | os.PathLike[str], content: bytes) -> None:
    """Append to a file in one write, which no other writer and no reader sees half of."""
    with files.explain("write", path):
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            size = os.fstat(file).st_size
            torn = content and size and os.pread(file, 1, size - 1) != b"\n"
            os.write(file, b"\n" * bool(torn) + content)
            os.fsync(file)
        finally:
            os.close(file)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Inside the block SIGTERM unwinds, so that no process is left behind."""

    def stop(*_: Any):
        raise Interrupted("stopped by SIGTERM: the same command goes on with the next case")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def tell(text: str) -> None:
    """Report progress."""
    print(f"bench: {text}", file=sys.stderr, flush=True)
