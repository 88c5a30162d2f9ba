"""Generators for one style: TransformerNet in the forms that its checkpoints come in, and an encoder-decoder on VGG16.

TransformerNet is the network of Johnson, Alahi and Fei-Fei 2016 (arXiv 1603.08155, supplement): three convolutions
down to a quarter, residual blocks, and up again. Its public forms differ in padding, in how they enlarge, in their
last steps and in the range of their pixels; `FORMS` is the table. All share the key names of the PyTorch examples.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from parallel_nst.networks.convolutions import Conv2d, SamePad2d
from parallel_nst.networks.generators.base import BYTES, Generator, Range, Residual
from parallel_nst.networks.moments import Norm

IMAGENET = Range(  # (RGB - mean) / std of torchvision
    (1 / 0.229, 1 / 0.224, 1 / 0.225), (-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225)
)
VGG16_ENCODER = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, -1, 512, 512, 512, -1)  # 0 pools, -1 norms


@dataclass(frozen=True)
class Form:
    """One public form of TransformerNet.

    zeros: TensorFlow's "same" padding by zeros in place of reflection, and no biases. transposed: enlarges by
    transposed convolutions in place of repeating pixels. last_norm: normalises the last convolution too.
    tanh: ends in 150 tanh(x) + middle.
    """

    pixels: Range = BYTES
    zeros: bool = False
    transposed: bool = False
    last_norm: bool = False
    tanh: bool = False
    middle: float = 0.0
    eps: float = 1e-5


FORMS = {
    "transformer-net": Form(),
    "transformer-net-imagenet": Form(IMAGENET),
    "aonet": Form(transposed=True),
    "aonet-tanh": Form(transposed=True, tanh=True),
    "fast-style-transfer": Form(zeros=True, transposed=True, last_norm=True, tanh=True, middle=127.5, eps=1e-3),
}


class TransformerNet(Generator):
    """The network in one of `FORMS`; sizes other than the defaults are for tests and for other people's files.

    widths: channels of the three convolutions on the way down. blocks: residual blocks.
    norm: instance, or batch, which is fixed in use.
    """

    def __init__(
        self,
        form: str = "transformer-net",
        widths: Sequence[int] = (32, 64, 128),
        blocks: int = 5,
        norm: str = "instance",
    ) -> None:
        self.form, self.batched = FORMS[form], norm == "batch"
        self.any_size = self.form.zeros
        pixels = self.form.pixels
        chosen = {} if norm == "instance" else {"norm": norm}
        super().__init__(form, {"widths": list(widths), "blocks": blocks, **chosen}, pixels, pixels)
        first, second, third = widths
        self._add(1, "conv1", 3, first, 9)
        self._add(2, "conv2", first, second, 3, 2)
        self._add(3, "conv3", second, third, 3, 2)
        for number in range(1, blocks + 1):
            self.add_module(f"res{number}", self._residual(third))
        self._add(4, "deconv1", third, second, 3, 0.5)
        self._add(5, "deconv2", second, first, 3, 0.5)
        self.deconv3 = self._convolution(first, 3, 9)
        if self.form.last_norm:
            self.in6 = self._norm(3)
        if self.form.tanh:
            self.squash = ScaledTanh(self.form.middle)

    def _add(self, number: int, name: str, inputs: int, outputs: int, kernel: int, step: float = 1) -> None:
        """Convolution, normalisation `in<number>` and ReLU. step: input positions from one output to the next."""
        make = self._enlarging if step < 1 else self._convolution
        self.add_module(name, make(inputs, outputs, kernel, max(1, int(step))))
        self.add_module(f"in{number}", self._norm(outputs))
        self.add_module(f"relu{number}", nn.ReLU(True))

    def _norm(self, channels: int) -> nn.Module:
        if self.batched:
            return nn.BatchNorm2d(channels, self.form.eps)
        return Norm(channels, eps=self.form.eps)

    def _convolution(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
        """A convolution and its padding."""
        conv = Conv2d(inputs, outputs, kernel, stride, bias=not self.form.zeros)
        pad = SamePad2d(kernel, stride) if self.form.zeros else nn.ReflectionPad2d(kernel // 2)
        return named(pad=pad, conv2d=conv)

    def _enlarging(self, inputs: int, outputs: int, kernel: int, _: int) -> nn.Sequential:
        """Twice the size."""
        if not self.form.transposed:
            return named(
                enlarge=nn.Upsample(scale_factor=2), **dict(self._convolution(inputs, outputs, kernel).named_children())
            )
        if not self.form.zeros:
            return named(conv2d=nn.ConvTranspose2d(inputs, outputs, kernel, 2, 1, 1))
        # The adjoint of "same" on even sides: nothing is padded before, so only the last position is cut off.
        conv = nn.ConvTranspose2d(inputs, outputs, kernel, 2, bias=False)
        return named(conv2d=conv, crop=nn.ZeroPad2d((0, -1, 0, -1)))

    def _residual(self, channels: int) -> Residual:
        block = Residual()
        for number in (1, 2):
            block.add_module(f"conv{number}", self._convolution(channels, channels, 3))
            block.add_module(f"in{number}", self._norm(channels))
            if number == 1:
                block.add_module("relu", nn.ReLU(True))
        return block


class ScaledTanh(nn.Module):
    """150 tanh(x) + middle."""

    def __init__(self, middle: float) -> None:
        super().__init__()
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x) * 150 + self.middle


def named(**layers: nn.Module) -> nn.Sequential:
    """A chain of layers with names."""
    return nn.Sequential(OrderedDict(layers))


class VGGDecoder(Generator):
    """The convolutions of VGG16 as encoder, with instance normalisation in place of the pooling after its fourth and
    fifth block, and a decoder that enlarges three times: 512, 256, 128, 64, 3 channels at the defaults.

    Keys `encoder.N` are torchvision's `features.N`, so its weights can be put in; `decoder.N`. Pixels 0 to 255.
    encoder: channels of each convolution; 0 halves by max pooling, -1 normalises.
    """

    def __init__(self, encoder: Sequence[int] = VGG16_ENCODER) -> None:
        super().__init__("vgg-decoder", {"encoder": list(encoder)}, BYTES, BYTES)
        self.encoder = nn.Sequential()
        channels = 3
        for width in encoder:
            self.encoder.extend(encoder_step(channels, width))
            channels = width if width > 0 else channels
        self.decoder = nn.Sequential()
        for _ in range(list(encoder).count(0)):
            self.decoder.extend(decoder_step(channels, max(1, channels // 2)))
            channels = max(1, channels // 2)
        self.decoder.extend([nn.ReflectionPad2d(4), Conv2d(channels, 3, 9)])

    def vgg_encoder(self) -> nn.Sequential:
        return self.encoder


def encoder_step(channels: int, width: int) -> Iterable[nn.Module]:
    """The layers that one number of VGG16's table stands for."""
    if width > 0:
        return [Conv2d(channels, width, 3, padding=1), nn.ReLU(True)]
    return [nn.MaxPool2d(2)] if width == 0 else [Norm(channels)]


def decoder_step(channels: int, width: int) -> Iterable[nn.Module]:
    """Twice the size, `width` channels."""
    return [
        nn.Upsample(scale_factor=2),
        nn.ReflectionPad2d(1),
        Conv2d(channels, width, 3),
        Norm(width),
        nn.ReLU(True),
    ]
