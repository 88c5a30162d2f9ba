"""What a field of a record says of itself wherever it is set, and what is held against that."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from parallel_nst.errors import BadInput

Group = Literal["Server", "Pictures", "Look", "Steps", "Network", "Tiles", "Workers", "Output"]
GROUPS: tuple[Group, ...] = get_args(Group)  # of options, in the order of a help page
REQUIRED: Any = MISSING  # as the default of a knob: there is none


@dataclass(frozen=True)
class Knob:
    """What a field says of itself wherever it is set: on the command line, in a file, from Python.

    help: without a capital and a full stop. group: where it stands on a help page. least, most: bounds that are
    allowed; above: one that is not. flags: its names on the command line, the last one its own; none: the field's.
    read: of a text, where that is not plain; ValueError in one line. shown: the default in words. only_with: a field of
    the same record and its values beside which alone this one has an effect. variable: of the environment, read when
    nothing is given, unless one of the fields in `yields_to` is. argument: given by its place instead of a name. once:
    a second one is refused instead of taking the place of the first. each: it can be given several times, and `read`
    reads one of them. common: stands first in its group.
    """

    help: str
    group: Group = "Look"
    least: float | None = None
    above: float | None = None
    most: float | None = None
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    read: Callable[[str], Any] | None = None
    shown: str | None = None
    only_with: tuple[str, tuple[Any, ...]] | None = None
    variable: str | None = None
    yields_to: tuple[str, ...] = ()
    argument: bool = False
    once: bool = False
    each: bool = False
    common: bool = False


def knob(default: Any, help: str, group: Group = "Look", **more: Any) -> Any:
    """A field with its `Knob`. default: REQUIRED where there is none; what can be called makes it."""
    metadata = {"knob": Knob(help, group, **more)}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def knob_of(spec: Field[Any]) -> Knob | None:
    """What a field says of itself; None where it is not to be set by itself."""
    found: Knob | None = spec.metadata.get("knob")
    return found


def is_number(value: object) -> bool:
    """A finite int or float, and not a bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check_bounds(record: Any) -> None:
    """Raise BadInput, naming the field, for a value of the wrong type, outside its choices or its bounds."""
    hints = get_type_hints(type(record))
    for spec in fields(record):
        value, hint = getattr(record, spec.name), without_none(hints[spec.name])
        if value is None and hint is not hints[spec.name]:
            continue
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        if choices and value not in choices:
            raise BadInput(f"{spec.name} is {value!r}; allowed: {', '.join(map(str, choices))}")
        if hint is str and not isinstance(value, str):
            raise BadInput(f"{spec.name} is {value!r}; give a text")
        if hint in (int, float):
            check_number(spec.name, value, knob_of(spec) or Knob(""), whole=hint is int)


def without_none(hint: Any) -> Any:
    """`X | None` -> X; anything else as it is."""
    parts = [part for part in get_args(hint) if part is not NoneType]
    return parts[0] if get_origin(hint) in (Union, UnionType) and len(parts) == 1 else hint


def check_number(name: str, value: object, knob: Knob, *, whole: bool) -> None:
    """Raise BadInput for what is no (whole) number or outside the bounds."""
    if is_number(value) and not (whole and not isinstance(value, int)) and within(value, knob):
        return
    raise BadInput(f"{name} is {value!r}; give {'a whole number' if whole else 'a number'}{bounds_text(knob)}")


def within(value: Any, knob: Knob) -> bool:
    """Whether a number keeps to the bounds."""
    return (
        (knob.least is None or value >= knob.least)
        and (knob.above is None or value > knob.above)
        and (knob.most is None or value <= knob.most)
    )


def bounds_text(knob: Knob) -> str:
    """' of at least 1', ' from 1 to 100', ' above 0' or nothing, to stand behind 'a number'."""
    if knob.least is not None and knob.most is not None:
        return f" from {knob.least:g} to {knob.most:g}"
    least = f" of at least {knob.least:g}" if knob.least is not None else ""
    above = f" above {knob.above:g}" if knob.above is not None else ""
    most = f"{' and' if least or above else ' of'} at most {knob.most:g}" if knob.most is not None else ""
    return least + above + most
