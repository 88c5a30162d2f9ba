"""Every knob of one stylisation, as frozen records that travel to workers, into TOML and into the picture's metadata.

Defaults, help texts and allowed values stand here and nowhere else: the command line reads them from these fields, as
it does from the records of the jobs (`jobs.requests`) and of the trainings (`training.settings`).
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

import tomli_w

from parallel_nst.errors import BadInput
from parallel_nst.recipe.knobs import check_bounds, is_number, knob
from parallel_nst.recipe.texts import parse_grid, parse_layers, parse_numbers, parse_size

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Optimizer = Literal["lbfgs", "adam"]
StyleLoss = Literal["gram", "w2"]
LossUnits = Literal["relative", "absolute"]
Pooling = Literal["auto", "max", "avg"]
PreserveColor = Literal["off", "luminance", "histogram"]
Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16", "float64"]
Mode = Literal["independent", "exact"]
TileTargets = Literal["own", "plain"]
INITS = ("content", "noise", "style")  # what a picture can begin as; a picture's file is another
SMALLEST_SCALE = 128  # px, longest side; below it no layer of a backbone sees more than a few positions


def checked_weights(weights: Any) -> tuple[float, ...]:
    """Weights of pictures from whatever a file holds; BadInput where they are none."""
    listed = tuple(weights) if isinstance(weights, (list, tuple)) else (weights,)
    if not all(is_number(weight) and weight >= 0 for weight in listed):
        raise BadInput(f"style_weights is {weights!r}; give numbers of at least 0, one for each style picture")
    if listed and not any(listed):
        raise BadInput("style_weights has only zeros; give at least one style picture a weight above 0")
    return tuple(float(weight) for weight in listed)


@dataclass(frozen=True)
class LayerWeights:
    """Weight of each layer's loss, by layer name. Empty: the backbone's own choice. Weights are relative: each loss is
    the weighted mean over its layers."""

    style: Mapping[str, float] = knob(
        dict,
        "layers of the style loss, such as relu1_1=1,relu3_1=0.5",
        flags=("--style-layers",),
        metavar="LAYERS",
        read=parse_layers,
        shown="the backbone's",
    )
    content: Mapping[str, float] = knob(
        dict,
        "layers of the content loss",
        flags=("--content-layers",),
        metavar="LAYERS",
        read=parse_layers,
        shown="the backbone's",
    )

    def __post_init__(self) -> None:
        for kind, weights in (("style", self.style), ("content", self.content)):
            for name, weight in weights.items():
                if not (is_number(weight) and weight >= 0):
                    raise BadInput(f"layers.{kind}.{name} is {weight!r}; a layer's weight is a number of at least 0")
            if weights and not any(weights.values()):
                raise BadInput(f"layers.{kind} has only zeros; give at least one layer a weight above 0")


@dataclass(frozen=True)
class TilingSpec:
    """How the finer scales are cut."""

    mode: Mode = knob(
        "exact",
        "exact: one objective over the whole picture; independent: each tile for itself, then blended",
        "Tiles",
        common=True,
    )
    tiles: str = knob(
        "auto", "number of tiles, or rows x columns such as 2x3; auto: by workers and memory", "Tiles", common=True
    )
    overlap: int = knob(
        32,
        "width in px that two neighbouring independent tiles share and blend over",
        "Tiles",
        least=0,
        only_with=("mode", ("independent",)),
    )
    whole: int = knob(
        512,
        "scales up to this longest side in px run in one piece, larger ones where that is sooner; not the finest if "
        "--tiles is given",
        "Tiles",
        least=0,
    )
    targets: TileTargets = knob(
        "own",
        "what independent tiles aim at; own: their share of what the picture lacks, plain: the style itself",
        "Tiles",
        only_with=("mode", ("independent",)),
    )
    sync_every: int = knob(
        0,
        "independent tiles exchange targets and overlaps after so many steps; 0: once a scale",
        "Tiles",
        least=0,
        only_with=("mode", ("independent",)),
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.tiles != "auto":
            parse_grid(self.tiles)


@dataclass(frozen=True)
class Recipe:
    """One stylisation: what to measure, what to weigh, how far to go."""

    size: int = knob(
        1024,
        "longest side of the generated image in px; full (0 in a file): the content's own",
        "Pictures",
        least=0,
        metavar="PX|full",
        read=parse_size,
        common=True,
    )
    style_size: int = knob(
        0,
        "longest side of the style image in px at the finest scale; 0: as --size, or its own if less",
        "Pictures",
        least=0,
    )
    style_scale: float = knob(
        1.0, "factor on the size of the style image: above 1 strokes grow broader, below 1 finer", "Pictures", above=0
    )
    style_weights: tuple[float, ...] = knob(
        (),
        "weights of several --style, such as 0.7,0.3",
        "Pictures",
        metavar="NUMBERS",
        read=parse_numbers,
        shown="equal",
    )
    preserve_color: PreserveColor = knob(
        "off",
        "keep the photograph's colours; luminance: only light and dark are painted, histogram: the style is given its "
        "colours first",
    )
    steps: int = knob(16, "optimiser steps at the finest scale", "Steps", least=1, common=True)
    step_growth: float = knob(
        0.3, "each coarser scale gets this share of --steps more than the next finer", "Steps", least=0
    )
    scales: int = knob(
        0, "number of scales, each the square root of two coarser; 0: down to about 128 px", "Steps", least=0, most=40
    )
    backbone: str = knob("embedded", "network that measures content and style")
    pooling: Pooling = knob("auto", "how the backbone halves its features; auto: as it was trained")
    style_weight: float = knob(1.0, "weight of the style loss", least=0)
    style_loss: StyleLoss = knob("w2", "w2: means and covariances, by their Wasserstein distance; gram: Gram matrices")
    loss_units: LossUnits = knob(
        "relative",
        "of losses; relative: the features of the painting and of the photograph themselves, a mean over layers; "
        "absolute: mean squares of features as they are, a sum over layers, as in papers",
    )
    content_weight: float = knob(
        0.03, "weight of the content loss: higher keeps more of the photograph", least=0, common=True
    )
    tv_weight: float = knob(0.0, "weight of the total variation loss (smoothness)", least=0)
    optimizer: Optimizer = knob("lbfgs", "how each step is chosen", "Steps")
    learning_rate: float = knob(
        0.02,
        "step size of adam in units of the pixel range; lbfgs scales itself",
        "Steps",
        above=0,
        only_with=("optimizer", ("adam",)),
    )
    learning_rate_decay: float = knob(
        1.0,
        "factor by which the step size of adam falls every 100 steps",
        "Steps",
        above=0,
        most=1,
        only_with=("optimizer", ("adam",)),
    )
    history: int = knob(
        5,
        "pairs that lbfgs remembers; each costs one copy of the image",
        "Steps",
        least=1,
        only_with=("optimizer", ("lbfgs",)),
    )
    average: float = knob(
        0.0,
        "take the running mean of the pictures on the way, each new one with the rest of this share, such as 0.99; "
        "0: the last picture",
        "Steps",
        least=0,
        most=0.9999,
    )
    init: str = knob(
        "content",
        "what the coarsest scale starts from; a file: of any picture",
        "Steps",
        metavar=f"{'|'.join(INITS)}|FILE",
    )
    seed: int = knob(0, "seed of the noise of --init noise", "Steps", least=0, only_with=("init", ("noise",)))
    device: Device = knob("auto", "where the networks run", "Workers")
    dtype: Dtype = knob("auto", "precision of the networks; auto: bfloat16 where the hardware has it", "Workers")
    layers: LayerWeights = field(default_factory=LayerWeights)
    tiling: TilingSpec = field(default_factory=TilingSpec)

    def __post_init__(self) -> None:
        check_bounds(self)
        object.__setattr__(self, "style_weights", checked_weights(self.style_weights))
        if not self.init:
            raise BadInput(f"init is empty; give {', '.join(INITS)} or the file of a picture")
        if self.style_weight == 0 and self.content_weight == 0:
            raise BadInput("style_weight and content_weight are both 0; give at least one a value above 0")

    def digest(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the settings: equal recipes, equal digests."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def to_toml(self) -> str:
        """All settings as TOML, readable by `from_toml`."""
        return tomli_w.dumps(asdict(self))

    @classmethod
    def from_toml(cls, text: str) -> Recipe:
        """Settings from TOML; those left out keep their defaults. ValueError for anything unknown or out of range."""
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise BadInput(f"not valid TOML: {error}") from None
        recipe: Recipe = from_table(cls, table, "")
        return recipe

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Read a TOML file; errors name the file."""
        try:
            return cls.from_toml(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            raise BadInput(f"{path} is not a text file; give settings as TOML in UTF-8") from None
        except ValueError as error:
            raise BadInput(f"{path}: {error}") from None


def scale_sizes(longest: int, scales: int) -> list[int]:
    """Longest sides in px, coarse to fine, each the square root of two of the one before; the last is `longest`.

    scales: how many; 0 takes as many as keep the coarsest at SMALLEST_SCALE or just above (at least one).
    """
    if scales == 0:
        scales = 1 + max(0, math.floor(2 * math.log2(longest / SMALLEST_SCALE) + 1e-9))
    return [max(1, round(longest / 2 ** (i / 2))) for i in reversed(range(scales))]


def scale_steps(steps: int, growth: float, scales: int) -> list[int]:
    """Steps of each scale, coarse to fine; the last is `steps`."""
    return [round(steps * (1 + growth * i)) for i in reversed(range(scales))]


def from_table(cls: Any, table: Mapping[str, Any], path: str) -> Any:
    """Build a record from a TOML table; nested records from nested tables; unknown keys are refused with the known
    ones named."""
    known = {spec.name: spec for spec in fields(cls)}
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            raise BadInput(f"unknown key {path + key!r}; known keys: {', '.join(known)}")
        nested = hints[key] in (LayerWeights, TilingSpec)
        if (nested or known[key].default_factory is not MISSING) and not isinstance(value, Mapping):
            raise BadInput(f"{path + key} is {value!r}; give a table [{path + key}]")
        values[key] = from_table(hints[key], value, f"{path}{key}.") if nested else value
    return cls(**values)
