"""What goes into a batch."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TextIO

from parallel_nst.errors import BadInput
from parallel_nst.files.folders import (
    FileId,
    entries_of,
    file_id,
    folders_below,
    is_file,
    is_folder,
    is_hidden,
    natural_key,
    picture_files,
)
from parallel_nst.files.images import INPUT_SUFFIXES

LIST_SUFFIXES = (".txt", ".lst")
STDIN = "-"

_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class InputFile:
    """A picture. relative: where it comes out below OUT, before format and suffix are seen to."""

    path: Path
    relative: Path


def find_inputs(source: str, stdin: TextIO | None = None, *, out: Path | None = None) -> list[InputFile]:
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

    Raises BadInput, in one line, for no such file, for no pictures, or for a folder that cannot be read.
    """
    path = Path(source)
    if source == STDIN:
        if stdin is None:
            raise BadInput("- stands for a list on standard input, and there is none: name a folder or a file")
        found = _listed(_bytes_of(stdin), Path(), "standard input")
    elif os.path.isdir(source):
        found = _ordered(_below(path, file_id(out)))
        if not found:
            raise BadInput(f"{source}: no pictures in this folder ({' '.join(INPUT_SUFFIXES)}): name another")
    elif path.suffix.lower() in LIST_SUFFIXES and os.path.isfile(source):
        found = _listed(_read(path), path.parent, source)
    elif os.path.isfile(source):
        found = [InputFile(path, Path(path.name))]
    elif os.path.exists(source):
        raise BadInput(f"{source}: not a regular file: save the picture to one first")
    elif _WILD.search(source):
        found = _ordered(_globbed(path, file_id(out)))
        if not found:
            raise BadInput(f"{source}: no file fits this pattern: check it, and that it stands in quotes")
    else:
        raise BadInput(f"{source or 'IN'}: no such file or folder: check the name")
    return _once(found)


def _ordered(sources: Iterable[InputFile]) -> list[InputFile]:
    return sorted(sources, key=lambda source: natural_key(source.relative))


def _once(sources: Sequence[InputFile]) -> list[InputFile]:
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


# --- folders and patterns


def _below(top: Path, out: FileId | None) -> Iterator[InputFile]:
    for path in picture_files(top, without=out):
        if path.is_file():
            yield InputFile(path, path.relative_to(top))


def _globbed(pattern: Path, out: FileId | None) -> Iterator[InputFile]:
    fixed = next(number for number, part in enumerate(pattern.parts) if _WILD.search(part))
    top, parts = Path(*pattern.parts[:fixed]), pattern.parts[fixed:]
    if ".." in parts:
        raise BadInput(f"{pattern}: .. behind a wildcard: put it before")
    if os.path.isdir(top):
        for path in _fitting(top, parts, out):
            yield InputFile(path, path.relative_to(top))


def _fitting(folder: Path, parts: Sequence[str], out: FileId | None) -> Iterator[Path]:
    """Files below `folder` that fit the parts of a pattern; `glob` itself would run round in circles of links."""
    part, rest = parts[0], parts[1:]
    if part == "**":
        for below in folders_below(folder, without=out):
            yield from _fitting(below, rest or ("*",), out)
        return
    for entry in entries_of(folder):
        if not fnmatch(entry.name, part) or (is_hidden(entry) and not part.startswith(".")):
            continue
        path = folder / entry.name
        if not rest and is_file(entry):
            yield path
        elif rest and is_folder(entry) and (out is None or file_id(path) != out):
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
        raise BadInput(f"{path}: cannot be read ({error.strerror}): check its permissions") from None


def _listed(data: bytes, folder: Path, origin: str) -> list[InputFile]:
    """Paths of a list as sources; their common folder is found without looking at links."""
    names = _names(data, origin)
    paths = [folder / name for name in names]
    if not any(map(os.path.exists, paths)):
        reason = f"no such file as {names[0]}" if names else "an empty list"
        raise BadInput(f"{origin}: {reason}: give a list of pictures, one path a line")
    whole = [os.path.abspath(path) for path in paths]
    common = os.path.commonpath([os.path.dirname(path) for path in whole])
    return [InputFile(path, Path(full).relative_to(common)) for path, full in zip(paths, whole, strict=True)]


def _names(data: bytes, origin: str) -> list[str]:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise BadInput(f"{origin}: a list in UTF-16: save it as UTF-8")
    if b"\0" in data:
        return [os.fsdecode(name) for name in data.split(b"\0") if name]
    lines = (line.removesuffix(b"\r") for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"))
    return [os.fsdecode(line) for line in lines if line.strip() and not line.startswith(b"#")]
