"""Feed-forward generators: a picture goes in, a stylised picture comes out, in one pass.

Every generator takes pictures (N, 3, H, W), RGB in [0, 1], of any height and width, and gives the same; what its
network wants to see instead (0 to 255, -1 to 1, ...) and how far an output pixel looks are the generator's own affair:

    stylised = generator(picture)

Instance normalisation takes its statistics from the whole picture, so pieces cannot be generated one by one. A piece
therefore runs through the network in steps and stops before each normalisation until somebody says the moments there
(`Pass`): its own for a picture in one piece, those of all pieces together for tiles (`generator_tiles`).

Planes: the picture; the *extended* picture, with what is put around it and, for most networks, with sides that are
multiples of `stride`. Pieces are cut from the latter.
"""

from __future__ import annotations

import collections.abc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from parallel_nst.errors import BadInput
from parallel_nst.networks.convolutions import SamePad2d
from parallel_nst.networks.moments import Moments, Norm, moments_of

Steps = collections.abc.Generator[Tensor, Moments, Tensor]  # gives activations, takes their moments, returns the output
Edges = Literal["published", "mirror"]
Style = Mapping[str, Tensor]  # what a generator that takes any style has to know of a style picture
LEAST_POSITIONS = 4  # along a side at the deepest layer: more than any reflection padding takes


@dataclass(frozen=True)
class Range:
    """What a network wants to see: picture * scale + shift, per channel of RGB."""

    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def enter(self, picture: Tensor) -> Tensor:
        """From [0, 1] to the network's range."""
        return picture * channels(self.scale, picture) + channels(self.shift, picture)

    def leave(self, output: Tensor) -> Tensor:
        """From the network's range to that of pictures, not clamped."""
        return (output - channels(self.shift, output)) / channels(self.scale, output)


def channels(values: Sequence[float], like: Tensor) -> Tensor:
    return like.new_tensor(values).view(1, -1, 1, 1)


UNIT = Range()
BYTES = Range((255.0,) * 3)
SIGNED = Range((2.0,) * 3, (-1.0,) * 3)


class Residual(nn.Module):
    """x + what its children make of x, one after the other."""


