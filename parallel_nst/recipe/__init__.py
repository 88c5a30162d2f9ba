"""Every setting of one stylisation, and how settings describe themselves.

records: `Recipe` and its parts. knobs: what a field says of itself (help, bounds, place on a help page), for these
records and for those of the jobs and the trainings. texts: settings out of what people type.
"""

from parallel_nst.recipe.records import (
    INITS,
    Device,
    Dtype,
    LayerWeights,
    LossUnits,
    Mode,
    Optimizer,
    Pooling,
    PreserveColor,
    Recipe,
    StyleLoss,
    TileTargets,
    TilingSpec,
    scale_sizes,
    scale_steps,
)

__all__ = [
    "INITS",
    "Device",
    "Dtype",
    "LayerWeights",
    "LossUnits",
    "Mode",
    "Optimizer",
    "Pooling",
    "PreserveColor",
    "Recipe",
    "StyleLoss",
    "TileTargets",
    "TilingSpec",
    "scale_sizes",
    "scale_steps",
]
