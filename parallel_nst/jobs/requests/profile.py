"""What is asked of a profile of networks."""

from __future__ import annotations

from dataclasses import dataclass

from parallel_nst.recipe.knobs import REQUIRED, check_bounds, knob


@dataclass(frozen=True)
class ProfileJob:
    """Which networks to measure, on a square of how many px."""

    names: tuple[str, ...] = knob(
        REQUIRED,
        "backbones, discriminators, types of generators (such as cyclegan-resnet), names or files of generators",
        "Pictures",
        metavar="NAME...",
        argument=True,
    )
    size: int = knob(256, "side of the picture in px", "Pictures", least=32, most=8192)

    def __post_init__(self) -> None:
        check_bounds(self)
