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

Each imports only from those above it. What a program needs can be imported from here:

    picture = stylize(read_image("photo.jpg"), read_image("painting.jpg"), Recipe(size=512)).picture

`open_pool` keeps workers for several pictures; every error that a user can do something about is a `PnstError`.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Threads that wait for each other at the end of every layer are to spin for a fraction of a millisecond, then sleep. On
# two idle cores to sleep at once costs 40 % of a step of 1024 px and 80 % of one of 148 px, for waking up takes long.
# Where neighbours are at work, to spin as long as OpenMP does by itself takes eight times as long as to sleep at once
# and more, this 1.5 to 1.7 times. It is read when PyTorch's OpenMP is loaded, in this process or in a worker's: GCC's,
# which PyTorch has on Linux, knows the number; others sleep at once.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "passive"
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")

if TYPE_CHECKING:
    from parallel_nst.errors import BadInput as BadInput
    from parallel_nst.errors import BadWeights as BadWeights
    from parallel_nst.errors import ClusterUnavailable as ClusterUnavailable
    from parallel_nst.errors import Diverged as Diverged
    from parallel_nst.errors import OutOfMemory as OutOfMemory
    from parallel_nst.errors import PnstError as PnstError
    from parallel_nst.errors import WorkerLost as WorkerLost
    from parallel_nst.files.images import Picture as Picture
    from parallel_nst.files.images import read_image as read_image
    from parallel_nst.files.images import write_image as write_image
    from parallel_nst.jobs.picture import stylize as stylize
    from parallel_nst.painting.scale_run import RunStatus as RunStatus
    from parallel_nst.painting.stylize import Stylised as Stylised
    from parallel_nst.recipe import LayerWeights as LayerWeights
    from parallel_nst.recipe import Recipe as Recipe
    from parallel_nst.recipe import TilingSpec as TilingSpec
    from parallel_nst.workers.crew import Crew as Crew
    from parallel_nst.workers.opening import open_pool as open_pool
    from parallel_nst.workers.pool import Pool as Pool

_HOME = {
    "BadInput": "errors",
    "BadWeights": "errors",
    "ClusterUnavailable": "errors",
    "Crew": "workers.crew",
    "Diverged": "errors",
    "LayerWeights": "recipe",
    "OutOfMemory": "errors",
    "Picture": "files.images",
    "PnstError": "errors",
    "Pool": "workers.pool",
    "Recipe": "recipe",
    "RunStatus": "painting.scale_run",
    "Stylised": "painting.stylize",
    "TilingSpec": "recipe",
    "WorkerLost": "errors",
    "open_pool": "workers.opening",
    "read_image": "files.images",
    "stylize": "jobs.picture",
    "write_image": "files.images",
}
__all__ = [*sorted(_HOME)]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load a public name's module when it is first asked for, so that importing the package stays quick."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
