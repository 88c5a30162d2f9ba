"""Parallel and distributed neural style transfer.

recipe     every knob of one stylisation
images     pictures and files
tiles      cutting and blending
gatys      Gatys' optimisation of one image
workers    tasks and the pools that run them
stylize    a picture from coarse to fine, whole or in tiles
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parallel_nst.images import Picture as Picture
    from parallel_nst.images import read_image as read_image
    from parallel_nst.images import write_image as write_image
    from parallel_nst.pools import open_pool as open_pool
    from parallel_nst.recipe import LayerWeights as LayerWeights
    from parallel_nst.recipe import Recipe as Recipe
    from parallel_nst.recipe import TilingSpec as TilingSpec
    from parallel_nst.stylize import Stylised as Stylised

_HOME = {
    "LayerWeights": "recipe",
    "Picture": "images",
    "Recipe": "recipe",
    "Stylised": "stylize",
    "TilingSpec": "recipe",
    "open_pool": "pools",
    "read_image": "images",
    "write_image": "images",
}
__all__ = [*sorted(_HOME)]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load a public name's module when it is first asked for, so that importing the package stays quick."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
