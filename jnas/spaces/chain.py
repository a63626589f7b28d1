"""Chains: networks of one layer after the other, each layer of an own type, kernel, width, expansion, groups, dilation.

A layer is one word. The operators of cells are layers (`skip_connect`, `max_pool_3x3`, `nor_conv_5x5` ...), and so is a
convolution with attributes, `conv_3x3-e4-g2-d2-w1.5`: expansion 4, 2 groups (`-dw`: one filter a channel), dilation 2,
1.5 times the channels of its stage; an attribute of 1 is not written. Behind all others stand fully connected layers,
`fc_32` with 32 outputs.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jnas.errors import UserError
from jnas.spaces.base import Choice, quoted

_PLAIN = re.compile(r"skip_connect|fc_[1-9]\d{0,3}|(?:max|avg)_pool_3x3|(?:nor|sep|dil)_conv_(\d{1,2})x\1")
_WORD = r"conv_(\d{1,2})x\1(?:-e(\d{1,2}))?(?:-(dw|g\d{1,3}))?(?:-d(\d))?(?:-w(\d{1,2}(?:\.\d{1,3})?))?"
_LONGEST = 20_000  # characters of a name worth reading
_DEEPEST = 999


class Layer(NamedTuple):
    """What a word for a layer says."""

    op: str  # "conv" for a convolution with attributes, else the name of an operator of cells, or "fc_32"
    kernel: int  # side in pixels; 0: no convolution
    width: float = 1.0  # channels of the output, in units of the stage's
    expansion: int = 1  # channels inside, in units of those of the input; 1: no such inside
    groups: int | None = 1  # None: one filter a channel
    dilation: int = 1  # distance of neighbouring taps in pixels


@functools.cache
def layer_of(word: str) -> Layer:
    """Reads a word for a layer.

    >>> layer_of("conv_3x3-e4-dw")
    Layer(op='conv', kernel=3, width=1.0, expansion=4, groups=None, dilation=1)

    Args:
      word: such as `conv_3x3-e4-g2` or `max_pool_3x3`.

    Returns:
      What it says; a `dil_conv` has dilation 2, a `sep_conv` and a `dil_conv` one filter a channel.

    Raises:
      ValueError: if it is no such word.
    """
    if plain := _PLAIN.fullmatch(word):
        layer = Layer(word, int(plain[1] or 0))
        if word.startswith(("sep", "dil")):
            layer = layer._replace(groups=None, dilation=2 if word.startswith("dil") else 1)
    elif found := re.fullmatch(_WORD, word):
        size, expansion, groups, dilation, width = found.groups()
        grouped = None if groups == "dw" else int((groups or "g1")[1:])
        layer = Layer("conv", int(size), float(width or 1), int(expansion or 1), grouped, int(dilation or 1))
        if word != word_of(layer):
            raise ValueError(f"{quoted(word)} names a layer in a second way: write {word_of(layer)}.")
    else:
        raise ValueError(
            f"{quoted(word)} is no layer: write skip_connect, max_pool_3x3, avg_pool_3x3, nor_conv_3x3, sep_conv_3x3, "
            "dil_conv_3x3, conv_3x3-e4-g2-d2-w1.5 or fc_32."
        )
    if layer.kernel % 2 == 0 and "conv" in word:
        raise ValueError(f"{quoted(word)} has a kernel of even side: give an odd one.")
    if 0 in (layer.expansion, layer.groups, layer.dilation, layer.width):
        raise ValueError(f"{quoted(word)} has an attribute of 0: give at least 1, or leave it out.")
    return layer


def word_of(layer: Layer) -> str:
    """Writes the word that `layer_of` reads.

    >>> word_of(Layer("conv", 5, groups=2))
    'conv_5x5-g2'

    Args:
      layer: any layer.

    Returns:
      The word.
    """
    if layer.op != "conv":
        return layer.op
    expansion = f"-e{layer.expansion}" if layer.expansion != 1 else ""
    groups = "-dw" if layer.groups is None else f"-g{layer.groups}" if layer.groups != 1 else ""
    dilation = f"-d{layer.dilation}" if layer.dilation != 1 else ""
    width = f"-w{layer.width:g}" if layer.width != 1 else ""
    return f"conv_{layer.kernel}x{layer.kernel}{expansion}{groups}{dilation}{width}"


def fully_connected(word: str) -> int:
    """The outputs of a fully connected layer, 32 for `fc_32`; 0 for any other word."""
    return int(word.removeprefix("fc_")) if word.startswith("fc_") else 0


@dataclasses.dataclass(frozen=True)
class ChainSpace:
    """Chains whose layers each have candidates; with one left on every layer, a found network.

    Attributes:
      layers: for each layer, from the image to the classifier, the words for its candidates.
    """

    layers: tuple[tuple[str, ...], ...]

    def __post_init__(self):
        if not self.layers or not all(self.layers) or len(self.layers) > _DEEPEST:
            raise ValueError(f"the chain {self.layers} has a layer without a candidate, none, or too many: give some.")
        for words in set(self.layers):
            for word in words:
                layer_of(word)
            if len(set(words)) < len(words):
                raise ValueError(f"the candidates {words} name a layer twice: name it once.")
        depth = len(self.layers)
        first = next((index for index, words in enumerate(self.layers) if any(map(fully_connected, words))), depth)
        behind = set(itertools.chain.from_iterable(self.layers[first:])) - {"skip_connect"}
        if first < 2 * depth // 3 or not all(map(fully_connected, behind)):
            raise ValueError(
                f"layer {first} of {quoted(self.name)} is fully connected: put such layers in the last third, and "
                "nothing but skip_connect beside and behind them."
            )

    @property
    def name(self) -> str:
        """All there is to know of the space, `chain-2:a,b` for two equal layers or `chain:a,b+a,c`."""
        first = ",".join(self.layers[0])
        if len(set(self.layers)) == 1:
            return f"chain-{len(self.layers)}:{first}"
        return "chain:" + "+".join(map(",".join, self.layers))

    @property
    def choices(self) -> tuple[Choice, ...]:
        """One choice a layer."""
        return self._choices

    @functools.cached_property
    def _choices(self) -> tuple[Choice, ...]:
        return tuple(Choice(f"layer/{index}", words) for index, words in enumerate(self.layers))

    @property
    def is_fixed(self) -> bool:
        """Whether nothing is left to choose."""
        return all(len(words) == 1 for words in self.layers)

    @property
    def ops(self) -> tuple[str, ...]:
        """Every word that occurs, in order of occurrence."""
        return tuple(dict.fromkeys(itertools.chain.from_iterable(self.layers)))


def chain(words: Sequence[str], depth: int) -> ChainSpace:
    """A chain of equal layers.

    >>> from jnas import spaces
    >>> spaces.size(chain(("skip_connect", "nor_conv_3x3", "max_pool_3x3"), 4))
    81

    Args:
      words: the candidates of every layer.
      depth: layers.

    Returns:
      The space.

    Raises:
      ValueError: if a word is no layer or `depth` is below 1.
    """
    return ChainSpace((tuple(words),) * depth)


def fix_chain(space: ChainSpace, arch) -> ChainSpace:
    """The chain with the candidates that an architecture chooses; see `spaces.fix`.

    Raises:
      ValueError: if `arch` is no architecture of `space`.
    """
    codes = np.asarray(arch)
    bounds = np.array([len(words) for words in space.layers])
    if codes.shape != bounds.shape or not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(
            f"an architecture of {quoted(space.name)} is a vector of {len(bounds)} integers "
            f"and not {codes.dtype}{list(codes.shape)}."
        )
    if ((codes < 0) | (codes >= bounds)).any():
        raise ValueError(f"{codes.tolist()} is no architecture: give indices from 0 to below {bounds.tolist()}.")
    return ChainSpace(tuple((words[code],) for words, code in zip(space.layers, codes, strict=True)))


def chain_to_string(space: ChainSpace, arch) -> str:
    """`chain:a+b+c`, one word a layer: also the name of the space that holds this chain alone."""
    return "chain:" + "+".join(words[0] for words in fix_chain(space, arch).layers)


def chain_from_string(space: ChainSpace, text: str) -> list[int]:
    """Reads what `chain_to_string` writes.

    Raises:
      UserError: if the text is no architecture of the space; one sentence quotes the part that is wrong.
    """
    found = parse_chain(text)
    if not found.is_fixed or len(found.layers) != len(space.layers):
        raise UserError(
            f"{quoted(text)} is no chain of {len(space.layers)} layers: write chain: and the layers, joined by +."
        )
    codes = []
    for index, ((word,), words) in enumerate(zip(found.layers, space.layers, strict=True)):
        if word not in words:
            raise UserError(f"layer {index} is {word!r}, which the space does not have: choose {' or '.join(words)}.")
        codes.append(words.index(word))
    return codes


def parse_chain(text: str) -> ChainSpace:
    """Reads the name of a chain space, `chain-4:a,b` or `chain:a,b+c`.

    Args:
      text: any.

    Returns:
      The space.

    Raises:
      UserError: if it is no such name; one sentence quotes the part that is wrong.
    """
    match = re.fullmatch(r"chain(?:-(\d{1,3}))?:(.+)", text.strip()[:_LONGEST])
    if match is None:
        raise UserError(f"{quoted(text)} is no chain: write chain-4:nor_conv_3x3,skip_connect or chain:a+b+c.")
    layers = tuple(tuple(part.split(",")) for part in match[2].split("+"))
    if match[1] and len(layers) > 1:
        raise UserError(f"{quoted(text)} gives a number of layers and lists them too: leave out one of the two.")
    try:
        return ChainSpace(layers * int(match[1] or 1))
    except ValueError as error:
        raise UserError(str(error)) from None
