"""MicroAST (Wang et al. 2022, arXiv 2211.15313): any style picture without training, at any size. Pixels 0 to 1.

The style picture is encoded once (`encode_style`); from then on it is some hundreds of numbers that travel with each
piece. Of the content picture as a whole the network needs the moments at two places only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from parallel_nst.errors import BadInput
from parallel_nst.networks.convolutions import Conv2d
from parallel_nst.networks.generators.base import UNIT, Generator, Residual, Steps, Style, continued, through
from parallel_nst.networks.moments import Moments, moments_of, rescaled

EPS = 1e-5


class ConvLayer(nn.Sequential):
    """Reflection padding and a convolution, key names `conv_layer.*`."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.reflection_pad = nn.ReflectionPad2d(kernel // 2)
        self.conv_layer = Conv2d(inputs, outputs, kernel, stride, groups=groups)


class Filtered(nn.Module):
    """A residual block whose two convolutions are modulated by the style: w conv(x) + b x."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvLayer(channels, channels, 3)
        self.conv2 = ConvLayer(channels, channels, 3)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """weight, bias: (1, C, 1, 1)."""
        weight, bias = weight.to(x.dtype), bias.to(x.dtype)
        y = torch.relu(torch.addcmul(weight * self.conv1(x), bias, x))
        return x + torch.addcmul(weight * self.conv2(y), bias, y)


class Encoder(nn.Module):
    """To a quarter of the size; its features are those of `enc1` and of `enc2` on top."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        first, second, third = widths
        self.enc1 = nn.Sequential(
            *rectified(ConvLayer(3, first, 9)),
            *rectified(ConvLayer(first, second, 3, 2, first)),
            *rectified(ConvLayer(second, second, 1)),
            *rectified(ConvLayer(second, third, 3, 2, second)),
            *rectified(ConvLayer(third, third, 1)),
            PlainResidual(third),
        )
        self.enc2 = nn.Sequential(PlainResidual(third))


class Modulator(nn.Module):
    """Depthwise convolutions of the style's features, whose means are the weights and biases of the decoder."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("weight1", "bias1", "weight2", "bias2"):
            self.add_module(name, nn.Sequential(ConvLayer(channels, channels, 3, groups=channels)))

    def forward(self, name: str, features: Tensor) -> Tensor:
        """(1, C, 1, 1) from features (1, C, H, W)."""
        signal: Tensor = self.get_submodule(name)(features).mean((2, 3), keepdim=True)
        return signal


class Decoder(nn.Module):
    """From a quarter of the size back to the picture."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        first, second, third = widths
        self.dec1 = Filtered(third)
        self.dec2 = Filtered(third)
        self.dec3 = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear"),
            *rectified(ConvLayer(third, second, 3, groups=second)),
            *rectified(ConvLayer(second, second, 1)),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            *rectified(ConvLayer(second, first, 3, groups=first)),
            *rectified(ConvLayer(first, first, 1)),
            ConvLayer(first, 3, 9),
        )


class MicroAST(Generator):
    """The four networks under one roof: keys `content_encoder.*`, `style_encoder.*`, `modulator.*`, `decoder.*`.

    widths: channels at full, half and quarter size, each twice the one before.
    """

    takes_style = True

    def __init__(self, widths: Sequence[int] = (16, 32, 64)) -> None:
        super().__init__("microast", {"widths": list(widths)}, UNIT, UNIT)
        self.content_encoder, self.style_encoder = Encoder(widths), Encoder(widths)
        self.modulator, self.decoder = Modulator(widths[-1]), Decoder(widths)

    def layers(self) -> list[nn.Module]:
        encoder, decoder = self.content_encoder, self.decoder
        return [encoder.enc1, encoder.enc2, decoder.dec1, decoder.dec2, decoder.dec3]

    def encode_style(self, picture: Tensor, strength: float = 1.0) -> Style:
        """Strokes are as large as they are in the style picture."""
        if not 0 <= strength <= 1:
            raise BadInput(f"style strength {strength} is not between 0 and 1")
        picture = continued(picture, 0, *(self.rounded(length) for length in picture.shape[-2:]))
        first = self.style_encoder.enc1(picture)
        second = self.style_encoder.enc2(first)
        style = {"strength": picture.new_tensor(strength)}
        for number, features in ((1, first), (2, second)):
            moments = moments_of(features)
            style |= {f"mean{number}": moments.mean, f"deviation{number}": (moments.unbiased() + EPS).sqrt()}
            style |= {f"{name}{number}": self.modulator(f"{name}{number}", features) for name in ("weight", "bias")}
        return style

    def steps(self, x: Tensor, style: Style | None) -> Steps:
        assert style is not None
        x = yield from through([self.content_encoder.enc1, self.content_encoder.enc2], x)
        for number, block in ((2, self.decoder.dec1), (1, self.decoder.dec2)):
            x = adapted(x, (yield x), style, number)
            x = block(x, style[f"weight{number}"], style[f"bias{number}"])
        return (yield from through([self.decoder.dec3], x))


def adapted(x: Tensor, moments: Moments, style: Style, number: int) -> Tensor:
    """Adaptive instance normalisation (Huang and Belongie 2017, arXiv 1703.06868, eq. 8), mixed with `x` itself."""
    strength = style["strength"]
    gain = style[f"deviation{number}"] / (moments.unbiased() + EPS).sqrt()
    shift = style[f"mean{number}"] - moments.mean * gain
    return rescaled(x, strength * gain + (1 - strength), strength * shift)


def rectified(conv: ConvLayer) -> list[nn.Module]:
    return [conv, nn.ReLU(True)]


class PlainResidual(Residual):
    """x + conv2(relu(conv1(x))), without a normalisation to stop at."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvLayer(channels, channels, 3)
        self.relu = nn.ReLU(True)
        self.conv2 = ConvLayer(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(self.relu(self.conv1(x)))
        return x + y
