"""Arrays that need not be in memory: those of a large picture lie in a file without a name, which is gone with the
array or the program, and of which the system keeps in memory what it has room for."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
from numpy.typing import DTypeLike, NDArray

LARGE = 64 << 20  # bytes: a float32 picture of 5.6 megapixels
DISK = "/var/tmp"  # /tmp is memory on many systems
MEMORY = ("tmpfs", "ramfs")  # file systems whose files are memory
SPARE = 2  # times the size of a file must be free: the output wants room, too
STRIP = 256  # rows that are worked on at once


class Scratch(mmap.mmap):
    """A file of ours, whose pages may be let go: of another one's, changes may be nowhere else."""


def room(shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
    """A new array, its values undefined. A large one is in a file in TMPDIR or, where that is not set, in DISK; in
    memory where there is no room for it, and where files are memory themselves."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    mapped = mapped_file(size) if size >= LARGE else None
    return np.empty(shape, dtype) if mapped is None else np.ndarray(tuple(shape), dtype, buffer=mapped)


def mapped_file(size: int) -> Scratch | None:
    """So many bytes of the disk, which are taken at once: where it is full only later, the system ends a program that
    writes to them."""
    place = scratch_folder()
    try:
        if in_memory(place) or free(place) < SPARE * size:
            return None
        with tempfile.TemporaryFile(dir=place, prefix="pnst-") as file:
            os.posix_fallocate(file.fileno(), 0, size)
            return Scratch(file.fileno(), size)
    except (OSError, AttributeError):  # AttributeError: of a system without these calls
        return None


def scratch_folder() -> str:
    """Where files without a name are made."""
    return os.environ.get("TMPDIR") or DISK


def in_memory(folder: str) -> bool:
    """Whether files in a folder take memory."""
    kinds = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    place = Path(folder).resolve()
    return next((kinds[str(above)] for above in (place, *place.parents) if str(above) in kinds), "") in MEMORY


def free(folder: str) -> int:
    """Bytes that are left in the file system of a folder."""
    place = os.statvfs(folder)
    return place.f_bavail * place.f_frsize


def has_room(size: int, count: int) -> bool:
    """Whether so many arrays of `size` bytes would be in files; all but their number is tried."""
    if size < LARGE or mapped_file(size) is None:
        return False
    return free(scratch_folder()) >= (count - 1 + SPARE) * size


def let_go(array: NDArray[Any]) -> None:
    """Of an array from `room`, or a view of one: what lies in a file need not be in memory until it is next looked at.
    Nothing is lost. Does nothing with another array."""
    if (file := file_of(array)) is not None:
        file.madvise(mmap.MADV_DONTNEED)


def in_file(array: NDArray[Any]) -> bool:
    """Whether an array, or what it is a view of, is in a file."""
    return file_of(array) is not None


def file_of(array: Any) -> Scratch | None:
    """The file of ours that an array lies in."""
    while isinstance(array, np.ndarray):
        array = array.base
    return array if isinstance(array, Scratch) else None


def contiguous(array: NDArray[Any]) -> NDArray[Any]:
    """The same values in the order of the memory: itself, or a copy in `room`."""
    if array.flags.c_contiguous:
        return array
    copy = room(array.shape, array.dtype)
    for rows in strips(len(array)):
        copy[rows] = array[rows]
    let_go(copy)
    return copy


def strips(length: int) -> Iterator[slice]:
    """So many rows, STRIP at a time: where each is worked on by itself, what is made on the way is small."""
    return (slice(top, min(top + STRIP, length)) for top in range(0, length, STRIP))
