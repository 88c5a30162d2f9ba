"""Where each picture of a batch comes out."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from parallel_nst.errors import BadInput
from parallel_nst.files.folders import file_id
from parallel_nst.files.images import INPUT_SUFFIXES, OUTPUT_SUFFIXES
from parallel_nst.jobs.batch.inputs import InputFile


@dataclass(frozen=True)
class BatchPicture:
    """A picture and its output. name: of the output, relative to OUT, with / between folders."""

    source: InputFile
    output: Path
    name: str


def plan_outputs(
    sources: Sequence[InputFile],
    out: Path,
    format: str | None = None,
    suffix: str = "",
    *,
    made: Callable[[str], bool] = lambda name: False,
) -> list[BatchPicture]:
    """Where each picture comes out below `out`, under its own name and in its own format.

    format: of all outputs, as a file's suffix with or without the dot. suffix: put behind each name. A picture whose
    suffix names no format that can be written becomes a PNG. made: asked for each source that lies below `out`, by
    its name relative to it, whether an earlier batch wrote it; those are left out.

    Raises BadInput, in one line: two pictures with the same output; an output that is an input; an unknown format;
    a suffix that leads into another folder; `out` is a file.
    """
    _check_suffix(suffix)
    ending = _ending(format)
    if os.path.exists(out) and not os.path.isdir(out):
        raise BadInput(f"{out}: a file, not a folder: choose another OUT")
    pictures = [_picture(source, out, ending, suffix) for source in _unmade(sources, out, made)]
    _check_distinct(pictures)
    _check_inputs_stay(pictures)
    return pictures


def _check_suffix(suffix: str) -> None:
    if any(mark in suffix for mark in ("/", os.sep, os.altsep or "/", "\0")):
        raise BadInput(f"suffix {suffix!r} holds a path separator: give one without, such as -wave")


def _ending(format: str | None) -> str | None:
    """A format as the suffix of a file, in lower case."""
    if format is None:
        return None
    ending = "." + format.lower().removeprefix(".")
    if ending not in OUTPUT_SUFFIXES:
        known = " ".join(name.removeprefix(".") for name in OUTPUT_SUFFIXES)
        raise BadInput(f"format {format!r} cannot be written: use one of {known}")
    return ending


def _unmade(sources: Sequence[InputFile], out: Path, made: Callable[[str], bool]) -> list[InputFile]:
    top = Path(os.path.realpath(out))

    @functools.cache
    def below(folder: str) -> Path | None:
        real = Path(os.path.realpath(folder))
        return real.relative_to(top) if real.is_relative_to(top) else None

    def is_made(path: Path) -> bool:
        folder, name = os.path.split(path)
        inside = below(folder)
        return inside is not None and made((inside / name).as_posix())

    return [source for source in sources if not is_made(source.path)]


def _picture(source: InputFile, out: Path, ending: str | None, suffix: str) -> BatchPicture:
    stem, own = os.path.splitext(source.relative.name)
    if own.lower() not in INPUT_SUFFIXES:  # no suffix but a part of the name, such as .0001
        stem, own = stem + own, ""
    if own.lower() not in OUTPUT_SUFFIXES:
        own = ".png"
    relative = source.relative.with_name(stem + suffix + (ending or own))
    return BatchPicture(source, out / relative, relative.as_posix())


def _check_distinct(pictures: Iterable[BatchPicture]) -> None:
    taken: dict[str, BatchPicture] = {}
    for picture in pictures:
        other = taken.setdefault(os.path.normcase(picture.name), picture)
        if other is not picture:
            one, two = other.source.path, picture.source.path
            raise BadInput(
                f"{one} and {two} would both become {picture.name}: give another --format or none, or rename one"
            )


def _check_inputs_stay(pictures: Sequence[BatchPicture]) -> None:
    """A look at each file, once; pairs are found in a table."""
    there = {place: picture for picture in pictures if (place := file_id(picture.output))}
    for picture in pictures if there else ():
        place = file_id(picture.source.path)
        if place in there:
            output, source = there[place].output, picture.source.path
            raise BadInput(f"{output} would overwrite the input {source}: give a --suffix or another OUT")
