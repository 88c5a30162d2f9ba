"""What all runs of a comparison have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from parallel_nst.files.images import Picture
from parallel_nst.files.size import Size
from parallel_nst.networks.weights.states import State
from parallel_nst.painting.tiles.geometry import Tile
from parallel_nst.recipe import Recipe


@dataclass(frozen=True)
class Scene:
    """What all runs have in common. tiles: of the finest scale, in the picture's coordinates. slots: cores, or GPUs."""

    content: Picture
    style: Picture
    recipe: Recipe
    weights: State
    device: str
    dtype: str
    slots: int
    size: Size
    tiles: Sequence[Tile]
