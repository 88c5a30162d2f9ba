"""The pictures of a training: which there are, which are left out, and what tells them from others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from parallel_nst.errors import BadInput
from parallel_nst.files.digests import file_digest, short_digest
from parallel_nst.training.pictures import Skipped, check_apart, find_pictures

MOST_NAMED = 5  # skipped pictures of a folder that are named


@dataclass(frozen=True)
class Pictured:
    """The pictures of a job, by source, and those that are left out."""

    paths: Mapping[str, Sequence[Path]]
    skipped: Mapping[str, Sequence[Skipped]]


def pictures_of(
    folders: Mapping[str, Path], least: int, notify: Callable[[str], None], max_pixels: int | None = None
) -> Pictured:
    """All pictures of at least `least` px, found by their headers; says which are left out. BadInput where there are
    none, and where A and B have some in common."""
    paths: dict[str, Sequence[Path]] = {}
    skipped: dict[str, Sequence[Skipped]] = {}
    for name, folder in folders.items():
        paths[name], skipped[name] = find_pictures(folder, least, max_pixels)
        for line in lines_about(folder, skipped[name]):
            notify(line)
    if len(paths) == 2:
        first, second = paths.values()
        check_apart(first, second)
        check_contents_apart(first, second)
    return Pictured(paths, skipped)


def lines_about(folder: Path, skipped: Sequence[Skipped]) -> list[str]:
    """How many pictures of a folder are left out, and the first of them."""
    if not skipped:
        return []
    lines = [f"{folder}: {len(skipped)} picture{'s' * (len(skipped) != 1)} left out"]
    lines += [f"{entry.path}: {entry.reason}" for entry in skipped[:MOST_NAMED]]
    return [*lines, f"and {len(skipped) - MOST_NAMED} more"] if len(skipped) > MOST_NAMED else lines


def check_contents_apart(first: Sequence[Path], second: Sequence[Path]) -> None:
    """BadInput when a file of one set is a copy of one of the other. Only files of equal size are read."""
    ours, theirs = by_size(first), by_size(second)
    sizes = sorted(ours.keys() & theirs.keys())
    known = {file_digest(path): path for size in sizes for path in ours[size]}
    for path in (path for size in sizes for path in theirs[size]):
        if twin := known.get(file_digest(path)):
            raise BadInput(f"{path} is a copy of {twin}; give two folders that do not overlap")


def by_size(paths: Iterable[Path]) -> dict[int, list[Path]]:
    """Files by their bytes."""
    found: dict[int, list[Path]] = defaultdict(list)
    for path in paths:
        found[path.stat().st_size].append(path)
    return found


def digest_or_none(path: Path | None) -> str:
    """SHA-256 of a file, in hexadecimal; empty for none."""
    return "" if path is None else file_digest(path)


def names_in(folder: Path, paths: Sequence[Path]) -> str:
    """How many pictures, and a digest of their names within the folder."""
    names = "\n".join(path.relative_to(folder).as_posix() for path in paths)
    return f"{len(paths)} {short_digest([names.encode()])}"
