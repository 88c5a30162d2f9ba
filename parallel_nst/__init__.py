"""Parallel and distributed neural style transfer.

recipe      every knob of one stylisation
errors      what goes wrong, in one line
files/      pictures and their containers; files that are whole or not there
networks/   backbones, generators, discriminators, their weights and what they cost
workers/    workers, tasks and the pools that run them: here, in threads, on Ray
painting/   a picture from coarse to fine, whole or in tiles: Gatys' method and generators
training/   training of generators and of the embedded backbone
jobs/       from files to files: a picture, a folder, a comparison, a training
cli/        the command `pnst`

Each imports only from those above it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parallel_nst.files.images import Picture as Picture
    from parallel_nst.files.images import read_image as read_image
    from parallel_nst.files.images import write_image as write_image
    from parallel_nst.painting.stylize import Stylised as Stylised
    from parallel_nst.recipe import LayerWeights as LayerWeights
    from parallel_nst.recipe import Recipe as Recipe
    from parallel_nst.recipe import TilingSpec as TilingSpec
    from parallel_nst.workers.opening import open_pool as open_pool

_HOME = {
    "LayerWeights": "recipe",
    "Picture": "files.images",
    "Recipe": "recipe",
    "Stylised": "painting.stylize",
    "TilingSpec": "recipe",
    "open_pool": "workers.opening",
    "read_image": "files.images",
    "write_image": "files.images",
}
__all__ = [*sorted(_HOME)]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load a public name's module when it is first asked for, so that importing the package stays quick."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
