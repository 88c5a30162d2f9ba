"""The folders in which Rays of our own keep their sockets and logs: gone with their run, or at the next start where a
run was killed. Those of other programs are never touched."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from filelock import FileLock, Timeout

PREFIX = "pnst-"  # short: the path of a socket, which lies deep in such a folder, may have 107 characters
REMOVAL_TRIES = 10
REMOVAL_SECONDS = 0.05  # between two tries


class SessionFolder:
    """A new folder for one Ray. A lock beside it is held as long as this process lives, however it ends."""

    def __init__(self) -> None:
        self.path = temporary_folder() / f"{PREFIX}{secrets.token_hex(4)}"
        self._lock = FileLock(lock_of(self.path), thread_local=False)
        self._lock.acquire()  # before the folder is there, so that nobody takes it for one that was left behind
        self.path.mkdir(mode=0o700)

    def remove(self) -> None:
        """Once Ray has ended."""
        remove_folder(self.path)
        release(self._lock)


def temporary_folder() -> Path:
    """Where Ray would put its own folders. On macOS the system's place for such things has too long a name."""
    return Path(os.environ.get("RAY_TMPDIR") or ("/tmp" if sys.platform == "darwin" else tempfile.gettempdir()))


def remove_left_behind() -> None:
    """Remove the folders of runs of this user that were killed, and what still runs of their Rays."""
    for folder in temporary_folder().glob(f"{PREFIX}{'[0-9a-f]' * 8}"):
        with suppress(OSError, Timeout):
            if is_own(folder) and lock_of(folder).exists():
                lock = FileLock(lock_of(folder))
                lock.acquire(timeout=0)
                kill_users(folder)
                remove_folder(folder)
                release(lock)


def lock_of(folder: Path) -> Path:
    """The file beside a folder by which it is held."""
    return folder.with_name(f"{folder.name}.lock")


def is_own(folder: Path) -> bool:
    """Whether it belongs to this user."""
    return not hasattr(os, "getuid") or folder.lstat().st_uid == os.getuid()


def kill_users(folder: Path) -> None:
    """Kill every other process that has a file open in a folder: Ray's agents outlive a run that was killed by half a
    minute, and are to be known by nothing else."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            users = any(folder in Path(file.path).parents for file in process.open_files())
            if users and process.pid != os.getpid():
                process.kill()


def remove_folder(folder: Path) -> None:
    """Remove it; a process that is just ending may still put a file there, so try more than once."""
    for _ in range(REMOVAL_TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(REMOVAL_SECONDS)


def release(lock: FileLock) -> None:
    """Let go of a lock and remove its file."""
    with suppress(OSError):
        Path(lock.lock_file).unlink()
    lock.release()
