"""A recipe brought together with the network that it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from parallel_nst.networks.backbones.base import Backbone, Layer, deepest
from parallel_nst.networks.backbones.registry import backbone_entry
from parallel_nst.recipe import LayerWeights, Recipe


@dataclass(frozen=True)
class ResolvedRecipe:
    """A recipe with nothing left open about its network; it travels to the workers as it is.

    layers: those of the recipe, or the backbone's own where it names none. channels: of each style layer.
    deepest: the greatest stride and margin among the layers: what a halo must cover.
    """

    recipe: Recipe
    layers: LayerWeights
    channels: Mapping[str, int]
    deepest: Layer


def resolve(recipe: Recipe, backbone: Backbone) -> ResolvedRecipe:
    """BadInput for a layer that the backbone does not have."""
    own = backbone_entry(recipe.backbone).layers
    layers = LayerWeights(recipe.layers.style or own.style, recipe.layers.content or own.content)
    names = {**layers.style, **layers.content}
    backbone.check_layers(names)
    channels = {name: backbone.layers[name].channels for name in layers.style}
    return ResolvedRecipe(recipe, layers, channels, deepest(backbone, names))
