"""Weights: where each backbone's come from, reading them without running anything that is in the file, and building.

Reading accepts safetensors and what `torch.load(weights_only=True)` accepts; nothing is ever unpickled but tensors and
plain containers.
"""

from __future__ import annotations

import http.client
import os
import shutil
import urllib.request
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from parallel_nst.files.digests import file_digest
from parallel_nst.files.whole_files import replacing, write_whole
from parallel_nst.networks.backbones.base import VGG, VGG16_WIDTHS, VGG19_WIDTHS, Backbone, Embedded, ResNet, SqueezeNet
from parallel_nst.recipe import LayerWeights

State = Mapping[str, Tensor]
TORCHVISION = "https://download.pytorch.org/models/"
BUNDLED = Path(__file__).parents[1] / "weights"  # what comes with the package
SCALE_SUFFIX = ".scale"  # beside an 8-bit weight: its step per output channel


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


def build_embedded(state: State) -> Backbone:
    widths = Embedded.widths_of(state)
    if not widths or not all(widths):
        raise ValueError("key block1.conv1.weight is missing")
    return loaded(Embedded(widths), state)


def build_vgg16(state: State) -> Backbone:
    return loaded(VGG(VGG16_WIDTHS), features_only(state))


def build_vgg19(state: State) -> Backbone:
    return loaded(VGG(VGG19_WIDTHS), features_only(state))


def build_resnet50(state: State) -> Backbone:
    backbone = ResNet()
    loaded(backbone, features_only(state))
    return backbone.fold()


def build_squeezenet(state: State) -> Backbone:
    return loaded(SqueezeNet(), features_only(state))


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
        build_embedded,
        LayerWeights(style=falling(2.0), content=equal("relu3_3")),
    ),
    "vgg16": BackboneEntry(build_vgg16, VGG_LAYERS, "vgg16-397923af.pth"),
    "vgg19": BackboneEntry(build_vgg19, VGG_LAYERS, "vgg19-dcbb9e9d.pth"),
    "resnet50": BackboneEntry(
        build_resnet50,
        LayerWeights(
            style=equal("relu1", "conv2_block3", "conv3_block1", "conv4_block1", "conv5_block1"),
            content=equal("conv3_block4"),
        ),
        "resnet50-0676ba61.pth",
    ),
    "squeezenet": BackboneEntry(
        build_squeezenet,
        LayerWeights(style=equal("relu1", "fire3", "fire5", "fire7", "fire9"), content=equal("fire5")),
        "squeezenet1_0-b66bff10.pth",
    ),
}


def backbone_entry(name: str) -> BackboneEntry:
    """The entry of a backbone; ValueError names those there are."""
    if name not in BACKBONES:
        raise ValueError(f"unknown backbone {name!r}; known: {', '.join(BACKBONES)}")
    return BACKBONES[name]


def load_weights(name: str, path: Path | None = None) -> State:
    """Weights of a backbone: from `path`, from the package, from the cache folder, or downloaded into it."""
    entry = backbone_entry(name)
    if path is None:
        path = (
            Path(__file__).parents[1] / "weights" / f"{name}.safetensors" if entry.file is None else cached(name, entry)
        )
    state = read_tensors(path)
    try:
        entry.build(state)
    except ValueError as error:
        raise ValueError(f"{path} does not hold the weights of {name}: {error}") from None
    return state


def build_backbone(name: str, state: State) -> Backbone:
    """A backbone that computes: frozen, in evaluation mode."""
    return backbone_entry(name).build(state).requires_grad_(False).eval()


def loaded(backbone: Backbone, state: State) -> Backbone:
    """`backbone` with these weights; ValueError, in one line, where keys or shapes differ."""
    wanted = without_counts(backbone.state_dict())
    for key, value in wanted.items():
        if key not in state:
            raise ValueError(f"key {key} is missing")
        if state[key].shape != value.shape:
            raise ValueError(f"{key} has shape {tuple(state[key].shape)} instead of {tuple(value.shape)}")
    if extra := sorted(set(without_counts(state)) - set(wanted)):
        raise ValueError(f"key {extra[0]} is not known")
    backbone.load_state_dict(dict(state), strict=False)  # but for the counts
    return backbone


def without_counts(state: State) -> State:
    """Without the number of batches that a normalisation has seen: not every file has it, and nothing depends on it."""
    return {key: value for key, value in state.items() if not key.endswith(".num_batches_tracked")}


