"""The command line: `jnas search | train | evaluate | report | bench | spaces`."""

import argparse
import codecs
import contextlib
import decimal
import errno
import io
import os
import pathlib
import signal
import sys
import threading
import traceback
import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from jnas.cli import explain, export, hosts, predict, select, tasks, words, zoo
from jnas.errors import Diverged, Interrupted, UserError
from jnas.files.text import check_text, shortened
from jnas.files.urls import masked, printable

if TYPE_CHECKING:  # what imports JAX is imported where something runs
    from jnas.recipes import commands

EPILOG = (
    "Exit status: 2 after bad input, 1 if a run diverged, 143 or 130 after SIGTERM or Ctrl-C, with the state saved, "
    "75 if another process of the run has died."
)


DEVICES = ("JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES")  # variables that say on what JAX computes


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {printable(masked(message))}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and (any(word.startswith("-") for word in rest) or not hasattr(arguments, "words")):
        parser.parse_args(argv)  # says which it does not know
    if rest:
        arguments.words += rest  # settings may stand on both sides of an option
    try:
        for word in sys.argv[1:] if argv is None else argv:
            check_text(word, "a word of the command")
        with words.on_the_way(arguments):
            _import_jax()
            status = arguments.command(arguments) or 0
        print(end="", flush=True)  # here, where it can still be said that there is no place for it
        return status
    except UserError as error:
        return _say(error, 2)
    except Diverged as error:
        return _say(error, 1)
    except Interrupted as error:
        return _say(error, 130 if "SIGINT" in str(error) else 143)
    except KeyboardInterrupt:
        return _say("stopped", 130)
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:  # of a path that a user gave: too long, not allowed, a folder where a file should be
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO):
            return _say(UserError(f"cannot print: {error.strerror}; see to where the output goes"), 2)
        if error.filename is None or error.strerror is None:
            raise
        name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else str(error.filename)
        return _say(UserError(f"{shortened(name)!r}: {error.strerror.lower()}; give another path"), 2)
    except (RuntimeError, AssertionError) as error:
        from jnas.distributed.environment import has_devices

        if has_devices():
            raise
        asked = ", ".join(f"{name}={os.environ[name]}" for name in DEVICES if name in os.environ)
        return _say(f"JAX finds no device here with {asked or 'this environment'}: correct or unset it ({error})", 2)


def _import_jax() -> None:
    before = signal.getsignal(signal.SIGINT)
    # Until there is something to save, Ctrl-C ends the program without a word from the middle of an import.
    ours = before is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        import jax as jax  # which reads its variables of the environment
    except ValueError as error:
        raise UserError(f"{error}: correct that variable of the environment") from error
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)


def entry() -> NoReturn:
    """The program: runs a command and ends the process."""
    for stream in (sys.stdout, sys.stderr):
        # Under LC_ALL=C names of classes could not be printed; what reads our JSON expects UTF-8 anyway.
        if isinstance(stream, io.TextIOWrapper) and codecs.lookup(stream.encoding).name == "ascii":
            stream.reconfigure(encoding="utf-8")
    # What fails in the threads of other libraries is raised in ours as well, and answered there in one sentence.
    sys.excepthook = lambda kind, error, trace: sys.__excepthook__(kind, error, trace) if _is_ours(trace) else None
    threading.excepthook = lambda given: threading.__excepthook__(given) if _is_ours(given.exc_traceback) else None
    sys.unraisablehook = _unraisable
    status = main()
    if status:
        # After a failed write the threads of the storage library would go on to complain below our one sentence, and
        # with a dead peer they would wait for it.
        for stream in filter(None, (sys.stdout, sys.stderr)):  # either may be closed, or full
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(status)
    sys.exit(status)


def _unraisable(given: Any) -> None:
    if given.exc_type is KeyboardInterrupt:  # in a callback of the garbage collector, where it would be lost
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()


def _is_ours(trace: types.TracebackType | None) -> bool:
    package = str(pathlib.Path(__file__).parents[1])
    return any(frame.f_code.co_filename.startswith(package) for frame, _ in traceback.walk_tb(trace))


