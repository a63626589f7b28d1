"""The predicted speed of a search step on 1 to 1,024 chips, drawn from programs compiled for a slice.

Command:  bench="jnas bench darts-storm data=synthetic edges=scan --out predictions.jsonl"
          $bench dtype=float32 --topology v5e:2x4 v4:2x2x4
          $bench dtype=bfloat16 --topology v5e:2x4 v5e:16x16
          python experiments/scaling/scaling.py predictions.jsonl experiments/scaling/scaling.svg
Hardware: one core of a CPU and 16 GB, with libtpu (pip install 'jnas[tpu]'); no accelerator.
Time:     7 to 18 minutes a program, on a core that others used too.
Result:   the step is bound by memory (v5e, float32: half of the bytes are padding to tiles); some 13,400
          all-reduces a step cost latency: in float32 an efficiency of 95 % on 16 chips
          of v4 and 87 % on 1,024; on v5e 97 % on 8 chips and 90 % on 256, in bfloat16 85 % on 256.

Assumptions, beside those that `jnas report predictions.jsonl` states: the batch of a chip stays the same, so its
arithmetic, its memory and the number and bytes of its collectives are those of the slice that was compiled, whatever
the number of chips; what changes is how far and over how many links a collective goes. Nothing hides a collective. v5e
and v6e end at their pods of 256 chips: beyond, slices meet in the data-centre network, which is not modelled.
"""

import argparse
import pathlib
import sys

from jnas import files
from jnas.bench import command
from jnas.bench.chips import CHIPS, predict
from jnas.report.plots import STYLE, to_svg
from jnas.report.rooflines import COLOURS

# Slices that can be had, by their number of chips.
SQUARE = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
CUBE = ((1, 1, 1), (2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), (4, 4, 4), (4, 4, 8), (4, 8, 8), (8, 8, 8), (8, 8, 16))


def curve(line):
    """`[(chips, Prediction)]` of a compiled step on slices of its chip."""
    chip = CHIPS[line["topology"].partition(":")[0]]
    collectives = [(c["kind"], c["count"], c["bytes"]) for c in line["collectives"]]
    found = []
    for sides in SQUARE if chip.axes == 2 else CUBE:
        count = 1
        for side in sides:
            count *= side
        work = {"flops": line["flops"], "bytes": line["bytes"]}
        found.append((count, predict(chip, sides, line["dtype"], **work, collectives=collectives)))
    return found


def draw(curves, path):
    """Images a second of all chips over the number of chips; the thin line is one chip's speed times their number."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.subplots()
        for number, (label, images, points) in enumerate(curves):
            counts = [count for count, _ in points]
            speeds = [count * images / found.step_s for count, found in points]
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(counts, speeds, "o-", color=colour, markersize=3.5, label=label)
            axes.plot(counts, [speeds[0] * count for count in counts], "--", color=colour, linewidth=0.8)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set(
            title="Predicted speed of a search step", xlabel="chips (the batch of a chip stays the same)",
            ylabel="images a second, at most",
        )  # fmt: skip
        axes.legend(title="dashed: without collectives", loc="upper left")
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        files.atomic_write(path, to_svg(figure) + "\n")


def main(lines, picture):
    predictions = [line for line in command.read_lines(lines) if line["kind"] == "prediction" and "step_s" in line]
    if not predictions:
        sys.exit(f"{lines}: no prediction with a time; write one with jnas bench --topology v5e:2x4")
    curves, seen = [], set()
    for line in predictions:
        chip = line["topology"].partition(":")[0]
        label = f"{chip}, {line['dtype']}"
        if label in seen:  # another slice of the same chip holds the same work
            continue
        seen.add(label)
        points = curve(line)
        curves.append((label, line["images"] / line["devices"], points))
        print(f"{label} (compiled for {line['topology']}, batch {line['batch_size']} a chip)")
        for count, found in points:
            print(
                f"  {count:5d} chips  {1e3 * found.step_s:9.3f} ms  bound by {found.bound:12s}"
                f"  efficiency {100 * found.efficiency:5.1f} %"
            )
    draw(curves, picture)
    print(picture)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lines", metavar="predictions.jsonl")
    parser.add_argument("picture", metavar="FILE.svg")
    main(**vars(parser.parse_args()))
