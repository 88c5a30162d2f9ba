"""A few pictures from file to file, in a worker. Whatever goes wrong with one of them is its own outcome."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from parallel_nst.errors import BadInput, message_of
from parallel_nst.files.digests import file_digest
from parallel_nst.files.images import Picture, read_image, write_image
from parallel_nst.files.size import Size
from parallel_nst.jobs.batch.pending import input_state
from parallel_nst.jobs.batch.stamps import Settings, Stamp, stamp_of, stamp_text
from parallel_nst.jobs.batch.stylizers import Painted, PaintPictures, Stylizer
from parallel_nst.workers.pool import Shared
from parallel_nst.workers.worker import Progress, Worker

ANY_SIZE = 1 << 62  # px: what this program has written it reads
READ_AHEAD = 1 << 22  # px of pictures that wait for others of their size


@dataclass(frozen=True)
class FileWork:
    """A picture to be painted, and where it is to lie."""

    source: Path
    output: Path


@dataclass(frozen=True)
class Writing:
    """How pictures are read and written. settings: told in the output's metadata beside the digest `recipe` of all
    that it depends on but the picture itself."""

    recipe: str
    settings: Settings
    quality: int
    max_pixels: int | None


@dataclass(frozen=True)
class FileOutcome:
    """What came of a picture. error: None when all went well. digest: SHA-256 of its file. size, modified: of the
    file, bytes and ns. width, height: of the output, px. seconds: its share of the time."""

    error: str | None = None
    digest: str | None = None
    size: int = 0
    modified: int = 0
    width: int = 0
    height: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class PaintFiles:
    """Read, paint and write some pictures; the result is a list of `FileOutcome`, one for each."""

    files: Sequence[FileWork]
    stylizer: Shared
    writing: Writing
    batch: str = field(default="batch")  # what workers keep is kept by batch

    def run(self, worker: Worker) -> Generator[Progress, None, list[FileOutcome]]:
        together, paint = worker.held(self.batch, lambda: ready(self.stylizer.get(), worker))
        outcomes = dict(paint_files(self.files, together, paint, self.writing))
        yield from ()
        return [outcomes[number] for number in range(len(self.files))]


def ready(stylizer: Stylizer, worker: Worker) -> tuple[int, PaintPictures]:
    """How many px of pictures of one size are painted together, and what paints them."""
    return stylizer.together, stylizer.ready(worker)


@dataclass(frozen=True, eq=False)
class Opened:
    """A picture that has been read."""

    number: int
    picture: Picture
    outcome: FileOutcome


def paint_files(
    files: Sequence[FileWork], together: int, paint: PaintPictures, writing: Writing
) -> Iterator[tuple[int, FileOutcome]]:
    """Outcomes by number, pictures of one size painted together, `together` px at most or a single one."""
    waiting: dict[Size, list[Opened]] = {}
    for number, work in enumerate(files):
        opened = open_file(number, work, writing)
        if isinstance(opened, FileOutcome):
            yield number, opened
            continue
        group = waiting.setdefault(opened.picture.size, [])
        group.append(opened)
        if area(group) + area(group[:1]) > together:
            yield from paint_group(waiting.pop(opened.picture.size), files, paint, writing)
        elif sum(map(area, waiting.values())) > READ_AHEAD:
            yield from paint_group(
                waiting.pop(max(waiting, key=lambda size: area(waiting[size]))), files, paint, writing
            )
    for group in waiting.values():
        yield from paint_group(group, files, paint, writing)


def area(group: Sequence[Opened]) -> int:
    """Px of pictures of one size."""
    return len(group) * group[0].picture.size.area if group else 0


def open_file(number: int, work: FileWork, writing: Writing) -> Opened | FileOutcome:
    """The picture, or what came of it: it cannot be read, or it was painted by a worker that then died."""
    began = time.perf_counter()
    try:
        if work.source.exists() and not work.source.is_file():
            raise BadInput(f"{work.source}: not a regular file: save the picture to one first")
        size, modified = input_state(work.source)
        digest = file_digest(work.source)
        known = FileOutcome(digest=digest, size=size, modified=modified)
        if stamp_of(work.output) == (digest, writing.recipe) and (size_there := whole_size(work.output)):
            return replace(known, width=size_there.width, height=size_there.height)
        picture = read_image(work.source, max_pixels=writing.max_pixels)
    except Exception as error:
        return FileOutcome(message_of(error), seconds=time.perf_counter() - began)
    notes = (picture.note,) if picture.note else ()
    return Opened(number, picture, replace(known, notes=notes, seconds=time.perf_counter() - began))


def whole_size(output: Path) -> Size | None:
    """Of a picture that can be read to its end; None where it cannot."""
    try:
        return read_image(output, max_pixels=ANY_SIZE).size
    except (OSError, ValueError, MemoryError):
        return None


def paint_group(
    group: Sequence[Opened], files: Sequence[FileWork], paint: PaintPictures, writing: Writing
) -> Iterator[tuple[int, FileOutcome]]:
    """Paint pictures of one size together, and each by itself where that fails; write them."""
    began = time.perf_counter()
    painted, failure = [], ""
    try:
        painted = paint([opened.picture for opened in group])
    except Exception as error:  # left before the next try: it holds all that the pass had in memory
        failure = message_of(error)
    if failure and len(group) == 1:
        seconds = group[0].outcome.seconds + time.perf_counter() - began
        yield group[0].number, replace(group[0].outcome, error=failure, seconds=seconds)
        return
    if failure:
        for opened in group:
            yield from paint_group([opened], files, paint, writing)
        return
    each = (time.perf_counter() - began) / len(group)
    for opened, result in zip(group, painted, strict=True):
        outcome = replace(opened.outcome, seconds=opened.outcome.seconds + each)
        yield opened.number, write_file(files[opened.number].output, result, outcome, writing)


def write_file(output: Path, painted: Painted, outcome: FileOutcome, writing: Writing) -> FileOutcome:
    """The picture as a file, stamped with what it was made from."""
    began = time.perf_counter()
    assert outcome.digest is not None
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        text = stamp_text(Stamp(outcome.digest, writing.recipe), writing.settings)
        lost = write_image(output, painted.picture, settings=text, quality=writing.quality)
    except Exception as error:
        return replace(outcome, error=message_of(error), seconds=outcome.seconds + time.perf_counter() - began)
    height, width = painted.picture.size
    return replace(
        outcome,
        width=width,
        height=height,
        seconds=outcome.seconds + time.perf_counter() - began,
        notes=(*outcome.notes, *painted.notes, *lost),
    )
