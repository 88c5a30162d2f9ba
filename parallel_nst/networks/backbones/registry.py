"""Backbones by name: how each is built, its default layers, and where its weights come from. Without PyTorch, which is
loaded when a backbone is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from parallel_nst.errors import BadInput
from parallel_nst.networks.weights.download import cache_folder, fetched
from parallel_nst.recipe import LayerWeights

if TYPE_CHECKING:  # PyTorch takes seconds to load
    from parallel_nst.networks.backbones.base import Backbone
    from parallel_nst.networks.weights.states import State

TORCHVISION = "https://download.pytorch.org/models/"
BUNDLED = Path(__file__).parents[1] / "weights"  # what comes with the package


@dataclass(frozen=True)
class BackboneEntry:
    """A backbone by name.

    build: from canonical weights. layers: the choice when a recipe makes none.
    file: name at the public address, whose eight digits are the beginning of the file's SHA-256; None: in the package.
    """

    build: Callable[[State], Backbone]
    layers: LayerWeights
    file: str | None = None

    @property
    def address(self) -> str:
        return f"{TORCHVISION}{self.file}"


def later(module: str, builder: str) -> Callable[[State], Backbone]:
    """A function of a module beside this one, which is imported when it is called."""

    def build(state: State) -> Backbone:
        backbone: Backbone = resolve_name(f"{__package__}.{module}:{builder}")(state)
        return backbone

    return build


def falling(ratio: float) -> dict[str, float]:
    """Weights of relu1_1 to relu5_1, each the ratio's share of the one before. What lies deep sees most of a painting
    at the coarse scales: given as much weight as the others, it paints the painting's face into a sky."""
    return {f"relu{block}_1": ratio ** (5 - block) for block in range(1, 6)}


def equal(*names: str) -> dict[str, float]:
    """The same weight for each layer."""
    return dict.fromkeys(names, 1.0)


# The layers of Gatys, Ecker, Bethge 2016, section 2, with the weights of Crowson's style-transfer-pytorch
VGG_LAYERS = LayerWeights(style=falling(4.0), content=equal("relu4_2"))
BACKBONES: dict[str, BackboneEntry] = {
    "embedded": BackboneEntry(
        later("embedded", "build_embedded"),
        LayerWeights(style=falling(2.0), content=equal("relu3_3")),
    ),
    "vgg16": BackboneEntry(later("vgg", "build_vgg16"), VGG_LAYERS, "vgg16-397923af.pth"),
    "vgg19": BackboneEntry(later("vgg", "build_vgg19"), VGG_LAYERS, "vgg19-dcbb9e9d.pth"),
    "resnet50": BackboneEntry(
        later("resnet", "build_resnet50"),
        LayerWeights(
            style=equal("relu1", "conv2_block3", "conv3_block1", "conv4_block1", "conv5_block1"),
            content=equal("conv3_block4"),
        ),
        "resnet50-0676ba61.pth",
    ),
    "squeezenet": BackboneEntry(
        later("squeezenet", "build_squeezenet"),
        LayerWeights(style=equal("relu1", "fire3", "fire5", "fire7", "fire9"), content=equal("fire5")),
        "squeezenet1_0-b66bff10.pth",
    ),
}


def backbone_entry(name: str) -> BackboneEntry:
    """The entry of a backbone; BadInput names those there are."""
    if name not in BACKBONES:
        raise BadInput(f"unknown backbone {name!r}; known: {', '.join(BACKBONES)}")
    return BACKBONES[name]


def weights_file(name: str) -> Path:
    """The file of a backbone's weights: in the package, or in the cache folder, fetched on first use and used only when
    its SHA-256 agrees. BadInput for an unknown name, BadWeights where it cannot be fetched."""
    entry = backbone_entry(name)
    if entry.file is None:
        return BUNDLED / f"{name}.safetensors"
    path = cache_folder() / entry.file
    digits = entry.file.rsplit("-", 1)[1].split(".")[0]
    advice = (
        f"fetch that file where there is a network and pass it with --weights FILE or put it at {path}, or use "
        "--backbone embedded"
    )
    return fetched(name, entry.address, path, digits, advice)
