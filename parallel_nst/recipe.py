"""Every knob of one stylisation, as frozen records that travel to workers, into TOML and into the picture's metadata.

Defaults, help texts and allowed values stand here and nowhere else: the command line reads them from these fields.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import tomli_w

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Optimizer = Literal["lbfgs", "adam"]
StyleLoss = Literal["gram", "w2"]
Init = Literal["content", "noise", "style"]
Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16", "float64"]
Mode = Literal["independent", "exact"]
TileTargets = Literal["own", "plain"]

MOST_TILES = 10_000  # along a side, and in all where only a count is given
SMALLEST_SCALE = 128  # px, longest side; below it no layer of a backbone sees more than a few positions


def knob(
    default: Any, help: str, *, least: float | None = None, above: float | None = None, most: float | None = None
) -> Any:
    """A field with its help and its bounds: `least` and `most` are allowed, `above` is not."""
    return field(default=default, metadata={"help": help, "least": least, "above": above, "most": most})


@dataclass(frozen=True)
class LayerWeights:
    """Weight of each layer's loss, by layer name. Empty: the backbone's own choice. Weights are relative: each loss is
    the weighted mean over its layers."""

    style: Mapping[str, float] = field(default_factory=dict)
    content: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind, weights in (("style", self.style), ("content", self.content)):
            for name, weight in weights.items():
                if not (is_number(weight) and weight >= 0):
                    raise ValueError(f"layers.{kind}.{name} is {weight!r}; a layer's weight is a number of at least 0")
            if weights and not any(weights.values()):
                raise ValueError(f"layers.{kind} has only zeros; give at least one layer a weight above 0")


@dataclass(frozen=True)
class TilingSpec:
    """How the finer scales are cut."""

    mode: Mode = knob(
        "exact", "exact: one objective over the whole picture; independent: each tile for itself, then blended"
    )
    tiles: str = knob("auto", "number of tiles, or rows x columns such as 2x3; auto: by workers and memory")
    overlap: int = knob(32, "width in px that two neighbouring independent tiles share and blend over", least=0)
    whole: int = knob(
        512, "scales up to this longest side in px run in one piece; not the finest if --tiles is given", least=0
    )
    targets: TileTargets = knob(
        "own", "what independent tiles aim at; own: their share of what the picture lacks, plain: the style itself"
    )
    sync_every: int = knob(
        0, "independent tiles exchange targets and overlaps after so many steps; 0: once a scale", least=0
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.tiles != "auto":
            parse_grid(self.tiles)


@dataclass(frozen=True)
class Recipe:
    """One stylisation: what to measure, what to weigh, how far to go."""

    size: int = knob(1024, "longest side of the generated image in px; full (0): the content's own", least=0)
    style_size: int = knob(
        0, "longest side of the style image in px at the finest scale; 0: as --size, or its own if less", least=0
    )
    steps: int = knob(20, "optimiser steps at the finest scale", least=1)
    step_growth: float = knob(0.3, "each coarser scale gets this share of --steps more than the next finer", least=0)
    scales: int = knob(
        0, "number of scales, each the square root of two coarser; 0: down to about 128 px", least=0, most=40
    )
    backbone: str = knob("embedded", "network that measures content and style")
    style_weight: float = knob(1.0, "weight of the style loss", least=0)
    style_loss: StyleLoss = knob("w2", "w2: means and covariances, by their Wasserstein distance; gram: Gram matrices")
    content_weight: float = knob(0.03, "weight of the content loss", least=0)
    tv_weight: float = knob(0.0, "weight of the total variation loss (smoothness)", least=0)
    optimizer: Optimizer = knob("lbfgs", "lbfgs or adam")
    learning_rate: float = knob(0.02, "step size of adam in units of the pixel range; lbfgs scales itself", above=0)
    history: int = knob(5, "pairs that lbfgs remembers; each costs one copy of the image", least=1)
    init: Init = knob("content", "what the coarsest scale starts from")
    seed: int = knob(0, "seed of the noise of --init noise", least=0)
    device: Device = knob("auto", "where the networks run")
    dtype: Dtype = knob("auto", "precision of the networks; auto: bfloat16 where the hardware has it")
    layers: LayerWeights = field(default_factory=LayerWeights)
    tiling: TilingSpec = field(default_factory=TilingSpec)

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.style_weight == 0 and self.content_weight == 0:
            raise ValueError("style_weight and content_weight are both 0; give at least one a value above 0")

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
            raise ValueError(f"not valid TOML: {error}") from None
        recipe: Recipe = from_table(cls, table, "")
        return recipe

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Read a TOML file; errors name the file."""
        try:
            return cls.from_toml(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            raise ValueError(f"{path} is not a text file; give settings as TOML in UTF-8") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


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


def parse_grid(text: str) -> tuple[int, int | None]:
    """'4' -> (4, None): a count; '2x3' -> (2, 3): rows and columns. ValueError for anything else."""
    parts = text.lower().split("x")
    if len(parts) <= 2 and all(part.isascii() and part.isdigit() and 0 < int(part) <= MOST_TILES for part in parts):
        return (int(parts[0]), int(parts[1])) if len(parts) == 2 else (int(parts[0]), None)
    raise ValueError(f"tiles is {text!r}; give a number from 1 to {MOST_TILES}, rows x columns such as 2x3, or auto")


def is_number(value: object) -> bool:
    """A finite int or float, and not a bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check_bounds(record: Any) -> None:
    """Raise ValueError, naming the field, for a value of the wrong type, outside its choices or its bounds."""
    hints = get_type_hints(type(record))
    for spec in fields(record):
        value, hint = getattr(record, spec.name), hints[spec.name]
        choices = get_args(hint)
        if choices and value not in choices:
            raise ValueError(f"{spec.name} is {value!r}; allowed: {', '.join(map(str, choices))}")
        if hint is str and not isinstance(value, str):
            raise ValueError(f"{spec.name} is {value!r}; give a text")
        if hint in (int, float):
            check_number(spec, value, whole=hint is int)


def check_number(spec: Field[Any], value: object, *, whole: bool) -> None:
    """Raise ValueError for what is no (whole) number or outside the field's bounds."""
    least, above, most = (spec.metadata[key] for key in ("least", "above", "most"))
    kind = "a whole number" if whole else "a number"
    bound = f" of at least {least:g}" if least is not None else f" above {above:g}" if above is not None else ""
    bound += f" and at most {most:g}" if most is not None else ""
    fits = is_number(value) and not (whole and not isinstance(value, int))
    if fits and isinstance(value, (int, float)):
        fits = (
            (least is None or value >= least) and (above is None or value > above) and (most is None or value <= most)
        )
    if not fits:
        raise ValueError(f"{spec.name} is {value!r}; give {kind}{bound}")


def from_table(cls: Any, table: Mapping[str, Any], path: str) -> Any:
    """Build a record from a TOML table; nested records from nested tables; unknown keys are refused with the known
    ones named."""
    known = {spec.name: spec for spec in fields(cls)}
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            raise ValueError(f"unknown key {path + key!r}; known keys: {', '.join(known)}")
        nested = hints[key] in (LayerWeights, TilingSpec)
        if (nested or known[key].default_factory is not MISSING) and not isinstance(value, Mapping):
            raise ValueError(f"{path + key} is {value!r}; give a table [{path + key}]")
        values[key] = from_table(hints[key], value, f"{path}{key}.") if nested else value
    return cls(**values)
