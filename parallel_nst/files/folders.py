"""What lies in folders: scanning them, through links and never in circles, and the order that people expect."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from parallel_nst.errors import BadInput
from parallel_nst.files.images import INPUT_SUFFIXES

FileId = tuple[int, int]
"""Device and inode: the same for all names of a file or folder."""

_NUMBER = re.compile(r"([0-9]+)")


def file_id(path: str | Path | None) -> FileId | None:
    """Of what a name leads to, through links; None where there is nothing."""
    try:
        found = os.stat(path) if path is not None else None
    except (OSError, ValueError):
        return None
    return (found.st_dev, found.st_ino) if found else None


def picture_files(top: Path, *, without: FileId | None = None) -> Iterator[Path]:
    """All files in a folder and below that have a picture's suffix, in no order; see `folders_below`. Hidden ones are
    left out; pipes, devices and broken links are not."""
    for folder in folders_below(top, without=without):
        for entry in entries_of(folder):
            suffix = os.path.splitext(entry.name)[1].lower()
            if suffix in INPUT_SUFFIXES and not is_hidden(entry) and not is_folder(entry):
                yield folder / entry.name


def folders_below(top: Path, *, without: FileId | None = None) -> Iterator[Path]:
    """`top` and all folders below it but hidden ones and the one `without`, each once. Links are followed, after all
    that is no link. BadInput, in one line, for a folder that cannot be listed."""
    seen = {without} - {file_id(top)}
    waiting, links = [top], list[Path]()
    while waiting or links:
        if not waiting:
            links.sort(key=natural_key, reverse=True)
        folder = (waiting or links).pop()
        if (place := file_id(folder)) in seen:
            continue
        seen.add(place)
        yield folder
        for entry in entries_of(folder):
            if is_folder(entry) and not is_hidden(entry):
                (links if entry.is_symlink() else waiting).append(folder / entry.name)


def entries_of(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder holds. BadInput, in one line, where it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise BadInput(f"{folder}: cannot be listed ({error.strerror}): make it readable or move it away") from None


def is_hidden(entry: os.DirEntry[str]) -> bool:
    return entry.name.startswith(".")


def is_file(entry: os.DirEntry[str]) -> bool:
    """Through links; False for one to itself."""
    with suppress(OSError):
        return entry.is_file()
    return False


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Through links; False for one to itself."""
    with suppress(OSError):
        return entry.is_dir()
    return False


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
