"""What a picture that a batch has made says of itself, in its metadata: what it was made from."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import tomli_w

from parallel_nst.files.images import read_settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Settings = Mapping[str, str | int | float | bool]


class Stamp(NamedTuple):
    """input: digest of the input's file. recipe: digest of the settings that it was painted with."""

    input: str
    recipe: str


def stamp_text(stamp: Stamp, settings: Settings = MappingProxyType({})) -> str:
    """Text for a picture's metadata, as TOML. settings: for people to read; no program does."""
    text = tomli_w.dumps({"batch": stamp._asdict(), **({"settings": dict(settings)} if settings else {})})
    return text.encode("utf-8", "replace").decode("utf-8")  # a file's name may hold what is no character


def stamp_in(text: str) -> Stamp | None:
    """The stamp that `stamp_text` put into a text, or None."""
    try:
        batch = tomllib.loads(text).get("batch")
    except (tomllib.TOMLDecodeError, RecursionError):
        return None
    match batch:
        case {"input": str(input_digest), "recipe": str(recipe)}:
            return Stamp(input_digest, recipe)
    return None


def stamp_of(output: Path) -> Stamp | None:
    """That of a file; None where there is none, and for what is no whole picture."""
    try:
        text = read_settings(output) if output.exists() else None
    except (OSError, ValueError, MemoryError):  # no picture, or half of one: it is to be written anew
        return None
    return stamp_in(text) if text else None