def _parser() -> argparse.ArgumentParser:
    from jnas import __version__

    parser = _Parser(prog="jnas", description="Neural architecture search by gradient in JAX.", epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"jnas {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    _add_search(commands)
    _add_train(commands)

    evaluate = commands.add_parser("evaluate", help="measure a trained network on a data set")
    evaluate.add_argument("run", metavar="RUN", help="folder of a run, or of one network in it (RUN/train/NAME)")
    evaluate.add_argument("--data", help="default: the data of the run")
    tasks.add_space(evaluate)
    evaluate.add_argument("--split", choices=("test", "train"), default="test")
    words.add_quiet(evaluate)
    evaluate.set_defaults(command=_evaluate)

    report = commands.add_parser("report", help="write the page of a run or of a benchmark, or compare several")
    report.add_argument("runs", nargs="+", metavar="RUN | FILE.jsonl", help="folders of runs, or files of jnas bench")
    report.add_argument("--format", choices=("text", "markdown", "html"), default="text", help="of the table")
    tasks.add_space(report)
    report.set_defaults(command=_report)

    _add_bench(commands)
    for module in (predict, export, zoo, select):  # commands in files of their own
        module.add(commands)

    listing = commands.add_parser("spaces", help="list the search spaces, or show one")
    listing.add_argument("name", nargs="?", metavar="SPACE")
    listing.set_defaults(command=_spaces)
    return parser


def _add_search(commands) -> None:
    search = commands.add_parser(
        "search", help="search for an architecture, train it, and write a report page", epilog=EPILOG, add_help=False
    )
    add = search.add_argument
    add("-h", "--help", action=explain.Explain, of=_settings_of_search)
    add("words", nargs="*", metavar="PRESET | FILE.yaml | key=value", help="settings, the later over the earlier")
    add("--out", metavar="DIR", help="folder of the run (runs/search-SPACE-SEED or so); an unfinished one goes on")
    add("--show", action="store_true", help="print the settings as YAML and stop")
    add(
        "--storage", metavar="URL",
        help="of a search by trials: where workers share them, such as postgresql+psycopg://USER@HOST/NAME",
    )  # fmt: skip
    add("--worker", action="store_true", help="of trials or joint: do not train what was found")
    hosts.add_arguments(search)
    _add_profile(search)
    words.add_quiet(search)
    search.set_defaults(command=_search)


def _add_train(commands) -> None:
    train = commands.add_parser("train", help="train a found or named architecture", epilog=EPILOG, add_help=False)
    add = train.add_argument
    add("-h", "--help", action=explain.Explain, of=_settings_of_training)
    add("what", metavar="RUN | GENOTYPE", help="the folder of a finished search, DARTS_V2, or a genotype in quotes")
    add("words", nargs="*", metavar="FILE.yaml | key=value", help="settings, the later over the earlier")
    add("--out", metavar="DIR", help="folder of the run (runs/train-SPACE-SEED or so)")
    add("--show", action="store_true", help="print the settings as YAML and stop")
    tasks.add_arguments(train)
    hosts.add_arguments(train)
    _add_profile(train)
    words.add_quiet(train)
    train.set_defaults(command=_train)


def _add_bench(commands) -> None:
    bench = commands.add_parser(
        "bench", help="measure time, memory and arithmetic of a search's compiled steps",
        epilog="One JSON line a case. Exit status: 2 after bad input, 1 if a case failed.",
    )  # fmt: skip
    add = bench.add_argument
    add("words", nargs="*", metavar="PRESET | FILE.yaml | key=value", help="settings of a search; also data=synthetic")
    add("--what", default="step", metavar="gradient,hvp,step", help="programs to measure (step)")
    add("--sweep", nargs="+", default=[], metavar="key=v,v", help="every combination; also devices=1,2 and preset=a,b")
    add("--repeats", type=int, default=7, help="timed calls of a program (7)")
    add("--timeout", type=float, metavar="S", help="seconds after which a case has failed")
    add("--out", metavar="FILE.jsonl", help="append the lines here; what it holds is not run again")
    add("--profile", action="store_true", help="trace three calls of each program, beside --out")
    add(
        "--topology",
        nargs="+",
        metavar="CHIP:SIDES",
        help="compile a step for these slices, such as v5e:4x4 or h100:8, run nothing, and predict its time",
    )
    add("--effort", default="O1", help="of the compiler, with --topology: O0, O1 or O2 (O1)")
    words.add_quiet(bench)
    bench.set_defaults(command=_bench)


def _settings_of_search(arguments: argparse.Namespace) -> Any:
    from jnas.recipes import commands

    return commands.asked_search(*arguments.words).settings


def _settings_of_training(arguments: argparse.Namespace) -> Any:
    from jnas.recipes import commands

    return commands.asked_training(arguments.what or "DARTS_V2", *arguments.words, task=arguments.task).settings


def _search(arguments: argparse.Namespace) -> int:
    from jnas.recipes import commands

    options = {"storage": arguments.storage, "worker": arguments.worker}
    return _run(arguments, lambda: commands.asked_search(*arguments.words, **options))


def _train(arguments: argparse.Namespace) -> int:
    from jnas.recipes import commands

    data = {} if arguments.data is None else {"data": arguments.data}
    if arguments.profile and arguments.task != tasks.TASKS[0]:
        raise UserError("--profile traces classification and search: leave it out here")
    return _run(arguments, lambda: commands.asked_training(arguments.what, *arguments.words, data, task=arguments.task))


def _run(arguments: argparse.Namespace, ask: "Callable[[], commands.Asked]") -> int:
    """Run what is asked for in the folder of the user or in one named by it, or only show its settings."""
    from jnas.recipes import describe

    if arguments.show:
        print(describe.as_yaml(ask().settings), end="")
        return 0
    with hosts.joined_mesh(arguments) as mesh:
        asked = ask()  # here, for a file of the user's may compute, which JAX allows when its processes have met
        folder = asked.folder(arguments.out)
        with _profiling(arguments, folder):
            result = asked.run(folder, mesh).result
    words.summary(result, folder)
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from jnas.recipes import commands, models

    measured = commands.evaluate(arguments.run, data=arguments.data, split=arguments.split, space=arguments.space)
    print(models.as_json(measured))
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from jnas import report
    from jnas.recipes import commands

    render = {"text": report.as_text, "markdown": report.as_markdown, "html": report.as_html}[arguments.format]
    benchmarks = [name for name in arguments.runs if name.endswith(".jsonl")]
    if benchmarks:
        if len(benchmarks) < len(arguments.runs):
            raise UserError("runs and files of jnas bench do not go into one table: name one kind of them")
        page = report.write_benchmarks(benchmarks)
        print(render(report.benchmark_table(benchmarks)))
        print(printable(f"page: {page}"))
        return 0
    if len(arguments.runs) > 1:
        print(render(report.compare(arguments.runs)))
        return 0
    page = report.write_report(arguments.runs[0], space=commands.space_of(arguments.space))
    print(render(report.trained_table(report.read_run(arguments.runs[0]))))
    print(printable(f"page: {page}"))
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    from jnas.bench import command
    from jnas.recipes import commands

    if arguments.topology:
        return _predict(arguments)
    cases = command.plan(commands.settings_of(*arguments.words), arguments.sweep, arguments.what.split(","))
    failed = command.run(
        cases, arguments.out, repeats=arguments.repeats, timeout=arguments.timeout, profile=arguments.profile
    )
    return 1 if failed else 0


def _predict(arguments: argparse.Namespace) -> int:
    from jnas.bench import command, topology
    from jnas.recipes import commands

    if arguments.profile:
        raise UserError("--profile traces what runs, and --topology runs nothing: leave one of them out")
    slices = [topology.parse(name) for name in arguments.topology]
    said = any(word.startswith("dtype=") for word in (*arguments.words, *arguments.sweep))
    sweep = [*arguments.sweep, *([] if said else ["dtype=float32,bfloat16"])]
    cases = command.plan(commands.settings_of(*arguments.words), sweep, arguments.what.split(","))
    failed = topology.run(cases, slices, arguments.out, effort=arguments.effort, timeout=arguments.timeout)
    return 1 if failed else 0


def _spaces(arguments: argparse.Namespace) -> int:
    from jnas import spaces
    from jnas.files import own
    from jnas.recipes import commands
    from jnas.spaces.chain import ChainSpace

    names = [arguments.name] if arguments.name else ["darts", "nasbench201", "s1", "s2", "s3", "s4"]
    for name in names:
        space: Any = commands.space_of(name)
        size = spaces.size(space)
        shown = f"{size:,}" if size < 10**7 else f"{decimal.Decimal(size):.2e}"  # a float ends at 10^308
        if isinstance(space, ChainSpace):
            print(f"{space.name}: {shown} chains of {len(space.layers)} layers")
            for number, words in enumerate(space.layers):
                print(f"  layer {number}: {', '.join(words)}")
            continue
        kept = "all in-edges" if space.kept is None else f"{space.kept} in-edges a node"
        cells = ", ".join(space.cells)
        print(f"{own.shown(space.name)}: {shown} architectures, cells {cells}, {space.num_nodes} nodes, keeps {kept}")
        if arguments.name:
            print(f"  operators: {', '.join(space.ops)}")
            for cell in space.cells:
                for edge in space.edges(cell):
                    print(f"  {cell} {edge.source} -> {edge.target}: {', '.join(edge.ops)}")
    return 0


def _add_profile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profile", nargs="?", const=(4, 6), type=_steps, metavar="FIRST:LAST",
        help="trace these steps (4:6) with the profiler, into RUN/profile",
    )  # fmt: skip


def _steps(text: str) -> tuple[int, int]:
    first, _, last = text.partition(":")
    if not (first.isdigit() and last.isdigit() and 2 <= int(first) <= int(last)):
        raise argparse.ArgumentTypeError(f"{text!r} is not FIRST:LAST with 2 <= FIRST <= LAST, such as 4:6")
    return int(first), int(last)


def _profiling(arguments: argparse.Namespace, folder: pathlib.Path):
    from jnas.train.profile import profiling

    if arguments.profile is None:
        return profiling(None)
    return profiling(folder / "profile", *arguments.profile)


def _say(message: object, status: int) -> int:
    text = masked(str(message))
    if len(text) > 1000:  # of what a user gave
        text = f"{text[:400]} ... {text[-400:]}"
    if sys.stderr is not None:
        with contextlib.suppress(OSError):  # the status says it where nothing else can
            print(f"jnas: {printable(text)}", file=sys.stderr)
    return status


if __name__ == "__main__":
    entry()
