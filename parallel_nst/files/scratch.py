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
from numpy.typing import DTypeLike, NDArray

LARGE = 64 << 20  # bytes: a float32 picture of 5.6 megapixels
DISK = "/var/tmp"  # /tmp is memory on many systems
STRIP = 256  # rows that are worked on at once


def room(shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
    """A new array, its values undefined. A large one is in a file in TMPDIR, or else in DISK; in memory where there is
    no room for it."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    mapped = mapped_file(size) if size >= LARGE else None
    return np.empty(shape, dtype) if mapped is None else np.ndarray(tuple(shape), dtype, buffer=mapped)


def mapped_file(size: int) -> mmap.mmap | None:
    """So many bytes of the disk, which are taken at once: where it is full only later, the system ends a program that
    writes to them."""
    try:
        with tempfile.TemporaryFile(dir=folder(), prefix="pnst-") as file:
            os.posix_fallocate(file.fileno(), 0, size)
            return mmap.mmap(file.fileno(), size)
    except (OSError, AttributeError):  # AttributeError: of a system without posix_fallocate
        return None


def folder() -> str:
    """Where files without a name are made."""
    return DISK if "TMPDIR" not in os.environ and Path(DISK).is_dir() else tempfile.gettempdir()


def has_room(size: int, count: int) -> bool:
    """Whether so many arrays of `size` bytes would be in files, as far as can be told without making them."""
    try:
        place = os.statvfs(folder())
    except (OSError, AttributeError):
        return False
    return size >= LARGE and place.f_bavail * place.f_frsize > count * size


def let_go(array: NDArray[Any]) -> None:
    """Of an array from `room`, or a view of one: what lies in a file need not be in memory until it is next looked at.
    Nothing is lost. Does nothing with another array."""
    if (file := file_of(array)) is not None:
        file.madvise(mmap.MADV_DONTNEED)


def in_file(array: NDArray[Any]) -> bool:
    """Whether an array, or what it is a view of, is in a file."""
    return file_of(array) is not None


def file_of(array: Any) -> mmap.mmap | None:
    """The file that an array lies in."""
    while isinstance(array, np.ndarray):
        array = array.base
    return array if isinstance(array, mmap.mmap) else None


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
