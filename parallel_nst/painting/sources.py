"""The pictures that a stylisation is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from parallel_nst.errors import BadInput
from parallel_nst.files.images import Picture
from parallel_nst.painting.color import recoloured
from parallel_nst.recipe import INITS, Recipe


@dataclass(frozen=True, eq=False)
class SourcePictures:
    """content: what is painted. styles: in whose manner, at least one. start: what the coarsest scale begins with where
    the recipe's `init` names a picture."""

    content: Picture
    styles: Sequence[Picture]
    start: Picture | None = None

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
    if recipe.init not in INITS and sources.start is None:
        raise BadInput(f"init is {recipe.init!r}, a picture that was not read; give {', '.join(INITS)} here")
