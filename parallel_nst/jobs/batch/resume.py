"""What a batch still has to do: what the manifest says of a picture against what lies on the disk."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Literal

import tomli_w

from parallel_nst.files.whole_files import aside_stem, cut_name
from parallel_nst.jobs.batch.inputs import Target
from parallel_nst.jobs.batch.manifest import MANIFEST, Entry, parse

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Digests = tuple[str, str]  # of an input, and of the settings that it was painted with
Found = Callable[[Path], Digests | None]  # what a picture is stamped with; None also for what is no whole picture

_BLOCK = 1 << 20  # bytes


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


def decide(target: Target, entry: Entry | None, recipe: str, *, overwrite: bool, found: Found) -> Decision:
    """Skip what is done and unchanged; paint what is new, failed, changed or missing; refuse to replace what no batch
    has written, unless told to `overwrite`.

    entry: what the manifest says of the target. recipe: digest of the settings now. found: asked only for an output
    of which the manifest does not know: stamped right, it was written by a batch that was killed before it said so.

    An input is taken for unchanged while its path, size and time of change are; else its digest is compared.
    """
    if entry and entry.state == "done" and entry.recipe == recipe and _is_whole(target.output):
        same = _unchanged(entry, target.source.path)
        if same is None:
            return Decision("do", "the input has changed")
        return Decision("skip", "done", None if same == entry else same)
    if not (entry and entry.made) and os.path.lexists(target.output):
        return _decide_on_unknown(target, recipe, overwrite, found)
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


def _decide_on_unknown(target: Target, recipe: str, overwrite: bool, found: Found) -> Decision:
    """There is an output that the manifest does not know."""
    path = target.source.path
    with suppress(OSError):  # of an input that cannot be read, which comes up again when it is painted
        stamped_with = found(target.output)
        if stamped_with and stamped_with[1] == recipe and stamped_with[0] == (digest := file_digest(path)):
            return Decision("skip", "written by a batch that was stopped", _entry(target, "done", recipe, digest))
    if overwrite:
        return Decision("do", "to be overwritten")
    error = "exists and was not made by this batch; give --overwrite or another OUT"
    return Decision("refuse", error, replace(_entry(target, "failed", recipe), error=error))


def _entry(target: Target, state: Literal["done", "failed"], recipe: str, digest: str | None = None) -> Entry:
    size, mtime_ns = input_state(target.source.path) if digest else (0, 0)
    return Entry(target.name, str(target.source.path), state, digest, size, mtime_ns, recipe)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes in hexadecimal. OSError as `open` raises it."""
    digest, block = hashlib.sha256(), memoryview(bytearray(_BLOCK))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(block[:count])
    return digest.hexdigest()


def input_state(path: Path) -> tuple[int, int]:
    """Size in bytes and time of change in ns of a file, through links. OSError as `os.stat` raises it."""
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


def earlier_outputs(out: Path, suffix: str, found: Found) -> Callable[[str], bool]:
    """For `plan_outputs`: whether the file of a name in `out` was written by a batch, when its folder is also the
    inputs'. The manifest knows, but for a batch that was killed; then `found` is asked about names with `suffix`."""
    try:
        entries, _ = parse((out / MANIFEST).read_bytes())
    except OSError:  # none yet; `Manifest.open` tells of any other reason
        entries = {}

    def made(name: str) -> bool:
        entry = entries.get(name)
        if (entry and entry.made) or not suffix:
            return entry is not None and entry.made
        return PurePosixPath(name).stem.endswith(suffix) and found(out / name) is not None

    return made


def clear_leftovers(targets: Iterable[Target]) -> int:
    """Remove what killed workers left half written beside the outputs of this plan, and nothing else; returns how many
    files. Each folder is listed once. Call it while no worker of this batch writes."""
    folders: dict[str, set[str]] = {}
    for target in targets:
        output = os.path.realpath(target.output) if target.output.is_symlink() else target.output
        folder, name = os.path.split(output)
        folders.setdefault(folder, set()).add(cut_name(name))
    return sum(_clear(folder, stems) for folder, stems in folders.items())


def _clear(folder: str, stems: set[str]) -> int:
    removed = 0
    with suppress(OSError), os.scandir(folder) as entries:  # it may not be there yet
        for entry in list(entries):
            if aside_stem(entry.name) in stems and entry.is_file(follow_symlinks=False):
                with suppress(OSError):
                    os.unlink(entry.path)
                    removed += 1
    return removed


def stamp(
    input_digest: str, recipe: str, settings: Mapping[str, str | int | float | bool] = MappingProxyType({})
) -> str:
    """Text for a picture's metadata, as TOML. settings: for people to read; no program does."""
    batch = {"input": input_digest, "recipe": recipe}
    text = tomli_w.dumps({"batch": batch, **({"settings": dict(settings)} if settings else {})})
    return text.encode("utf-8", "replace").decode("utf-8")  # a file's name may hold what is no character


def stamped(text: str) -> Digests | None:
    """The digests that `stamp` put into a text, or None."""
    try:
        batch = tomllib.loads(text).get("batch")
    except (tomllib.TOMLDecodeError, RecursionError):
        return None
    match batch:
        case {"input": str(input_digest), "recipe": str(recipe)}:
            return input_digest, recipe
    return None