class Generator(nn.Module):
    """What all generators have in common. A subclass fills in its `layers` or, where they are no chain, `steps`.

    architecture, hyperparameters: enough to build the same network again.
    stride: px that sides and starts of pieces must be multiples of. reach: px to every side that an output pixel
    depends on, besides the statistics. takes_style: whether it wants the style of a picture (`encode_style`).
    any_size: whether its own padding fits sides of any length. frame: px by which the picture is continued by
    reflection before it goes in, to be cut off again (`edges`).
    """

    takes_style = False
    any_size = False

    def __init__(self, architecture: str, hyperparameters: dict[str, Any], given: Range, made: Range) -> None:
        """given, made: ranges of the network's input and output."""
        super().__init__()
        self.architecture, self.hyperparameters = architecture, hyperparameters
        self.given, self.made, self.frame = given, made, 0

    def layers(self) -> Iterable[nn.Module]:
        """The layers between a picture's pixels and the output's, in order."""
        return self.children()

    @property
    def stride(self) -> int:
        return deepest_stride(leaves(self.layers()))

    @property
    def reach(self) -> int:
        return reach_of(list(leaves(self.layers())))

    @property
    def edges(self) -> Edges:
        """How the picture ends: as the network was published and trained, with its own padding; or in a mirror image as
        wide as the network looks, so that no padding is seen, for the arithmetic of a larger picture."""
        return "mirror" if self.frame else "published"

    @edges.setter
    def edges(self, edges: Edges) -> None:
        self.frame = self.reach if edges == "mirror" else 0

    def encode_style(self, picture: Tensor, strength: float = 1.0) -> Style:
        """What the generator has to know of a style picture (1, 3, H, W) in [0, 1]; strength: from 0, the content's own
        statistics, to 1. BadInput where it has a style of its own."""
        raise BadInput(f"a generator of type {self.architecture} has its own style and takes no style picture")

    def vgg_encoder(self) -> nn.Sequential | None:
        """The layers that VGG16's weights can be put into, numbered as there; None where there are none."""
        return None

    def steps(self, x: Tensor, style: Style | None) -> Steps:
        """Output (N, 3, H, W) of input (N, 3, H, W), both in the network's own ranges."""
        return through(self.layers(), x)

    def extend(self, picture: Tensor) -> Tensor:
        """The picture (N, 3, H, W) continued by reflection, the frame first, then to the right and below, until its
        sides are multiples of `stride`. Without a frame, one that fits any size stays as it is."""
        return continued(picture, self.frame, *self.extended_size(picture.shape[-2], picture.shape[-1]))

    def extended_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the extended picture."""
        return self._extended(height), self._extended(width)

    def _extended(self, length: int) -> int:
        return length if self.any_size and not self.frame else self.rounded(length + 2 * self.frame)

    def rounded(self, length: int) -> int:
        """A side's px rounded up to a multiple of `stride`, to what reflection padding wants at the deepest layer."""
        return max(LEAST_POSITIONS, -(-length // self.stride)) * self.stride

    def crop(self, extended: Tensor, height: int, width: int) -> Tensor:
        """The picture of this size that was extended."""
        return extended[..., self.frame : self.frame + height, self.frame : self.frame + width]

    def start(self, piece: Tensor, style: Style | None = None) -> Pass:
        """Send a piece (N, 3, H, W) of an extended picture on its way. BadInput where a style is missing or not
        wanted."""
        if self.takes_style != (style is not None):
            wants = "wants a style picture" if self.takes_style else "has its own style and takes no style picture"
            raise BadInput(f"a generator of type {self.architecture} {wants}")
        height = -(-piece.shape[-2] // self.stride) * self.stride
        return Pass(self.steps(self.given.enter(piece), style), self.made, height)

    def generate(
        self, piece: Tensor, statistics: Sequence[Moments] | None = None, style: Style | None = None
    ) -> Tensor:
        """A stylised piece (N, 3, H, W) of an extended picture, not clamped; of its own statistics where none are
        given."""
        going = self.start(piece, style)
        for moments in statistics or ():
            going.advance(moments)
        while going.waiting is not None:
            if statistics is not None:
                raise ValueError(f"{len(statistics)} layers of statistics are too few for {self.architecture}")
            going.advance(moments_of(going.waiting))
        return going.result

    def forward(self, picture: Tensor, style: Style | None = None, *, clamp: bool = True) -> Tensor:
        """The stylised picture (N, 3, H, W) in [0, 1]; without `clamp` it may leave them, which training needs."""
        output = self.crop(self.generate(self.extend(picture), style=style), picture.shape[-2], picture.shape[-1])
        return output.clamp(0, 1) if clamp else output


class Pass:
    """A piece on its way through a generator.

    waiting: activations (N, C, h, w) that are about to be normalised and wait for their moments; None at the end.
    Only they and what skips around them are kept: a few floats for each px.
    """

    def __init__(self, steps: Steps, made: Range, height: int) -> None:
        """made: range of the output. height: of the piece, px, rounded up to the deepest stride."""
        self._steps, self._made, self._height = steps, made, height
        self._output: Tensor | None = None
        self.waiting: Tensor | None = None
        self._go(None)

    @property
    def stride(self) -> int:
        """Px between two positions of what is waiting."""
        assert self.waiting is not None
        return self._height // self.waiting.shape[-2]

    def advance(self, moments: Moments) -> None:
        """Normalise by these and go on to the next normalisation or to the end. ValueError at the end."""
        if self.waiting is None:
            raise ValueError("more statistics than the generator has normalisations")
        self._go(moments)

    def _go(self, moments: Moments | None) -> None:
        self.waiting = None  # so that only the steps hold on to the activations, and let go of them in time
        try:
            self.waiting = next(self._steps) if moments is None else self._steps.send(moments)
        except StopIteration as end:
            self.waiting, self._output = None, self._made.leave(end.value)

    @property
    def result(self) -> Tensor:
        """The stylised piece (N, 3, H, W), not clamped; ValueError before the end."""
        if self._output is None:
            raise ValueError("the piece still waits for the moments of a normalisation")
        return self._output


def through(layers: Iterable[nn.Module], x: Tensor) -> Steps:
    """Send `x` through a chain of layers, stopping before each normalisation."""
    for layer in unpacked(layers):
        if isinstance(layer, Norm):
            x = layer(x, (yield x))
        elif isinstance(layer, Residual):
            x = x + (yield from through(layer.children(), x))
        else:
            x = layer(x)
    return x


def unpacked(layers: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """A chain with what is in its sequences in place of them, so that no sequence keeps its input until its end."""
    for layer in layers:
        if isinstance(layer, nn.Sequential):
            yield from unpacked(layer)
        else:
            yield layer


def leaves(layers: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """The innermost modules of a chain, in order."""
    for layer in layers:
        inner = list(layer.children())
        if inner:
            yield from leaves(inner)
        else:
            yield layer


def step_of(layer: nn.Module) -> float:
    """Input positions between two output positions: 2 for a layer that halves, 1/2 for one that doubles."""
    if isinstance(layer, nn.ConvTranspose2d):
        return 1 / layer.stride[0]
    if isinstance(layer, nn.Upsample):
        return 1 / float(layer.scale_factor)  # type: ignore[arg-type]
    stride = getattr(layer, "stride", 1)
    return float(stride[0] if isinstance(stride, tuple) else stride)


def deepest_stride(chain: Iterable[nn.Module]) -> int:
    """Px between two neighbouring positions of the layer where they lie furthest apart."""
    jump = deepest = 1.0
    for layer in chain:
        jump *= step_of(layer)
        deepest = max(deepest, jump)
    return int(deepest)


def read_by(layer: nn.Module, low: int, high: int) -> tuple[int, int]:
    """First and last input position along a side that the output positions `low` to `high` depend on."""
    if isinstance(layer, nn.ConvTranspose2d):
        kernel, stride, padding = layer.kernel_size[0], layer.stride[0], int(layer.padding[0])
        return -((kernel - 1 - low - padding) // stride), (high + padding) // stride
    if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
        kernel, stride, padding = (as_number(v) for v in (layer.kernel_size, layer.stride, layer.padding))
        return low * stride - padding, high * stride - padding + kernel - 1
    if isinstance(layer, SamePad2d):
        return low - layer.most_before, high - layer.least_before
    if isinstance(layer, nn.ReflectionPad2d | nn.ZeroPad2d):
        return low - layer.padding[0], high - layer.padding[0]
    if isinstance(layer, nn.Upsample):
        factor = int(layer.scale_factor)  # type: ignore[arg-type]
        if layer.mode == "nearest":
            return low // factor, high // factor
        return (2 * low + 1 - factor) // (2 * factor), (2 * high + 1 - factor) // (2 * factor) + 1  # bilinear
    return low, high


def as_number(value: Any) -> int:
    """One number for a square window."""
    return int(value[0] if isinstance(value, tuple) else value)


def reach_of(chain: Sequence[nn.Module]) -> int:
    """Px to either side that an output pixel depends on, found by walking the windows back from the output."""
    reach = 0
    for output in range(deepest_stride(chain)):
        low = high = output
        for layer in reversed(chain):
            low, high = read_by(layer, low, high)
        reach = max(reach, output - low, high - output)
    return reach


def continued(picture: Tensor, before: int, height: int, width: int) -> Tensor:
    """A picture (N, 3, H, W) in one of this size, `before` px to the right and below its beginning, the rest by
    reflection."""
    for axis, total in ((-2, height), (-1, width)):
        if picture.shape[axis] != total:
            picture = picture.index_select(axis, mirrored(picture.shape[axis], before, total).to(picture.device))
    return picture


def mirrored(length: int, before: int, total: int) -> Tensor:
    """Indices (total,) of a side of `length` px that goes on by reflection, `before` px of it in front."""
    period = max(1, 2 * (length - 1))
    index = torch.arange(-before, total - before).remainder(period)
    return torch.where(index < length, index, period - index)
