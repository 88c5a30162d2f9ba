"""What a batch still has to do: what the manifest says of a picture against what lies on the disk."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from parallel_nst.files.digests import file_digest
from parallel_nst.jobs.batch.manifest import MANIFEST, Entry, parse
from parallel_nst.jobs.batch.outputs import BatchPicture
from parallel_nst.jobs.batch.stamps import Stamp

StampOf = Callable[[Path], Stamp | None]  # what a file is stamped with; None also for what is no whole picture


@dataclass(frozen=True)
class Decision:
    """What to do with a picture, and why. entry: what the manifest is to be told at once, or None."""

    action: Literal["do", "skip", "refuse"]
    reason: str
    entry: Entry | None = None

    @property
    def paint(self) -> bool:
        """Whether the picture is to be painted."""
        return self.action == "do"


def decide(picture: BatchPicture, entry: Entry | None, recipe: str, *, overwrite: bool, stamp_of: StampOf) -> Decision:
    """Skip what is done and unchanged; paint what is new, failed, changed or missing; refuse to replace what no batch
    has written, unless told to `overwrite`.

    entry: what the manifest says of the picture. recipe: digest of the settings now. stamp_of: asked only for an output
    of which the manifest does not know: stamped right, it was written by a batch that was killed before it said so.

    An input is taken for unchanged while its path, size and time of change are; else its digest is compared.
    """
    if entry and entry.state == "done" and entry.recipe == recipe and _is_whole(picture.output):
        same = _unchanged(entry, picture.source.path)
        if same is None:
            return Decision("do", "the input has changed")
        return Decision("skip", "done", None if same == entry else same)
    if not (entry and entry.made) and os.path.lexists(picture.output):
        return _decide_on_unknown(picture, recipe, overwrite, stamp_of)
    if entry is None:
        return Decision("do", "new")
    if entry.state == "failed":
        return Decision("do", "failed before")
    return Decision("do", "the output is missing" if entry.recipe == recipe else "the settings have changed")


def _is_whole(output: Path) -> bool:
    """Whether there is a file with something in it: after a power cut it may be empty."""
    with suppress(OSError):
        found = os.stat(output)
        return stat.S_ISREG(found.st_mode) and found.st_size > 0
    return False


def _unchanged(entry: Entry, path: Path) -> Entry | None:
    """The entry with path and time as they are now; None if the input is another, or cannot be read."""
    try:
        size, mtime_ns = input_state(path)
        now = replace(entry, source=str(path), mtime_ns=mtime_ns)
        same = size == entry.size and (now == entry or file_digest(path) == entry.input_digest)
    except OSError:
        return None
    return now if same else None


def _decide_on_unknown(picture: BatchPicture, recipe: str, overwrite: bool, stamp_of: StampOf) -> Decision:
    """There is an output that the manifest does not know."""
    path = picture.source.path
    with suppress(OSError):  # of an input that cannot be read, which comes up again when it is painted
        stamp = stamp_of(picture.output)
        if stamp and stamp.recipe == recipe and stamp.input == (digest := file_digest(path)):
            return Decision("skip", "written by a batch that was stopped", _entry(picture, "done", recipe, digest))
    if overwrite:
        return Decision("do", "to be overwritten")
    error = "exists and was not made by this batch; give --overwrite or another OUT"
    return Decision("refuse", error, replace(_entry(picture, "failed", recipe), error=error))


def _entry(picture: BatchPicture, state: Literal["done", "failed"], recipe: str, digest: str | None = None) -> Entry:
    size, mtime_ns = input_state(picture.source.path) if digest else (0, 0)
    return Entry(picture.name, str(picture.source.path), state, digest, size, mtime_ns, recipe)


def input_state(path: Path) -> tuple[int, int]:
    """Size in bytes and time of change in ns of a file, through links. OSError as `os.stat` raises it."""
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


def earlier_outputs(out: Path, suffix: str, stamp_of: StampOf) -> Callable[[str], bool]:
    """For `plan_outputs`: whether the file of a name in `out` was written by a batch, when its folder is also the
    inputs'. The manifest knows, but for a batch that was killed; then `stamp_of` is asked about names with `suffix`."""
    try:
        entries, _ = parse((out / MANIFEST).read_bytes())
    except OSError:  # none yet; `Manifest.open` tells of any other reason
        entries = {}

    def made(name: str) -> bool:
        entry = entries.get(name)
        if (entry and entry.made) or not suffix:
            return entry is not None and entry.made
        return PurePosixPath(name).stem.endswith(suffix) and stamp_of(out / name) is not None

    return made
