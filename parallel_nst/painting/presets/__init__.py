"""Settings of papers, tutorials, reports and other tools, as recipe files. Each says where it comes from, and what is
other here than there. Without PyTorch."""

from __future__ import annotations

from importlib import resources

from parallel_nst.errors import BadInput
from parallel_nst.recipe import Recipe

PRESETS = (
    "gatys2016",
    "pytorch-tutorial",
    "neural-style-pt",
    "crowsonkb",
    "comparison-study",
    "ece285",
    "polito",
    "polito-resnet50",
    "parallel-nst",
    "dash-app",
)


def preset_text(name: str) -> str:
    """A preset's file; BadInput names those there are."""
    if name not in PRESETS:
        raise BadInput(f"preset is {name!r}; known: {', '.join(PRESETS)}")
    return (resources.files(__name__) / f"{name}.toml").read_text(encoding="utf-8")


def preset_recipe(name: str) -> Recipe:
    """The recipe of a preset."""
    return Recipe.from_toml(preset_text(name))
