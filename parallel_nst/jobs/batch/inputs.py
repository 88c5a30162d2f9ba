"""What goes into a batch, and where each picture of it comes out."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TextIO

from parallel_nst.files.images import OUTPUT_SUFFIXES

INPUT_SUFFIXES = (*OUTPUT_SUFFIXES, ".gif")  # of what is taken from a folder, in lower case
LIST_SUFFIXES = (".txt", ".lst")
STDIN = "-"

_WILD = re.compile(r"[*?\[]")
_NUMBER = re.compile(r"([0-9]+)")

Place = tuple[int, int]  # device and inode: the same for all names of a file or folder


@dataclass(frozen=True)
class Source:
    """A picture. relative: where it comes out below OUT, before format and suffix are seen to."""

    path: Path
    relative: Path


@dataclass(frozen=True)
class Target:
    """A picture and its output. name: of the output, relative to OUT, with / between folders."""

    source: Source
    output: Path
    name: str


def find_inputs(source: str, stdin: TextIO | None = None, *, out: Path | None = None) -> list[Source]:
    """The pictures that `source` means, each once. It is the first of these that fits:

    `-`: a list on stdin, of paths relative to the current folder.
    A folder: pictures by suffix in it and below, hidden ones left out. Links to folders are followed, each folder is
    visited once. `out`, if below, is left out.
    A file whose suffix is .txt or .lst: a list, of paths relative to its folder.
    Any other file: a picture, whatever its suffix.
    A glob pattern, where `**` stands for any number of folders: all files that it finds, hidden ones left out unless
    the pattern has the dot. They come out as they lie below the folder before the first wildcard.

    A list has one path a line; empty lines and those that begin with # are ignored; a list with NUL characters is
    one of `find -print0`. What it names comes out as it lies below the deepest folder that holds all of it, in the
    list's order; all else is in natural order. A listed file that is missing is left to fail by itself, but not all.

    Raises ValueError, in one line, for no such file, for no pictures, or for a folder that cannot be read.
    """
    path = Path(source)
    if source == STDIN:
        if stdin is None:
            raise ValueError("- stands for a list on standard input, and there is none: name a folder or a file")
        found = _listed(_bytes_of(stdin), Path(), "standard input")
    elif os.path.isdir(source):
        found = _ordered(_below(path, _place(out)))
        if not found:
            raise ValueError(f"{source}: no pictures in this folder ({' '.join(INPUT_SUFFIXES)}): name another")
    elif path.suffix.lower() in LIST_SUFFIXES and os.path.isfile(source):
        found = _listed(_read(path), path.parent, source)
    elif os.path.isfile(source):
        found = [Source(path, Path(path.name))]
    elif os.path.exists(source):
        raise ValueError(f"{source}: not a regular file: save the picture to one first")
    elif _WILD.search(source):
        found = _ordered(_globbed(path, _place(out)))
        if not found:
            raise ValueError(f"{source}: no file fits this pattern: check it, and that it stands in quotes")
    else:
        raise ValueError(f"{source or 'IN'}: no such file or folder: check the name")
    return _once(found)


def natural_key(path: Path) -> tuple[object, ...]:
    """To sort paths folder by folder, numbers as numbers, upper and lower case together: frame2 before frame10."""
    return tuple(_part_key(part) for part in path.parts), path.parts


@functools.lru_cache(maxsize=4096)
def _part_key(part: str) -> tuple[object, ...]:
    """Of the name before its suffix, so that frame.png comes before frame2.png."""
    return tuple(
        # Text and numbers take turns, text first. Numbers by length, then as text: no limit on their digits.
        tuple((len(bare := chunk.lstrip("0")), bare) if at % 2 else chunk for at, chunk in enumerate(chunks))
        for chunks in (_NUMBER.split(text.casefold()) for text in os.path.splitext(part))
    )


def _ordered(sources: Iterable[Source]) -> list[Source]:
    return sorted(sources, key=lambda source: natural_key(source.relative))


def _once(sources: Sequence[Source]) -> list[Source]:
    """Without files named twice. Of a file and links to it the file stays, else the first."""
    folder = functools.cache(os.path.realpath)
    kept: dict[str, int] = {}
    links: list[tuple[str, int]] = []
    for number, source in enumerate(sources):
        parent, name = os.path.split(source.path)
        if os.path.islink(source.path):
            links.append((os.path.realpath(source.path), number))
        else:
            kept.setdefault(os.path.join(folder(parent), name), number)
    for real, number in links:
        kept.setdefault(real, number)
    return [sources[number] for number in sorted(kept.values())]


def _place(path: str | Path | None) -> Place | None:
    """Of what a name leads to, through links; None where there is nothing."""
    try:
        found = os.stat(path) if path is not None else None
    except (OSError, ValueError):
        return None
    return (found.st_dev, found.st_ino) if found else None


# --- folders and patterns


def _below(top: Path, out: Place | None) -> Iterator[Source]:
    for folder in _folders(top, out):
        relative = folder.relative_to(top)
        for entry in _entries(folder):
            if os.path.splitext(entry.name)[1].lower() in INPUT_SUFFIXES and not _hidden(entry) and _is_file(entry):
                yield Source(folder / entry.name, relative / entry.name)


def _folders(top: Path, out: Place | None) -> Iterator[Path]:
    """`top` and all folders below it but hidden ones and `out`, each once; links only after all others."""
    seen = {out} - {_place(top)}
    waiting, links = [top], list[Path]()
    while waiting or links:
        if not waiting:
            links.sort(key=natural_key, reverse=True)
        folder = (waiting or links).pop()
        if (place := _place(folder)) in seen:
            continue
        seen.add(place)
        yield folder
        for entry in _entries(folder):
            if _is_folder(entry) and not _hidden(entry):
                (links if entry.is_symlink() else waiting).append(folder / entry.name)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise ValueError(f"{folder}: cannot be listed ({error.strerror}): make it readable or move it away") from None


def _hidden(entry: os.DirEntry[str]) -> bool:
    return entry.name.startswith(".")


def _is_file(entry: os.DirEntry[str]) -> bool:
    with suppress(OSError):  # a link to itself
        return entry.is_file()
    return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    with suppress(OSError):
        return entry.is_dir()
    return False


def _globbed(pattern: Path, out: Place | None) -> Iterator[Source]:
    fixed = next(number for number, part in enumerate(pattern.parts) if _WILD.search(part))
    top, parts = Path(*pattern.parts[:fixed]), pattern.parts[fixed:]
    if ".." in parts:
        raise ValueError(f"{pattern}: .. behind a wildcard: put it before")
    if os.path.isdir(top):
        for path in _fitting(top, parts, out):
            yield Source(path, path.relative_to(top))


def _fitting(folder: Path, parts: Sequence[str], out: Place | None) -> Iterator[Path]:
    """Files below `folder` that fit the parts of a pattern; `glob` itself would run round in circles of links."""
    part, rest = parts[0], parts[1:]
    if part == "**":
        for below in _folders(folder, out):
            yield from _fitting(below, rest or ("*",), out)
        return
    for entry in _entries(folder):
        if not fnmatch(entry.name, part) or (_hidden(entry) and not part.startswith(".")):
            continue
        path = folder / entry.name
        if not rest and _is_file(entry):
            yield path
        elif rest and _is_folder(entry) and (out is None or _place(path) != out):
            yield from _fitting(path, rest, out)


# --- lists


def _bytes_of(stdin: TextIO) -> bytes:
    """Names of files need not be UTF-8."""
    raw = getattr(stdin, "buffer", None)
    return os.fsencode(stdin.read()) if raw is None else bytes(raw.read())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}): check its permissions") from None


def _listed(data: bytes, folder: Path, origin: str) -> list[Source]:
    """Paths of a list as sources; their common folder is found without looking at links."""
    names = _names(data, origin)
    paths = [folder / name for name in names]
    if not any(map(os.path.exists, paths)):
        reason = f"no such file as {names[0]}" if names else "an empty list"
        raise ValueError(f"{origin}: {reason}: give a list of pictures, one path a line")
    whole = [os.path.abspath(path) for path in paths]
    common = os.path.commonpath([os.path.dirname(path) for path in whole])
    return [Source(path, Path(full).relative_to(common)) for path, full in zip(paths, whole, strict=True)]


def _names(data: bytes, origin: str) -> list[str]:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{origin}: a list in UTF-16: save it as UTF-8")
    if b"\0" in data:
        return [os.fsdecode(name) for name in data.split(b"\0") if name]
    lines = (line.removesuffix(b"\r") for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"))
    return [os.fsdecode(line) for line in lines if line.strip() and not line.startswith(b"#")]


# --- outputs


def plan_outputs(
    sources: Sequence[Source],
    out: Path,
    format: str | None = None,
    suffix: str = "",
    *,
    made: Callable[[str], bool] = lambda name: False,
) -> list[Target]:
    """Where each picture comes out below `out`, under its own name and in its own format.

    format: of all outputs, as a file's suffix with or without the dot. suffix: put behind each name. A picture whose
    suffix names no format that can be written becomes a PNG. made: asked for each source that lies below `out`, by
    its name relative to it, whether an earlier batch wrote it; those are left out.

    Raises ValueError, in one line: two pictures with the same output; an output that is an input; an unknown format;
    a suffix that leads into another folder; `out` is a file.
    """
    _check_suffix(suffix)
    ending = _ending(format)
    if os.path.exists(out) and not os.path.isdir(out):
        raise ValueError(f"{out}: a file, not a folder: choose another OUT")
    targets = [_target(source, out, ending, suffix) for source in _unmade(sources, out, made)]
    _check_distinct(targets)
    _check_inputs_stay(targets)
    return targets


def _check_suffix(suffix: str) -> None:
    if any(mark in suffix for mark in ("/", os.sep, os.altsep or "/", "\0")):
        raise ValueError(f"suffix {suffix!r} holds a path separator: give one without, such as -wave")


def _ending(format: str | None) -> str | None:
    """A format as the suffix of a file, in lower case."""
    if format is None:
        return None
    ending = "." + format.lower().removeprefix(".")
    if ending not in OUTPUT_SUFFIXES:
        known = " ".join(name.removeprefix(".") for name in OUTPUT_SUFFIXES)
        raise ValueError(f"format {format!r} cannot be written: use one of {known}")
    return ending


def _unmade(sources: Sequence[Source], out: Path, made: Callable[[str], bool]) -> list[Source]:
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


def _target(source: Source, out: Path, ending: str | None, suffix: str) -> Target:
    stem, own = os.path.splitext(source.relative.name)
    if own.lower() not in INPUT_SUFFIXES:  # no suffix but a part of the name, such as .0001
        stem, own = stem + own, ""
    if own.lower() not in OUTPUT_SUFFIXES:
        own = ".png"
    relative = source.relative.with_name(stem + suffix + (ending or own))
    return Target(source, out / relative, relative.as_posix())


def _check_distinct(targets: Iterable[Target]) -> None:
    taken: dict[str, Target] = {}
    for target in targets:
        other = taken.setdefault(os.path.normcase(target.name), target)
        if other is not target:
            one, two = other.source.path, target.source.path
            raise ValueError(
                f"{one} and {two} would both become {target.name}: give another --format or none, or rename one"
            )


def _check_inputs_stay(targets: Sequence[Target]) -> None:
    """A look at each file, once; pairs are found in a table."""
    there = {place: target for target in targets if (place := _place(target.output))}
    for target in targets if there else ():
        place = _place(target.source.path)
        if place in there:
            output, source = there[place].output, target.source.path
            raise ValueError(f"{output} would overwrite the input {source}: give a --suffix or another OUT")
