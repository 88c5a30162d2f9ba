"""The pictures that a stylisation is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from parallel_nst.errors import BadInput
from parallel_nst.files.images import Picture
from parallel_nst.painting.color import recoloured
from parallel_nst.painting.masks import check_mask
from parallel_nst.recipe import INITS, Recipe


@dataclass(frozen=True, eq=False)
class SourcePictures:
    """content: what is painted. styles: in whose manner, at least one. start: what the coarsest scale begins with where
    the recipe's `init` names a picture. masks: (H, W) in [0, 1], one for each style, where each has a region of its own
    (see `masks`)."""

    content: Picture
    styles: Sequence[Picture]
    start: Picture | None = None
    masks: Sequence[NDArray[np.float32]] = ()

    @property
    def style(self) -> Picture:
        """The first style, whose size decides where one size is asked for."""
        return self.styles[0]

    def prepared(self, recipe: Recipe) -> SourcePictures:
        """Held against the recipe (BadInput where they do not fit), the styles in the content's colours if it wants
        that."""
        check_sources(self, recipe)
        if recipe.preserve_color != "histogram":
            return self
        return replace(self, styles=[recoloured(style, self.content) for style in self.styles])


def check_sources(sources: SourcePictures, recipe: Recipe) -> None:
    """BadInput, in one line, for pictures that a recipe cannot be used with."""
    weights, count = recipe.style_weights, len(sources.styles)
    if weights and len(weights) != count:
        raise BadInput(f"style_weights has {len(weights)} numbers for {count} style pictures; give one for each")
    check_masks(sources, recipe)
    if recipe.init not in INITS and sources.start is None:
        raise BadInput(f"init is {recipe.init!r}, a picture that was not read; give {', '.join(INITS)} here")


def check_masks(sources: SourcePictures, recipe: Recipe) -> None:
    """BadInput, in one line, for masks that these styles cannot be given regions by."""
    masks, styles = len(sources.masks), len(sources.styles)
    if not masks:
        return
    if masks != styles:
        raise BadInput(f"masks are {masks} for {styles} style pictures; give one mask for each style, or none")
    if recipe.style_weight == 0:
        raise BadInput("masks have no effect with style_weight 0; give it a value above 0, or leave them out")
    for number, mask in enumerate(sources.masks, 1):
        check_mask(f"mask {number}", mask, sources.content.size)
