"""Races jnas against the same work in PyTorch, run by run in turn on the same cores or the same GPU.

Command:  python experiments/peers/race.py --torch-python PEERS/bin/python --out races.jsonl
          python experiments/peers/race.py --table races.jsonl
          With --device cuda (PyTorch alone, one interpreter that holds both for a GPU): on the GPU, in float32 or TF32.
Needs:    an interpreter with third_party/peers/requirements.txt installed; the one that runs this has jnas.
Time:     the small cases a minute, most of it compilation; darts-c16-l8-b64 hours with all of the work.

Each side is a process of its own, pinned to the same cores; while one runs the others wait for their input. jnas draws
the weights, the batches and the direction of the products; before a race the results of all sides are compared, and
a case that differs is not raced. Every line of the output is one (case, work, peer, layout, threads).
"""

import argparse
import contextlib
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from cases import CASES, ETA, WHAT, tolerance

HERE = pathlib.Path(__file__).parent
PAUSE = 0.1  # s between two runs, in which the threads of the other side go to sleep


class Failed(Exception):
    """A side that gave up, or two sides that do not agree."""


class Side:
    """A raced process."""

    def __init__(self, label, python, script, cores, threads, huge_pages, device):
        pages = f"glibc.malloc.hugetlb={huge_pages}"
        threads = str(threads)
        environment = os.environ | {"GLIBC_TUNABLES": pages, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        environment |= {"JAX_PLATFORMS": device, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # the GPU is for both
        self.label = label
        self.process = subprocess.Popen(
            [python, HERE / script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )

    def ask(self, do, **request):
        try:
            self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise Failed(f"{self.label} ended with status {self.process.wait()} when asked to {do}")
        return json.loads(answer)

    def close(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def race(case, what, threads, options, folder, fail):
    """Yields a record for each peer and layout; `fail` is told what went wrong with one."""
    cores = set(options.cores[:threads])
    task = {"case": case, "what": what, "threads": threads, "eta": options.eta, "unroll": options.unroll}
    task |= {"device": options.device, "precision": options.precision, "edges": options.edges}
    task["start"] = str(folder / "start.npz")
    with contextlib.ExitStack() as stack:

        def enter(label, python, script, **more):
            side = Side(label, python, script, cores, threads, options.huge_pages, options.device)
            stack.callback(side.close)
            about = side.ask("prepare", **task, **more)
            out = str(folder / f"{label}.npz".replace(" ", "-"))
            about |= side.ask("check", out=out) | side.ask("warm")
            return side, about, dict(np.load(out))

        jnas, jnas_about, mine = enter("jnas", sys.executable, "jnas_side.py")
        rivals = []
        for peer in options.peers if what.startswith("neumann") else ["torch"]:
            for layout in options.layouts:
                try:
                    rival, about, theirs = enter(
                        f"{peer} {layout}", options.torch_python, "torch_side.py", peer=peer, layout=layout
                    )
                    errors = compare(what, mine, theirs)
                except Failed as error:
                    fail(f"{case} {what}: {error}")
                    continue
                rivals.append((peer, layout, rival, about, errors))
        runs = {side: [] for side in [jnas, *(rival for _, _, rival, _, _ in rivals)]}
        for _ in range(options.repeats if rivals else 0):
            for side, done in runs.items():
                time.sleep(PAUSE)
                done.append(side.ask("run"))
        for side, about in [(jnas, jnas_about), *((rival, about) for _, _, rival, about, _ in rivals)]:
            about |= side.ask("memory")
        for peer, layout, rival, about, errors in rivals:
            yield {
                "case": case, "what": what, "peer": peer, "layout": layout, "threads": threads,
                "cores": sorted(cores), "huge_pages": options.huge_pages, "eta": options.eta,
                "device": options.device, "precision": options.precision,
                "edges": options.edges, "unroll": options.unroll, "repeats": options.repeats, "errors": errors,
                "jnas": {**jnas_about, **summary(runs[jnas])}, "theirs": {**about, **summary(runs[rival])},
                **{f"{unit}_ratio": ratio(runs[jnas], runs[rival], unit) for unit in ("wall_s", "cpu_s")},
                "machine": machine(), "time": time.time(),
            }  # fmt: skip


def compare(what, mine, theirs):
    """Relative differences of the groups of results; `Failed` for one above the tolerance."""
    theirs, direct = dict(theirs), {name: v for name, v in theirs.items() if name.startswith("direct/")}
    for name in direct:
        del theirs[name]
    if mine.keys() != theirs.keys():
        raise Failed(f"the sides differ in their names: {sorted(mine.keys() ^ theirs.keys())[:4]}")
    errors = {}
    for group in sorted({name.split("/")[0] for name in theirs}):
        names = [name for name in theirs if name.split("/")[0] == group]
        ours, reference = (np.concatenate([np.ravel(d[name]) for name in names]).astype(float) for d in (mine, theirs))
        scale = reference
        if direct:
            scale = reference - np.concatenate([np.ravel(direct[n.replace("alpha/", "direct/")]) for n in names])
            errors["second_order_share"] = float(np.linalg.norm(scale) / np.linalg.norm(reference))
        errors[group] = float(np.linalg.norm(ours - reference) / np.linalg.norm(scale))
    worst = max(value for name, value in errors.items() if name != "second_order_share")
    if not worst <= tolerance(what):
        raise Failed(f"the sides differ by {errors}, more than {tolerance(what)}")
    return errors


def summary(runs):
    result = {"runs": runs}
    for unit in ("wall_s", "cpu_s"):
        values = [run[unit] for run in runs]
        result[unit] = {"median": statistics.median(values), "quartiles": quartiles(values)}
    return result


def ratio(ours, theirs, unit):
    """How jnas stands to the peer: the ratio of medians, and the spread of the ratios of neighbouring runs."""
    pairs = [a[unit] / b[unit] for a, b in zip(ours, theirs, strict=True)]
    medians = [statistics.median(run[unit] for run in runs) for runs in (ours, theirs)]
    return {"of_medians": medians[0] / medians[1], "paired_quartiles": quartiles(pairs), "paired": pairs}


def quartiles(values):
    return [float(q) for q in np.quantile(values, (0.25, 0.75))]


def machine():
    model = platform.processor()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), model)
    return {"cpu": model, "system": platform.platform(), "python": platform.python_version()}


def table(paths):
    """Markdown: the last record of each race."""
    last = {}
    for path in paths:
        for line in pathlib.Path(path).read_text().splitlines():
            record = json.loads(line)
            race_of = [record[k] for k in ("case", "what", "peer", "layout", "threads", "huge_pages")]
            last[(*race_of, record.get("precision"), record.get("edges"))] = record
    rows = [
        "| case | work | peer | threads | jnas [s] | peer [s] | jnas / peer (paired quartiles) | CPU time "
        "| jnas peak: runs, compiling [MB] | peer peak [MB] | difference |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for record in last.values():
        ours, theirs, wall = record["jnas"], record["theirs"], record["wall_s_ratio"]
        low, high = wall["paired_quartiles"]
        worst = max(value for name, value in record["errors"].items() if name != "second_order_share")
        rows.append(
            f"| {record['case']} | {WHAT[record['what']]} | {record['peer']}, {record['layout']} "
            f"| {record['threads']} | {seconds(ours)} | {seconds(theirs)} "
            f"| **{wall['of_medians']:.2f}** ({low:.2f}-{high:.2f}) | {record['cpu_s_ratio']['of_medians']:.2f} "
            f"| {ours['run_peak_bytes'] / 1e6:,.0f}, {ours['peak_bytes'] / 1e6:,.0f} "
            f"| {theirs['run_peak_bytes'] / 1e6:,.0f} | {worst:.0e} |"
        )
    return "\n".join(rows)


def seconds(side):
    low, high = side["wall_s"]["quartiles"]
    return f"{side['wall_s']['median']:.3g} ({low:.3g}-{high:.3g})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", nargs="+", metavar="JSONL", help="print the table of finished races, and no more")
    parser.add_argument("--torch-python", help="interpreter of the peers")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--what", type=lambda text: text.split(","), default=list(WHAT), help=",".join(WHAT))
    parser.add_argument("--layouts", type=lambda text: text.split(","), default=["channels_last", "contiguous"])
    parser.add_argument("--peers", type=lambda text: text.split(","), default=["torch", "betty", "torchopt"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument(
        "--cores", type=lambda text: [int(core) for core in text.split(",")], help="default: all allowed"
    )
    parser.add_argument("--huge-pages", type=int, choices=[0, 1], default=0, help="for both sides")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["float32", "tf32"], default="float32", help="of products on a GPU")
    parser.add_argument("--edges", choices=["scan", "merge"], help="default: scan on a CPU, merge on a GPU")
    parser.add_argument("--eta", type=float, default=ETA, help="step size of the Neumann series")
    parser.add_argument("--unroll", action="store_true", help="write jnas' loops over terms and points out")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", default="races.jsonl", help="records are appended to it")
    options = parser.parse_args()
    if options.table:
        print(table(options.table))
        return
    options.cores = options.cores or sorted(os.sched_getaffinity(0))
    if unknown := set(options.what) - set(WHAT):
        parser.error(f"--what {','.join(unknown)}: give some of {','.join(WHAT)}")
    if options.torch_python is None:
        parser.error("--torch-python is missing: give the interpreter of third_party/peers/requirements.txt")
    options.edges = options.edges or {"cpu": "scan", "cuda": "merge"}[options.device]
    if options.device == "cuda":
        options.peers = ["torch"]
    if max(options.threads) > len(options.cores):
        parser.error(f"--threads {max(options.threads)}: there are {len(options.cores)} cores; name more with --cores")
    failures = []

    def fail(message):
        print(f"not raced: {message}", file=sys.stderr, flush=True)
        failures.append(message)

    for case in options.cases:
        for what in options.what:
            for threads in options.threads:
                try:
                    with tempfile.TemporaryDirectory() as folder, open(options.out, "a") as out:
                        for record in race(case, what, threads, options, pathlib.Path(folder), fail):
                            out.write(json.dumps(record) + "\n")
                            print(table_line(record), flush=True)
                except Failed as error:
                    fail(f"{case} {what}: {error}")
    if failures:
        sys.exit("\n".join(["These were not raced:", *failures]))


def table_line(record):
    wall = record["wall_s_ratio"]
    return (
        f"{record['case']} {record['what']} {record['peer']} {record['layout']} {record['threads']} threads: "
        f"jnas {record['jnas']['wall_s']['median']:.4g} s, peer {record['theirs']['wall_s']['median']:.4g} s, "
        f"ratio {wall['of_medians']:.3f}; differences {record['errors']}"
    )


if __name__ == "__main__":
    main()
