"""Features: a backbone read at the layers that a recipe names."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from parallel_nst.files.size import Size
from parallel_nst.networks.backbones.base import Backbone
from parallel_nst.painting.gatys.losses import Core
from parallel_nst.painting.resolved import ResolvedRecipe
from parallel_nst.painting.tiles.geometry import Tile
from parallel_nst.recipe import LayerWeights
from parallel_nst.workers.worker import Worker


@dataclass(frozen=True, eq=False)
class FeatureReader:
    """A backbone, read at certain layers in one precision (see `Backbone.forward`)."""

    backbone: Backbone
    layers: LayerWeights
    dtype: torch.dtype

    def read(self, image: Tensor) -> dict[str, Tensor]:
        """Features (1, C, H_l, W_l) of an image (1, 3, H, W) at all layers, by name."""
        return dict(self.backbone(image, {**self.layers.style, **self.layers.content}, self.dtype))

    @torch.no_grad()
    def read_content(self, image: Tensor) -> dict[str, Tensor]:
        """Features of the content layers alone: the targets of the content loss."""
        return dict(self.backbone(image, self.layers.content, self.dtype))

    def read_masks(self, masks: Tensor) -> dict[str, Tensor]:
        """Masks (K, H, W) of an image at the style layers (K, H_l, W_l): the mean over the px that a position stands
        for."""
        sizes = self.backbone.sizes(*masks.shape[-2:])
        return {
            name: averaged(masks, self.backbone.layers[name].stride, Size(*sizes[name])) for name in self.layers.style
        }

    def core(self, name: str, tile: Tile) -> Core:
        """The positions of a layer's features of a tile's `read` rectangle that belong to its core."""
        return tile.positions(self.backbone.layers[name].stride)


def averaged(masks: Tensor, stride: int, size: Size) -> Tensor:
    """The mean over squares of `stride` px of masks (K, H, W), for so many rows and columns: what lies beyond the last
    px is as that one is, and squares beyond the last position are left out."""
    height, width = size.height * stride, size.width * stride
    beyond = (0, max(0, width - masks.shape[2]), 0, max(0, height - masks.shape[1]))
    return functional.avg_pool2d(functional.pad(masks[None], beyond, "replicate")[..., :height, :width], stride)[0]


def reader_on(worker: Worker, resolved: ResolvedRecipe) -> FeatureReader:
    """What a recipe's features are read with on a worker."""
    return FeatureReader(
        worker.backbone(resolved.recipe.backbone, resolved.recipe.pooling), resolved.layers, worker.dtype
    )
