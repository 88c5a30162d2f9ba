"""Files that appear whole or not at all: written under a hidden name beside their place, then renamed.

`.NAME.0123456789abcdef.pnst` for a file NAME, so that what a killed process has left can be found again from the file's
name alone.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from parallel_nst.files.digests import digest_of

LONGEST = 255  # bytes of a name, on nearly all file systems
_TAIL = re.compile(r"\.[0-9a-f]{16}\.pnst")
_ROOM = LONGEST - len("." + "." + 16 * "0" + ".pnst")


@contextmanager
def replacing(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """A new name to write to: that file takes the place of `path` when the block ends well, and is removed when it does
    not. A symbolic link stays and its target is replaced. sync: wait for the disk before the renaming."""
    aside = aside_path(path)
    try:
        yield aside
        if sync:
            with open(aside, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(aside, os.path.realpath(path))
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """As `replacing`, with the new file open; its permissions are left to the umask, which tempfile does not."""
    with replacing(path) as aside, open(aside, "xb") as file:
        yield file


def write_whole(contents: Mapping[Path, bytes | memoryview], *, sync: bool = False) -> None:
    """Write some files; none gets its name before all are written. sync: see `replacing`."""
    with ExitStack() as stack:
        for path, data in contents.items():
            stack.enter_context(replacing(path, sync=sync)).write_bytes(data)


@contextmanager
def told_in_one_line(path: Path, advice: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn an OSError of the block into one whose text is one line: what cannot be written, why, and `advice`. kinds:
    what else a library raises when its file cannot be written."""
    caught: tuple[type[Exception], ...] = (OSError, *kinds)
    try:
        yield
    except caught as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:150] or type(error).__name__
        raise OSError(f"{path}: cannot be written ({reason}): {advice}") from None


# --- the names


def aside_path(path: Path) -> Path:
    """A hidden new name beside the file that `path` leads to."""
    place = Path(os.path.realpath(path))
    return place.with_name(aside_name(place.name))


def aside_name(name: str) -> str:
    """A hidden new name for what will become `name`; neither has a folder. At most 255 bytes, if need be cut."""
    return f".{cut_name(name)}.{secrets.token_hex(8)}.pnst"


def aside_stem(name: str) -> str | None:
    """What all names that `aside_name` gives for one file have in common, or None for any other name."""
    tail = _TAIL.search(name, max(1, len(name) - 22))
    return name[1 : tail.start()] if tail and tail.end() == len(name) and name.startswith(".") else None


def cut_name(name: str) -> str:
    """The name, or so much of it as there is room for with a digest of the whole: long names often begin alike."""
    raw = os.fsencode(name)
    if len(raw) <= _ROOM:
        return name
    digest = "~" + digest_of([raw])[:8]
    end = _ROOM - len(digest)
    while raw[end] & 0xC0 == 0x80:  # not within a character
        end -= 1
    return os.fsdecode(raw[:end]) + digest


# --- what killed processes left


def remove_leftovers(paths: Iterable[Path]) -> int:
    """Remove what was left half written of these files, and nothing else; returns how many. Each folder is listed once.
    Call it while nobody writes them."""
    folders: dict[str, set[str]] = {}
    for path in paths:
        folder, name = os.path.split(os.path.realpath(path) if path.is_symlink() else path)
        folders.setdefault(folder, set()).add(cut_name(name))
    return sum(remove_leftovers_in(folder, stems.__contains__) for folder, stems in folders.items())


def remove_leftovers_in(folder: str | Path, of: Callable[[str], bool]) -> int:
    """The same for one folder. of: asked with the name, cut as by `cut_name`, of the file that each was to become."""
    removed = 0
    with suppress(OSError), os.scandir(folder or os.curdir) as entries:  # it may not be there yet
        for entry in list(entries):
            stem = aside_stem(entry.name)
            if stem is not None and of(stem) and entry.is_file(follow_symlinks=False):
                with suppress(OSError):
                    os.unlink(entry.path)
                    removed += 1
    return removed
