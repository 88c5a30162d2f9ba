"""A folder for one process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from parallel_nst.errors import BadInput

LOCK = ".lock"  # in the folder, while it is in use


@contextmanager
def folder_lock(folder: Path, taken: str) -> Iterator[bool]:
    """Keep all others out of a folder until the block ends; the system opens it again however the process ends. Yields
    whether there are locks here: some network file systems have none.

    BadInput(taken) when another is in it; OSError when nothing can be written there.
    """
    path = folder / LOCK
    path.touch()  # tells a folder that cannot be written to from one that cannot be locked
    lock = FileLock(path)
    try:
        locked = _acquired(lock, taken)
        try:
            yield locked
        finally:
            with suppress(OSError):  # where an open file stays, as on Windows, the library removes it
                path.unlink()  # while it is locked: nobody else's can lie there
    finally:
        lock.release()


def _acquired(lock: FileLock, taken: str) -> bool:
    """Whether there are locks; BadInput where there are and it is taken."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BadInput(taken) from None
    except OSError:
        return False
    return True
