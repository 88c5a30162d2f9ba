"""What a sweep varies: axes of values, and the cells where they cross."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, fields, is_dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, get_type_hints

from parallel_nst.errors import BadInput
from parallel_nst.files.folders import picture_files
from parallel_nst.files.images import INPUT_SUFFIXES
from parallel_nst.jobs.requests.common import painting_of
from parallel_nst.recipe import Recipe
from parallel_nst.recipe.knobs import knob_of
from parallel_nst.recipe.texts import parse_layers

STYLE = "style"
OF_THE_POOL = ("device", "dtype")  # the same for all cells
MOST_CELLS = 10_000


@dataclass(frozen=True)
class Axis:
    """name: that of the option, without the dashes. texts: its values as they were typed; values: what they mean."""

    name: str
    texts: tuple[str, ...]
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Cell:
    """One stylisation. number: from 1; texts: its value on each axis."""

    number: int
    texts: tuple[str, ...]
    recipe: Recipe
    style: Path

    @property
    def slug(self) -> str:
        """Its values as part of a file's name."""
        names = (Path(text).stem if Path(text).suffix.lower() in INPUT_SUFFIXES else text for text in self.texts)
        return re.sub(r"[^A-Za-z0-9.+-]+", "_", "-".join(names))[:80]


@dataclass(frozen=True)
class Variable:
    """A knob of a recipe. path: of names, from the recipe to the field."""

    path: tuple[str, ...]
    spec: Field[Any]
    kind: Any


def settings(record: Any = Recipe, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Variable]]:
    """All knobs of a recipe, by the names of their options without the dashes."""
    hints = get_type_hints(record)
    for spec in fields(record):
        place, told = (*path, spec.name), knob_of(spec)
        if told is not None:
            name = told.flags[-1].lstrip("-") if told.flags else spec.name.replace("_", "-")
            yield name, Variable(place, spec, hints[spec.name])
        elif is_dataclass(hints[spec.name]):
            yield from settings(hints[spec.name], place)


def parse_axis(text: str) -> Axis:
    """'content-weight=0.01,0.05' -> an axis; 'style=@folder' has the folder's pictures. Layers, which have commas
    themselves, are apart by semicolons. BadInput, in one line, for what is none."""
    name, equals, listed = text.partition("=")
    name = name.strip().lstrip("-").replace("_", "-")
    known = dict(settings())
    if not equals or (name != STYLE and (name not in known or name in OF_THE_POOL)):
        names = ", ".join([STYLE, *(one for one in known if one not in OF_THE_POOL)])
        raise BadInput(f"axis is {text!r}; give NAME=VALUE,VALUE with one of {names}")
    if name == STYLE and listed.startswith("@"):
        return folder_axis(Path(listed[1:]))
    told = known[name].spec.metadata["knob"] if name in known else None
    divider = ";" if told is not None and told.read is parse_layers else ","
    texts = tuple(part.strip() for part in listed.split(divider) if part.strip())
    if not texts or len(set(texts)) < len(texts):
        raise BadInput(f"axis {name} has {'no values' if not texts else 'a value twice'}; give NAME=VALUE,VALUE")
    return Axis(name, texts, tuple(value_of(name, known.get(name), part) for part in texts))


def folder_axis(folder: Path) -> Axis:
    """The styles in a folder."""
    paths = sorted(picture_files(folder)) if folder.is_dir() else []
    if not paths:
        raise BadInput(f"axis style=@{folder} has no pictures; give a folder of pictures")
    return Axis(STYLE, tuple(path.name for path in paths), tuple(paths))


def value_of(name: str, setting: Variable | None, text: str) -> Any:
    """What a text means for this setting; the recipe says what is wrong with it."""
    if setting is None:
        return painting_of(text)
    told = knob_of(setting.spec)
    if told is not None and told.read is not None:
        return told.read(text)
    if setting.kind in (int, float):
        try:
            return setting.kind(text)
        except ValueError:
            raise BadInput(f"axis {name} has {text!r}; give numbers with commas between") from None
    return text


def cells_of(axes: Sequence[Axis], recipe: Recipe, style: Path) -> list[Cell]:
    """Every combination, the last axis changing fastest. BadInput for a value that no recipe can have, for an axis
    given twice and for far too many cells."""
    names = [axis.name for axis in axes]
    if len(set(names)) < len(names):
        raise BadInput(f"axes are {', '.join(names)}; give each once")
    known, cells = dict(settings()), []
    for number, chosen in enumerate(product(*(zip(axis.texts, axis.values, strict=True) for axis in axes)), 1):
        if number > MOST_CELLS:
            raise BadInput(f"axes make more than {MOST_CELLS} cells; give fewer values")
        by_name = {name: value for name, (_, value) in zip(names, chosen, strict=True)}
        changes = {known[name].path: value for name, value in by_name.items() if name != STYLE}
        texts = tuple(text for text, _ in chosen)
        cells.append(Cell(number, texts, changed(recipe, changes), by_name.get(STYLE, style)))
    return cells


def changed(record: Any, changes: Mapping[tuple[str, ...], Any]) -> Any:
    """A record with these fields changed, of nested records too."""
    own: dict[str, Any] = {path[0]: value for path, value in changes.items() if len(path) == 1}
    for name in {path[0] for path in changes if len(path) > 1}:
        inner = {path[1:]: value for path, value in changes.items() if path[0] == name}
        own[name] = changed(getattr(record, name), inner)
    return replace(record, **own)
