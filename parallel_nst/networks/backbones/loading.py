"""Weights into backbones."""

from __future__ import annotations

from pathlib import Path

from parallel_nst.errors import BadWeights
from parallel_nst.files.digests import file_digest
from parallel_nst.networks.backbones.base import Backbone
from parallel_nst.networks.backbones.caffe import DIGESTS, from_caffe
from parallel_nst.networks.backbones.registry import backbone_entry, weights_file
from parallel_nst.networks.backbones.vgg import VGG16_WIDTHS, VGG19_WIDTHS
from parallel_nst.networks.weights.states import State, read_state
from parallel_nst.recipe import Pooling

VGGS = {"vgg16": VGG16_WIDTHS, "vgg19": VGG19_WIDTHS, "vgg19-caffe": VGG19_WIDTHS}


def load_weights(name: str, path: Path | None = None) -> State:
    """Weights of a backbone: from `path`, from the package, from the cache folder, or downloaded into it. BadWeights,
    in one line, for a file without them, and for weights that are not finite."""
    entry = backbone_entry(name)
    path = path or weights_file(name)
    state: State = read_state(path)
    if name in VGGS and (digest := file_digest(path)).startswith(DIGESTS):
        state = from_caffe(state, VGGS[name], digest)
    try:
        entry.build(state)
    except BadWeights as error:
        raise BadWeights(f"{path} does not hold the weights of {name}: {error}") from None
    return state


def build_backbone(name: str, state: State, pooling: Pooling = "auto") -> Backbone:
    """A backbone that computes: frozen, in evaluation mode. pooling: see `Backbone.pool_by`."""
    backbone = backbone_entry(name).build(state).requires_grad_(False).eval()
    backbone.pool_by(pooling)
    return backbone
