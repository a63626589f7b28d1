"""Published figures of accelerators, and how long a chip, or a slice of chips, takes at least for given work.

Every prediction of `jnas bench --topology` comes from this table and from what the compiled program says.

- FLOP/s, size and bandwidth of HBM, bandwidth of the interconnect: Google Cloud's pages "TPU v4", "TPU v5e", "TPU v5p",
  "TPU v6e" (cloud.google.com/tpu/docs/v4 and so on) and NVIDIA's "H100 Tensor Core GPU" data sheet (SXM, dense).
- Bandwidth of one link in one direction, and which slices have wrap-around links: Austin et al., "How to Scale Your
  Model", jax-ml.github.io/scaling-book, part 2.
- Latency of one hop: about a microsecond, the same book, part 3. Clocks: the same book, part 2 (v5e, v5p), and Jouppi
  et al., "TPU v4: An Optically Reconfigurable Supercomputer", ISCA 2023, table 4 (v4).
"""

import math
from typing import NamedTuple


class Chip(NamedTuple):
    """One kind of chip. All figures are of one chip, which is also one device."""

    name: str
    flops_per_s: float  # of matrix products of bfloat16 numbers, dense
    float32_flops_per_s: float  # of float32 ones at JAX's default precision: bfloat16 passes (TPU), TF32 (H100)
    memory_bytes: float  # of HBM
    bytes_per_s: float  # of HBM
    link_bytes_per_s: float  # of one link of the interconnect, in one direction
    axes: int  # of the torus; 0: every chip reaches every other through a switch
    wraps_at: int  # sides that close to a ring: multiples of 4 if all are (3-D), this length (2-D)
    hop_s: float  # from one chip to the next
    clock_hz: float | None = None  # of the cores, where it is published

    def peak(self, dtype: str) -> float:
        """FLOP/s of products in a dtype, "bfloat16" or "float32"."""
        return self.flops_per_s if dtype == "bfloat16" else self.float32_flops_per_s


GIB = 2.0**30
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275e12, 275e12, 32 * GIB, 1.2e12, 45e9, 3, 4, 1e-6, 1.05e9),
        Chip("v5e", 197e12, 197e12, 16 * GIB, 819e9, 45e9, 2, 16, 1e-6, 1.5e9),
        Chip("v5p", 459e12, 459e12, 95 * GIB, 2.765e12, 90e9, 3, 4, 1e-6, 1.75e9),
        Chip("v6e", 918e12, 918e12, 32 * GIB, 1.638e12, 90e9, 2, 16, 1e-6),
        Chip("h100", 989.4e12, 494.7e12, 80e9, 3.35e12, 450e9, 0, 0, 1e-6),
    )
}


class Prediction(NamedTuple):
    """What a step takes at least, in seconds."""

    compute_s: float
    memory_s: float
    interconnect_s: float

    @property
    def step_s(self) -> float:
        """The slower of arithmetic and memory, which overlap, and then the collectives, which wait for both.

        >>> Prediction(compute_s=1.0, memory_s=3.0, interconnect_s=1.0).step_s
        4.0
        """
        return max(self.compute_s, self.memory_s) + self.interconnect_s

    @property
    def bound(self) -> str:
        """Which of the three takes longest: "compute", "memory" or "interconnect"."""
        return max(("compute", "memory", "interconnect"), key=lambda name: getattr(self, f"{name}_s"))

    @property
    def efficiency(self) -> float:
        """Of weak scaling: the speed of one chip of the slice over that of a chip alone with the same batch.

        >>> Prediction(compute_s=1.0, memory_s=3.0, interconnect_s=1.0).efficiency
        0.75
        """
        return max(self.compute_s, self.memory_s) / self.step_s


def predict(
    chip: Chip,
    sides: tuple[int, ...],
    dtype: str,
    *,
    flops: float,
    bytes: float,
    collectives: list[tuple[str, float, float]],
) -> Prediction:
    """Predict the time of a program from the work of one device.

    Use it to see what limits a step, not for absolute times: no unit is busy all the time.

    Args:
      chip: the kind of chip.
      sides: of the slice, such as (2, 2, 4).
      dtype: of the arithmetic.
      flops: of one device.
      bytes: through the HBM of one device.
      collectives: `(kind, number, bytes of the operands on one device, all together)`.

    Returns:
      The prediction.

    >>> predict(CHIPS["v5e"], (2, 4), "bfloat16", flops=197e12, bytes=819e9, collectives=[]).step_s
    1.0
    """
    exchange = sum(collective_s(chip, sides, kind, number, size) for kind, number, size in collectives)
    return Prediction(flops / chip.peak(dtype), bytes / chip.bytes_per_s, exchange)


def collective_s(chip: Chip, sides: tuple[int, ...], kind: str, number: float, size: float) -> float:
    r"""Seconds of some collectives of one kind: latency of each, and bytes over the links of a chip.

        number x phases x hops x hop_s  +  phases x size x (n - 1) / n / bandwidth

    with n chips, two phases (reduce and spread) of an all-reduce and one of any other kind. Along a side of k chips
    that closes to a ring the farthest chip is k // 2 hops away and both directions carry; along another k - 1 and one.

    Args:
      chip: the kind of chip.
      sides: of the slice.
      kind: as XLA names it, such as "all-reduce".
      number: of collectives.
      size: of their operands on one device, all together, in bytes; of an all-gather each device receives n - 1 times
        as much.

    Returns:
      The time; 0 on one chip.

    >>> round(1e6 * collective_s(CHIPS["v5e"], (2, 4), "all-reduce", 1, 0.0), 3)
    8.0
    """
    count = math.prod(sides)
    if count == 1:
        return 0.0
    phases = 2 if kind == "all-reduce" else 1
    moved = size * (count - 1) * (1 if kind == "all-gather" else 1 / count)
    if chip.axes == 0:
        return phases * (number * chip.hop_s + moved / chip.link_bytes_per_s)
    wraps = [_wraps(chip, sides, side) for side in sides]
    hops = sum(side // 2 if wrap else side - 1 for side, wrap in zip(sides, wraps, strict=True))
    lanes = sum(2 if wrap else 1 for side, wrap in zip(sides, wraps, strict=True) if side > 1)
    return phases * (number * hops * chip.hop_s + moved / (lanes * chip.link_bytes_per_s))


def _wraps(chip: Chip, sides: tuple[int, ...], side: int) -> bool:
    if chip.axes == 2:
        return side == chip.wraps_at
    return all(one % chip.wraps_at == 0 for one in sides)