def features_only(state: State) -> State:
    """Without the classifier, which style transfer has no use for."""
    return {key: value for key, value in state.items() if not key.startswith(("classifier.", "fc."))}


def read_tensors(path: Path) -> State:
    """Tensors by key, in float32, from a safetensors or PyTorch file; 8-bit weights are multiplied by their scales.

    ValueError, in one line, for what is neither or is damaged.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give a file of weights")
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise ValueError(f"{path} is empty; give a file of weights")
    if head.lstrip()[:1] == b"<" and head[8:9] != b"{":  # safetensors may begin so: with the length of its header
        raise ValueError(f"{path} is a web page, not weights; download the file itself")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what is not a checkpoint; the error below says it
            state = load_file(path) if head[8:9] == b"{" else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of any kind: the bytes lead the readers wherever they like
        reason = (str(error).strip().splitlines() or [""])[0][:120] if not isinstance(error, LookupError) else ""
        raise ValueError(
            f"{path} cannot be read as weights; give a safetensors file or a PyTorch state dict"
            f"{f' ({reason})' if reason else ''}"
        ) from None
    return dequantised(tensors_of(state, path))


def tensors_of(state: object, path: Path) -> dict[str, Tensor]:
    """The state dict in whatever `torch.load` gave; ValueError when there is none."""
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not (isinstance(state, Mapping) and state and all(isinstance(value, Tensor) for value in state.values())):
        raise ValueError(f"{path} holds no state dict (tensors by name); save the network's state_dict()")
    return dict(state)


def dequantised(state: State) -> State:
    """Float32 tensors; a key with a scale beside it is multiplied by it along its first axis."""
    plain: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.endswith(SCALE_SUFFIX):
            continue
        scale = state.get(key + SCALE_SUFFIX)
        value = value.float() if value.dtype != torch.float64 else value
        plain[key] = value if scale is None else value * scale.view(-1, *[1] * (value.dim() - 1))
    return plain


def quantised(state: State) -> dict[str, Tensor]:
    """Convolution weights in 8 bits with one float32 scale for each output channel, everything else in half
    precision."""
    small: dict[str, Tensor] = {}
    for key, value in state.items():
        if value.dim() == 4:
            scale = value.abs().amax((1, 2, 3)).clamp_min(1e-12) / 127
            small[key] = (value / scale.view(-1, 1, 1, 1)).round().to(torch.int8)
            small[key + SCALE_SUFFIX] = scale.float()
        else:
            small[key] = value.half()
    return small


def save_embedded(backbone: Backbone, path: Path, metadata: dict[str, str]) -> None:
    """Write weights in 8 bits per channel with their history in the file's metadata."""
    state = {key: value.contiguous() for key, value in quantised(backbone.state_dict()).items()}
    write_whole({path: save(state, metadata=metadata)})


def cache_folder() -> Path:
    """Where downloads are kept: $PNST_CACHE, else parallel_nst under $XDG_CACHE_HOME, else under ~/.cache."""
    if chosen := os.environ.get("PNST_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "parallel_nst"


def cached(name: str, entry: BackboneEntry) -> Path:
    """The downloaded file of a backbone, fetched on first use and used only when its SHA-256 agrees."""
    assert entry.file is not None
    path = cache_folder() / entry.file
    digits = entry.file.rsplit("-", 1)[1].split(".")[0]
    advice = (
        f"fetch that file where there is a network and pass it with --weights FILE or put it at {path}, or use "
        "--backbone embedded"
    )
    return fetched(name, entry.address, path, digits, advice)


def fetched(name: str, address: str, path: Path, digits: str, advice: str) -> Path:
    """`path`, downloaded from `address` if it is not there. ValueError when the file's SHA-256 does not begin with
    `digits`, and, with the `name` of whose weights these are and `advice`, where there is no network."""
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        download(address, path, digits)
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        reason = " ".join(str(getattr(error, "reason", None) or error).split())
        raise ValueError(f"no weights of {name} here and {address} cannot be downloaded ({reason}); {advice}") from None
    return path


def download(address: str, path: Path, digits: str) -> None:
    """Fetch `address` to `path`, whole or not at all; ValueError when its SHA-256 does not begin with `digits`."""
    with replacing(path) as aside:
        with aside.open("xb") as file, urllib.request.urlopen(address, timeout=30) as response:
            shutil.copyfileobj(response, file)
        if not (digest := file_digest(aside)).startswith(digits):
            raise ValueError(f"{address} has SHA-256 {digest}, which does not begin with {digits}; try again")
