"""Tiny networks for tests: weights are drawn, nothing is learnt."""

from dataclasses import replace

import torch

from parallel_nst.networks.backbones.embedded import Embedded
from parallel_nst.painting.resolved import resolve
from parallel_nst.recipe import LayerWeights, Recipe

WIDTHS = ((4, 4), (6, 6), (8,))
LAYERS = LayerWeights(style={"relu1_1": 1.0, "relu2_1": 1.0, "relu3_1": 1.0}, content={"relu2_2": 1.0})


def tiny_state(seed=0, widths=WIDTHS):
    """Weights of a small embedded backbone, scaled so that features keep their size from layer to layer."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, value in Embedded(widths).state_dict().items():
        scale = (2 / value[0].numel()) ** 0.5 if value.dim() == 4 else 0.1
        state[key] = torch.randn(value.shape, generator=generator) * scale
    return state


def tiny_backbone(dtype=torch.float64):
    backbone = Embedded(WIDTHS)
    backbone.load_state_dict(tiny_state())
    return backbone.requires_grad_(False).to(dtype)


def tiny_resolved(recipe=None, layers=LAYERS):
    """A recipe, brought together with this network and these layers."""
    return resolve(replace(recipe or Recipe(), layers=layers), tiny_backbone())
