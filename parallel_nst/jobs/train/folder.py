"""The folder of a training, for one run alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from parallel_nst.errors import message_of
from parallel_nst.training.checkpoints import steps_of

if sys.platform != "win32":
    import fcntl

LOCK = ".lock"  # in the folder, while a run writes there


@contextmanager
def run_folder(out: Path, resume: bool, notify: Callable[[str], None]) -> Iterator[None]:
    """Make the folder of a run and keep other runs out of it until the block ends; folders that were made for it and
    stayed empty are taken away again. ValueError, in one line, where it cannot be made, where another run is writing,
    and where it holds another run that is not to be gone on with."""
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        remove_empty(made)
        raise ValueError(f"{message_of(error)}; give another folder with --out") from None
    try:
        lock(out, descriptor, notify)
        try:
            check_new(out, resume)
            yield
        finally:
            (out / LOCK).unlink(missing_ok=True)  # while it is locked: nobody else's can lie there
            remove_empty(made)
    finally:
        os.close(descriptor)  # gives back the lock


def lock(out: Path, descriptor: int, notify: Callable[[str], None]) -> None:
    """Lock the open file; a note where there are no locks. flock, because the system gives it back however the process
    ends."""
    lockless = f"{out}: cannot be locked here: let no second training write to this folder"
    if sys.platform == "win32":
        notify(lockless)
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        taken = os.fstat(descriptor).st_nlink == 0  # the other has just ended, and a third may have begun
    except BlockingIOError:
        taken = True
    except OSError:  # some network file systems
        notify(lockless)
        return
    if taken:
        raise ValueError(f"{out}: another training is writing here; wait until it ends, or give another --out")


def check_new(out: Path, resume: bool) -> None:
    """ValueError, in one line, where the folder holds another run."""
    found = steps_of(out)
    if found and not resume:
        raise ValueError(f"{out} holds a training at step {found[0]}; give --resume, or another folder")


def remove_empty(folders: list[Path]) -> None:
    """Delete those that are empty, each before the one that it lies in."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
