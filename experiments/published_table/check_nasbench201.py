"""Checks jnas against the published table of NAS-Bench-201: every string, and the parameter counts of three cells.

Command:  python experiments/published_table/check_nasbench201.py NASBENCH201.csv.gz
Needs:    a table with the columns `index` and `arch`, 15,625 rows in the benchmark's own order.
Time:     under a minute on 2 CPU cores. Prints what it checked; exit status 1 at the first difference.
"""

import argparse
import csv
import gzip
import sys

import jax

from jnas import nets, spaces

PARAMETERS = {0: 129_306, 6111: 1_073_466, 9930: 1_288_506}  # 16 channels, 5 cells a stage, 10 classes


def main(path):
    with gzip.open(path, "rt") as file:
        table = {int(row["index"]): row["arch"] for row in csv.DictReader(file)}
    space = spaces.nasbench201()
    codes = {tuple(spaces.from_string(space, text).tolist()) for text in table.values()}
    if len(codes) != spaces.size(space) or len(table) != spaces.size(space):
        sys.exit(f"{path}: {len(table)} rows give {len(codes)} distinct cells of {spaces.size(space)}")
    for index in list(table)[::25]:
        again = spaces.to_string(space, spaces.from_string(space, table[index]))
        if again != table[index]:
            sys.exit(f"#{index}: {table[index]} came back as {again}")
    print(f"{len(table)} strings are {len(codes)} distinct cells and come back as they were")
    for index, expected in PARAMETERS.items():
        fixed = spaces.fix(space, spaces.from_string(space, table[index]))
        net = nets.network_for(fixed, channels=16, depth=5, num_classes=10)
        params, _ = jax.eval_shape(lambda key, net=net: nets.initialise(net, key, (32, 32, 3)), jax.random.key(0))
        found = nets.count_parameters(params)
        print(f"#{index}: {found:,} parameters")
        if found != expected:
            sys.exit(f"#{index}: {found:,} parameters, published {expected:,}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", metavar="NASBENCH201.csv.gz")
    main(parser.parse_args().table)
