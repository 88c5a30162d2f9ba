"""What an optimiser is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor


class Optimizer(NamedTuple):
    """`init(image) -> state` and `step(state, image, loss, gradient) -> (next image, state)`."""

    init: Callable[[Tensor], Any]
    step: Callable[[Any, Tensor, float, Tensor], tuple[Tensor, Any]]
