"""Ways to write a dense 3x3 convolution and its two derivatives, on one core, outside and inside of a loop.

Command:  taskset -c 0 python experiments/peers/convolutions.py [--shapes 64x32x16 64x16x32 64x8x64 32x32x8]
          XLA_FLAGS=--xla_cpu_experimental_onednn_custom_call=true with jax 0.12, for oneDNN.
Time:     a minute.
Prints:   milliseconds of the processor, the 20 % quantile of 25 calls in turn; a call in a loop is a fourth of four.

Shapes are batch x side x channels. "pairs": two neighbouring pixels are one with twice the channels.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jnas.nets.kernels import convolution
from jnas.nets.kernels.window import Geometry, pad_reads, views

LAYOUT = ("NHWC", "HWIO", "NHWC")


def forms(side):
    """Of `x [n, h, w, c]` with a kernel, and of the kernel's derivative from `x` and `g [n, h, w, f]`."""
    geometry = Geometry(3, 1, 1, side, side)

    def turned(w):
        return jnp.flip(w, (0, 1)).swapaxes(2, 3)

    def taps(x):
        return jnp.concatenate(views(pad_reads(x, geometry), geometry), -1)

    def product(x, g):
        return lax.dot_general(x.reshape(-1, x.shape[3]), g.reshape(-1, g.shape[3]), (((0,), (0,)), ((), ())))

    def dw_pairs(x, g):
        channels, features = x.shape[3], g.shape[3]
        x = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0))).reshape(*x.shape[:2], -1, 2 * channels)
        g = g.reshape(*g.shape[:2], -1, 2 * features)
        both = lax.conv_general_dilated(
            x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), (1, 1), [(1, 1), (0, 0)], dimension_numbers=LAYOUT
        ).transpose(1, 2, 0, 3)  # fmt: skip
        both = both.reshape(3, 4, channels, 2, features)
        return both[:, :3, :, 0] + both[:, 1:, :, 1]

    def dw_rows(x, g):
        channels, features = x.shape[3], g.shape[3]
        x, g = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0))), jnp.pad(g, ((0, 0), (1, 1), (0, 0), (0, 0)))
        x = jnp.concatenate([x[:, :, j : j + side] for j in range(3)], -1)
        g = jnp.concatenate([g[:, 2 - i : 2 - i + side] for i in range(3)], -1)
        return product(x, g).reshape(3, channels, 3, features).transpose(2, 0, 1, 3)

    return {
        "y: XLA's": ("xw", lambda x, w: convolution._ordinary(x, w, geometry=geometry)),
        "y: pairs": ("xw", lambda x, w: convolution._dense_pairs(x, w, geometry)),
        "y: taps side by side, one product": ("xw", lambda x, w: taps(x) @ w.reshape(-1, w.shape[3])),
        "dx: XLA's": ("gw", lambda g, w: convolution._ordinary(g, turned(w), geometry=geometry)),
        "dx: pairs": ("gw", lambda g, w: convolution._dense_pairs(g, turned(w), geometry)),
        "dw: as in jnas": ("xg", lambda x, g: convolution._dense_dw(x, g, geometry=geometry)),
        "dw: pairs": ("xg", dw_pairs),
        "dw: taps side by side, one product": ("xg", lambda x, g: product(taps(x), g).reshape(3, 3, -1, g.shape[3])),
        "dw: three columns of x, three rows of g, one product": ("xg", dw_rows),
    }


def in_a_loop(function):
    """Four calls, each waiting for the one before."""

    def run(a, b):
        body = lambda shift, _: (function(a + shift, b).reshape(-1)[0] * 1e-9, None)
        return lax.scan(body, jnp.zeros(()), length=4)[0]

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=["64x32x16", "64x16x32", "64x8x64", "32x32x8"])
    print(f"jax {jax.__version__}")
    for shape in parser.parse_args().shapes:
        batch, side, channels = map(int, shape.split("x"))
        images = batch, side, side, channels
        sizes = {"x": images, "g": images, "w": (3, 3, channels, channels)}
        rng = np.random.default_rng(0)
        arrays = {name: jnp.asarray(rng.normal(size=size), jnp.float32) for name, size in sizes.items()}
        calls, expected = {}, {}
        for name, (operands, function) in forms(side).items():
            a, b = (arrays[letter] for letter in operands)
            alone, looped = jax.jit(function), jax.jit(in_a_loop(function))
            found = np.asarray(alone(a, b))
            error = np.abs(found - expected.setdefault(name[:2], found)).max() / np.abs(found).max()
            assert error < 1e-4, name
            looped(a, b)
            calls[name] = (alone, a, b), (looped, a, b)
        times = {name: ([], []) for name in calls}
        for _ in range(25):
            for name, pair in calls.items():
                for kept, (function, a, b) in zip(times[name], pair, strict=True):
                    begin = time.process_time()
                    jax.block_until_ready(function(a, b))
                    kept.append(1e3 * (time.process_time() - begin))
        print(f"{shape}: {2e-6 * 9 * batch * side**2 * channels**2:.0f} MFLOP")
        for name, (alone, looped) in times.items():
            print(f"  {name:55s} {np.quantile(alone, 0.2):6.2f} ms, in a loop {np.quantile(looped, 0.2) / 4:6.2f} ms")


if __name__ == "__main__":
    main()
