"""What callers ask for, brought into the records of this program, within the bounds of a server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from parallel_nst.errors import BadInput
from parallel_nst.files.size import Size
from parallel_nst.recipe import Recipe
from parallel_nst.recipe.records import from_table

FREE = (
    "size style_size steps step_growth scales style_weight style_loss content_weight tv_weight optimizer "
    "learning_rate history init seed"
).split()  # of a recipe, what a caller may set; network, device, precision and tiles are the server's own
MOST = {"steps": 1000, "step_growth": 10, "history": 20}
GENTLE, STRONG = 0.15, 0.006  # content weights of the strengths 0 and 1; half way lies the default of 0.03
LONGEST_TEXT = 10_000  # characters
MODEL_MARK = "# pnst serve, a generator: "


@dataclass(frozen=True)
class PaintingRequest:
    """Gatys' optimisation. size: px of the longer side; 0: the content's own. strength: of the style, 0 to 1. style:
    what the painting is called. recipe: a JSON object of more settings; they win."""

    size: int
    strength: float
    style: str
    recipe: str = ""

    def settings(self, content: Size, most: int) -> dict[str, Any]:
        """As they are stored. content: its size. most: px of the longer side. BadInput for what is not allowed."""
        recipe = recipe_of({"size": self.size, "content_weight": weight_of(self.strength)} | recipe_table(self.recipe))
        longest = recipe.size or max(content)
        check_size(longest, most)
        free = {name: value for name, value in asdict(replace(recipe, size=longest)).items() if name in FREE}
        return {"style": self.style, "strength": self.strength, "recipe": free}


@dataclass(frozen=True)
class ModelRequest:
    """A generator. size: px of the longer side; 0: the content's own. strength: of a style picture, 0 to 1."""

    model: str
    size: int
    strength: float
    style: str

    def settings(self, content: Size, most: int) -> dict[str, Any]:
        """As `PaintingRequest.settings`."""
        longest = self.size or max(content)
        check_size(longest, most)
        return {"model": self.model, "size": longest, "strength": self.strength, "style": self.style}


def weight_of(strength: float) -> float:
    """A strength from 0 to 1 as weight of the content, from much to little in equal ratios."""
    return float(f"{GENTLE * (STRONG / GENTLE) ** strength:.4g}")


def recipe_table(text: str) -> dict[str, Any]:
    """The settings of a JSON object, of those that a caller may set. BadInput for anything else."""
    if len(text) > LONGEST_TEXT:
        raise BadInput(f"recipe has {len(text)} characters; give at most {LONGEST_TEXT}")
    try:
        table = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise BadInput(f"recipe is not valid JSON ({str(error)[:100]}); give an object of settings") from None
    if not isinstance(table, dict):
        raise BadInput("recipe is not a JSON object; give an object of settings")
    unknown = [str(name)[:40] for name in table if name not in FREE]
    if unknown:
        raise BadInput(f"recipe has {unknown[0]!r}, which cannot be set here; known: {', '.join(FREE)}")
    return table


def recipe_of(table: Mapping[str, Any]) -> Recipe:
    """A recipe of these settings. BadInput for a value that is out of bounds, of a recipe's or of a server's."""
    recipe: Recipe = from_table(Recipe, table, "recipe.")
    for name, most in MOST.items():
        if getattr(recipe, name) > most:
            raise BadInput(f"{name} is {getattr(recipe, name)}; a server does at most {most}")
    return recipe


def check_size(longest: int, most: int) -> None:
    """BadInput for more px than the server makes."""
    if longest > most:
        raise BadInput(f"size is {longest} px; this server makes at most {most} px, give a smaller size")


def stored_settings(text: str | None) -> dict[str, Any]:
    """The settings that a picture of this program's own carries, in the form in which a job is asked for. BadInput for
    a picture without."""
    if not text:
        raise BadInput("this picture carries no settings; give one that this program has painted")
    own = own_settings(text)
    if own is not None:
        return own
    recipe = Recipe.from_toml(text)
    return {"recipe": {name: value for name, value in asdict(recipe).items() if name in FREE}}


def own_settings(text: str) -> dict[str, Any] | None:
    """Of a generator's picture, see `model_text`; None for anything else."""
    if not text.startswith(MODEL_MARK):
        return None
    try:
        table = dict(json.loads(text.removeprefix(MODEL_MARK)).items())
        return {name: table[name] for name in ("model", "size", "strength", "style")}
    except (ValueError, KeyError, AttributeError):
        raise BadInput("the settings in this picture cannot be read; give another") from None


def model_text(settings: Mapping[str, Any]) -> str:
    """The settings of a generator's picture, as a comment of TOML."""
    return MODEL_MARK + json.dumps(dict(settings))
