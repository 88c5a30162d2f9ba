"""What a batch has done, as a file beside its outputs: JSON lines, one for each picture, written as it goes.

A batch that is run again reads it and paints only what is new or has changed. The last line of a name counts.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from parallel_nst.errors import BadInput
from parallel_nst.files.locks import folder_lock
from parallel_nst.files.whole_files import told_in_one_line

MANIFEST = "manifest.jsonl"
SYNC_EVERY = 1.0  # s between two waits for the disk
ADVICE = "make room there, or give another OUT"

_HEAD = b'{"name": "'  # of every line
_KINDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("name", "source", "state", "recipe"), (str,)),
    **dict.fromkeys(("input_digest", "error"), (str, type(None))),
    **dict.fromkeys(("size", "mtime_ns", "width", "height"), (int,)),
    "seconds": (int, float),
    "notes": (list,),
    "made_before": (bool,),
}


@dataclass(frozen=True)
class Entry:
    """What came of a picture.

    name: of the output, relative to OUT, with / between folders. source: path of the input. input_digest: SHA-256 of
    the input's bytes; None: it could not be read. size, mtime_ns: of the input, bytes and ns. recipe: digest of the
    settings. seconds: that it took. error: one line, None if done. width, height: of the output in px, 0: not known.
    made_before: of a failed one, whether a batch wrote its output earlier; `Manifest.append` carries it on.
    """

    name: str
    source: str
    state: Literal["done", "failed"]
    input_digest: str | None = None
    size: int = 0
    mtime_ns: int = 0
    recipe: str = ""
    seconds: float = 0.0
    error: str | None = None
    width: int = 0
    height: int = 0
    notes: tuple[str, ...] = ()
    made_before: bool = False

    @property
    def made(self) -> bool:
        """Whether what lies at the output, if anything, was written by a batch."""
        return self.state == "done" or self.made_before

    def to_line(self) -> bytes:
        """One line of ASCII: names may hold anything, line breaks and bytes that are no UTF-8 too."""
        return json.dumps(vars(self)).encode("ascii") + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Entry | None:
        """The inverse of `to_line`; None for any other line. What a later version may have added is ignored."""
        try:
            table = json.loads(line)
            known = {name: table[name] for name in _KINDS if name in table}
            entry = cls(**known)
        except (ValueError, TypeError, RecursionError):
            return None
        right = all(isinstance(value, _KINDS[name]) for name, value in known.items())
        if not right or entry.state not in ("done", "failed"):
            return None
        return replace(entry, notes=tuple(map(str, entry.notes)))


class Manifest:
    """The manifest of a folder, open for one batch alone; made by `Manifest.open`.

    entries: by name. notes: what the user should be told.
    """

    def __init__(self, path: Path, descriptor: int, *, locked: bool) -> None:
        """locked: whether other batches are kept out."""
        self.path, self._descriptor, self._synced = path, descriptor, time.monotonic()
        self.entries, nonsense = self._read()
        lockless = f"{path}: cannot be locked here: let no second batch write to this folder"
        told = f"{path}: {nonsense} line{'s' * (nonsense != 1)} of nonsense passed over"
        self.notes = (lockless,) * (not locked) + (told,) * (nonsense > 0)

    @classmethod
    @contextmanager
    def open(cls, out: Path) -> Iterator[Manifest]:
        """Create `out` and its manifest where they are missing, and keep other batches out until the block ends.

        Raises BadInput when another batch is writing there, or when the file is no manifest; OSError when it cannot
        be written; each in one line.
        """
        path = out / MANIFEST
        taken = f"{path}: another batch is writing here: wait until it ends, or give another OUT"
        with ExitStack() as stack:
            with told_in_one_line(path, ADVICE):
                out.mkdir(parents=True, exist_ok=True)
                locked = stack.enter_context(folder_lock(out, taken))
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
                stack.callback(os.close, descriptor)
            manifest = cls(path, descriptor, locked=locked)
            stack.callback(manifest._sync)
            yield manifest

    def append(self, entry: Entry) -> None:
        """Add an entry, or put it in place of the one of that name. It outlives this process at once, and a power cut
        within SYNC_EVERY of the next entry. OSError, in one line, when it cannot be written; then none of it is."""
        before = self.entries.get(entry.name)
        made = entry.made_before or (before is not None and before.made)
        entry = replace(entry, made_before=entry.state == "failed" and made)
        if entry == before:
            return
        with told_in_one_line(self.path, ADVICE):
            self._write(entry.to_line())
        self.entries[entry.name] = entry
        if time.monotonic() - self._synced >= SYNC_EVERY:
            self._sync()

    def _write(self, line: bytes) -> None:
        """One call of the system, unless the disk is nearly full; then what remains is tried, to hear why."""
        end = os.lseek(self._descriptor, 0, os.SEEK_END)
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._descriptor, end)
            raise

    def _sync(self) -> None:
        with told_in_one_line(self.path, ADVICE):
            os.fsync(self._descriptor)
        self._synced = time.monotonic()

    def _read(self) -> tuple[dict[str, Entry], int]:
        """The entries, and the number of other lines. A last line without its end is mended, or taken away."""
        with told_in_one_line(self.path, ADVICE), open(self._descriptor, "rb", closefd=False) as file:
            data = file.read()
        entries, nonsense = parse(data)
        tail = data[data.rfind(b"\n") + 1 :]
        if not entries and (nonsense or not _begun(tail)):
            raise BadInput(f"{self.path}: not a manifest of a batch: move it away, or give another OUT")
        with told_in_one_line(self.path, ADVICE):
            if Entry.from_line(tail):
                self._write(b"\n")
            elif tail:
                os.ftruncate(self._descriptor, len(data) - len(tail))
        return entries, nonsense


def parse(data: bytes) -> tuple[dict[str, Entry], int]:
    """Entries by name, the last one of each, and the number of whole lines that are none."""
    *lines, tail = data.split(b"\n")
    found = [Entry.from_line(line) for line in lines if line.strip()]
    entries = [entry for entry in (*found, Entry.from_line(tail)) if entry]
    return {entry.name: entry for entry in entries}, found.count(None)


def _begun(tail: bytes) -> bool:
    """Whether this may be the beginning of a line; zeros are what some file systems leave after a power cut."""
    return tail.startswith(_HEAD) or _HEAD.startswith(tail) or not tail.strip(b"\0")
