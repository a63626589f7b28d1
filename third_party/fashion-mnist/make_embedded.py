"""Makes jnas/data/fashion_mnist_5k.npz out of Debian's package dataset-fashion-mnist.

    apt install dataset-fashion-mnist
    python third_party/fashion-mnist/make_embedded.py /usr/share/datasets/fashion-mnist jnas/data/fashion_mnist_5k.npz

Of each class, the 500 training images whose SHA-256 of "0:train:INDEX" is smallest, INDEX being the position in the
official file, in the order of that file; a hash and no random generator, so that it is the same with every library. And
all test images. Prints the checksums that README.md records.
"""

import gzip
import hashlib
import pathlib
import sys

import numpy as np

PER_CLASS = {"train": 500, "t10k": 1000}  # of the test images these are all


def read_idx(path, header):
    """The bytes of an IDX file after its header of 4 bytes a field, as uint8."""
    raw = path.read_bytes()
    print(hashlib.sha256(raw).hexdigest(), path.name)
    return np.frombuffer(gzip.decompress(raw), np.uint8, offset=header)


def chosen(labels, split, count):
    """Indices of `count` examples of each class, ascending."""

    def rank(index):
        return hashlib.sha256(f"0:{split}:{index}".encode()).hexdigest()

    groups = [sorted(np.flatnonzero(labels == label).tolist(), key=rank)[:count] for label in range(10)]
    return np.sort(np.concatenate(groups))


def main(source, target):
    """Reads the four official files in folder `source` and writes the slice to `target`."""
    arrays = {}
    for split, count in PER_CLASS.items():
        labels = read_idx(source / f"{split}-labels-idx1-ubyte.gz", 8)
        images = read_idx(source / f"{split}-images-idx3-ubyte.gz", 16).reshape(len(labels), 28, 28, 1)
        index = chosen(labels, split, count)
        part = "train" if split == "train" else "test"
        arrays[f"x_{part}"], arrays[f"y_{part}"] = images[index], labels[index]
    np.savez_compressed(target, **arrays)
    for name, array in arrays.items():
        print(hashlib.sha256(array.tobytes()).hexdigest(), name, array.dtype, array.shape)


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:]))
