"""The optimiser that a recipe names."""

from __future__ import annotations

from parallel_nst.painting.gatys.half_precision import UNDIVIDED, Spread
from parallel_nst.painting.gatys.optimizers.adam import adam
from parallel_nst.painting.gatys.optimizers.averaging import averaging
from parallel_nst.painting.gatys.optimizers.base import Optimizer
from parallel_nst.painting.gatys.optimizers.lbfgs import lbfgs
from parallel_nst.painting.gatys.preconditioner import Filter, broadened
from parallel_nst.recipe import Recipe


def make_optimizer(recipe: Recipe, spread: Spread = UNDIVIDED, through: Filter = broadened) -> Optimizer:
    """The optimiser that a recipe names, for an image that is spread like this. through: what its gradients and moves
    are filtered by."""
    if recipe.optimizer == "lbfgs":
        steps = lbfgs(recipe.history, spread=spread, through=through)
    else:
        steps = adam(recipe.learning_rate, fall=recipe.learning_rate_decay, spread=spread, through=through)
    return averaging(steps, recipe.average) if recipe.average else steps
