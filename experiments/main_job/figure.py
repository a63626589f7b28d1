"""Draws README's picture from a finished run: the found cell, and its accuracy among those of other cells, as one SVG.

Command:  python experiments/main_job/figure.py runs/search-nasbench201-0 experiments/main_job/default-search.svg
"""

import argparse
import base64
import pathlib
import re
import sys

from jnas import files, report
from jnas.report.charts import accuracy_chart
from jnas.report.reference import reference_chart
from jnas.report.summary import found_cell


def size_of(svg):
    box = re.search(r'viewBox="[\d.-]+ [\d.-]+ ([\d.]+) ([\d.]+)"', svg)
    assert box is not None
    return float(box[1]), float(box[2])


def main(run_folder, out):
    run = report.read_run(run_folder)
    found = found_cell(run)
    chart = reference_chart(run) or accuracy_chart(run)
    if found.fixed is None or chart is None:
        sys.exit(f"{run_folder}: no found cell or no trained networks; finish the run first")
    parts = [*(report.draw_cell(found.fixed, cell) for cell in found.fixed.cells), chart.svg]
    width = 760.0
    placed, top = [], 0.0
    for svg in parts:
        own_width, own_height = size_of(svg)
        height = own_height * width / own_width
        # As an image each part keeps its own ids and styles.
        data = base64.b64encode(svg.encode()).decode()
        box = f'y="{top:.0f}" width="{width:.0f}" height="{height:.0f}"'
        placed.append(f'<image {box} href="data:image/svg+xml;base64,{data}"/>')
        top += height + 12
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {top:.0f}" width="{width:.0f}">'
    white = f'<rect width="{width:.0f}" height="{top:.0f}" fill="white"/>'
    pathlib.Path(out).parent.mkdir(parents=True, exist_ok=True)
    files.atomic_write(out, head + white + "".join(placed) + "</svg>\n")
    print(f"{out}: {chart.alt}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_folder", metavar="RUN")
    parser.add_argument("out", metavar="FILE.svg")
    main(**vars(parser.parse_args()))
