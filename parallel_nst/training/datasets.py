"""Pictures to train on: finding them in a folder, cutting crops, and batches that can be made from their number alone.

Batch number s is a pure function of (seed, s): the order of an epoch is drawn from (seed, source, epoch), where and how
a crop is cut from (seed, source, epoch, picture). A run thus goes on from step s by asking for batch s; nothing about
the data is kept in checkpoints, and ranks cut one batch into slices without talking to each other.
"""

from __future__ import annotations

import os
import re
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from parallel_nst.files.formats.raster import quiet
from parallel_nst.files.images import OUTPUT_SUFFIXES, read_image

SUFFIXES = frozenset(OUTPUT_SUFFIXES) | {".gif", ".jpe", ".jfif"}
CACHE_BYTES = 1 << 30
THREADS = 2  # that make batches while the last one is trained on
AHEAD = 4  # batches made before they are asked for

Pixels = NDArray[np.uint8]
"""(H, W, 3) RGB, 0 to 255."""

Cut = Callable[[Pixels, Random], Tensor]
"""A picture and a source of randomness to a crop (3, S, S), uint8 0 to 255 or float [0, 1]."""


class Source(Protocol):
    """Pictures by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Pixels: ...


@dataclass(frozen=True)
class Skipped:
    """A file that is not trained on, and why."""

    path: Path
    reason: str


def find_pictures(folder: Path, least: int) -> tuple[list[Path], list[Skipped]]:
    """All pictures in `folder` and the folders in it whose shorter side is at least `least` px, in natural order
    (2.jpg before 10.jpg), and those that are left out. Only headers are read. Files and folders whose names begin with
    a dot, and files without a picture's suffix, are passed over. ValueError when no picture is left."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give one with pictures to train on")
    found: list[Path] = []
    skipped: list[Skipped] = []
    for path in sorted(picture_files(folder), key=natural_key):
        reason = fault(path, least)
        if reason is None:
            found.append(path)
        else:
            skipped.append(Skipped(path, reason))
    if not found:
        seen = f" ({len(skipped)} left out, the first: {skipped[0].path.name}, {skipped[0].reason})" if skipped else ""
        raise ValueError(f"no picture of at least {least} px in {folder}{seen}; give a folder with JPEG or PNG files")
    return found, skipped


def picture_files(folder: Path) -> Iterator[Path]:
    """Files with a picture's suffix, at any depth, in no order."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES:
                yield Path(place, name)


def natural_key(path: Path) -> tuple[list[list[str | int]], str]:
    """Sorts numbers within names by their value, folder by folder."""
    parts = [re.split(r"([0-9]+)", part.casefold()) for part in path.parts]
    return [[int(piece) if i % 2 else piece for i, piece in enumerate(pieces)] for pieces in parts], str(path)


def fault(path: Path, least: int) -> str | None:
    """Why a picture cannot be used, by its header; None if it can."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            return "is no regular file"
        with quiet() as limit, Image.open(path) as image:
            width, height = image.size
    except Exception as error:  # decoders raise nearly anything on damaged files
        return f"cannot be read ({type(error).__name__})"
    if min(width, height) < least:
        return f"{width}x{height} is smaller than {least} px"
    if limit is not None and width * height > limit:
        return f"{width}x{height} has more than {limit} pixels"
    return None


def check_apart(first: Sequence[Path], second: Sequence[Path]) -> None:
    """ValueError when a picture is in both sets, under whatever name or link."""
    shared = {path.resolve() for path in first} & {path.resolve() for path in second}
    if shared:
        raise ValueError(
            f"{len(shared)} pictures are in both folders, such as {min(shared)}; give two that do not overlap"
        )


class Pictures:
    """Picture files as a `Source`; of any thread.

    Those that fit into the cache are decoded once. A file that turns out to be damaged behind its header is replaced
    by the next one, always by the same, and is named in `skipped`.
    """

    def __init__(self, paths: Sequence[Path], load: int | None = None, cache_bytes: int = CACHE_BYTES) -> None:
        """load: px that the shorter side is resized to; None keeps sizes. cache_bytes: for decoded pictures."""
        self.paths = tuple(paths)
        self.load = load
        self._room = cache_bytes
        self._cache: dict[int, Pixels] = {}
        self._damaged: dict[int, str] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int, /) -> Pixels:
        for number in range(index, index + len(self)):
            pixels = self._picture(number % len(self))
            if pixels is not None:
                return pixels
        raise ValueError(f"none of {len(self)} pictures can be decoded, such as {self.paths[0]}; get whole copies")

    @property
    def skipped(self) -> list[Skipped]:
        """Files found damaged so far, in order."""
        with self._lock:
            return [Skipped(self.paths[index], reason) for index, reason in sorted(self._damaged.items())]

    def _picture(self, index: int) -> Pixels | None:
        """None for a damaged one."""
        if index in self._damaged:
            return None
        kept = self._cache.get(index)
        if kept is not None:
            return kept
        try:
            pixels = decoded(self.paths[index], self.load)
        except MemoryError:
            raise
        except Exception as error:  # decoders raise nearly anything on damaged files
            with self._lock:
                self._damaged[index] = f"cannot be decoded ({' '.join(str(error).split())[:100]})"
            return None
        with self._lock:
            if index not in self._cache and pixels.nbytes <= self._room:
                self._room -= pixels.nbytes
                self._cache[index] = pixels
        return pixels


def decoded(path: Path, load: int | None) -> Pixels:
    """A file's upright pixels, the shorter side resized to `load` px if given. Bicubic, with a filter as wide as the
    reduction. Raises whatever decoders raise."""
    with Image.open(path) as file:
        if load is not None:
            file.draft("RGB", (load, load))  # a JPEG several times as large is decoded at a half, quarter or eighth
        if file.mode in ("RGB", "L"):
            image = ImageOps.exif_transpose(file).convert("RGB")
        else:  # deep, transparent, CMYK: slower, and right
            image = Image.fromarray(np.rint(read_image(path).pixels * 255).astype(np.uint8))
    if load is not None:
        shorter = min(image.size)
        size = round(image.width * load / shorter), round(image.height * load / shorter)
        image = image.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(image)


@dataclass(frozen=True)
class CropSettings:
    """How crops are cut; call it with (H, W, 3) uint8 pixels and a `Random` for (3, size, size) uint8.

    size: px, square. load: px that a picture's shorter side is resized to before (see `Pictures`), None keeps it.
    random: where it is cut; else from the centre. flip: mirror half of the crops.
    """

    size: int = 256
    load: int | None = None
    random: bool = True
    flip: bool = False

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"crops of {self.size} px are none; give a size of at least 1")
        if self.load is not None and self.load < self.size:
            raise ValueError(f"pictures of {self.load} px hold no crops of {self.size}; load them at that size or more")

    def __call__(self, pixels: Pixels, rng: Random) -> Tensor:
        height, width = pixels.shape[0] - self.size, pixels.shape[1] - self.size
        if min(height, width) < 0:
            raise ValueError(f"a picture of {pixels.shape[1]}x{pixels.shape[0]} holds no crop of {self.size} px")
        top, left = (rng.randint(0, height), rng.randint(0, width)) if self.random else (height // 2, width // 2)
        piece = pixels[top : top + self.size, left : left + self.size]
        if self.flip and rng.random() < 0.5:
            piece = piece[:, ::-1]
        return torch.from_numpy(piece.copy()).permute(2, 0, 1)


class Batches:
    """The batches of a run by their number; of any thread. Several sources are unpaired: each has its own order."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        batch: int,
        cut: Cut,
        seed: int = 0,
        *,
        shuffle: bool = True,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        """sources: by the name that their pictures have in a batch. batch: crops of each source, over all ranks.
        shuffle: anew every epoch; else in the given order. rank, ranks: this process takes slice `rank` of `ranks`
        equal ones. ValueError for a batch that does not divide, or larger than a source."""
        if batch < 1 or batch % ranks:
            raise ValueError(f"a batch of {batch} cannot be shared by {ranks} workers; give a multiple of {ranks}")
        for name, source in sources.items():
            if len(source) < batch:
                raise ValueError(f"{len(source)} pictures ({name}) are fewer than a batch of {batch}; give more")
        self.sources = dict(sources)
        self.batch, self.cut, self.seed, self.shuffle = batch, cut, seed, shuffle
        share = batch // ranks
        self._slice = slice(rank * share, (rank + 1) * share)

    @property
    def steps_per_epoch(self) -> int:
        """Of the largest source; smaller ones come round more often. What is left over of an epoch is dropped."""
        return max(len(source) for source in self.sources.values()) // self.batch

    def at(self, step: int) -> dict[str, Tensor]:
        """This rank's slice of batch `step`, from 0: (batch / ranks, 3, S, S) for each source."""
        return {name: torch.stack(self._crops(name, source, step)) for name, source in self.sources.items()}

    def _crops(self, name: str, source: Source, step: int) -> list[Tensor]:
        epoch, number = divmod(step, len(source) // self.batch)
        order = shuffled(len(source), f"{self.seed} {name} {epoch}") if self.shuffle else range(len(source))
        chosen = order[number * self.batch : (number + 1) * self.batch][self._slice]
        return [self.cut(source[i], Random(f"{self.seed} {name} {epoch} {i}")) for i in chosen]


@lru_cache(maxsize=8)
def shuffled(count: int, seed: str) -> tuple[int, ...]:
    """The numbers below `count` in an order that depends on `seed` alone."""
    order = list(range(count))
    Random(seed).shuffle(order)
    return tuple(order)


class Stream(Protocol):
    """Where batches come from by number. batch: pictures in each, over all ranks."""

    @property
    def batch(self) -> int: ...

    def at(self, step: int) -> Mapping[str, Tensor]: ...


class Prefetched:
    """The batches `first` to `last` - 1 of a stream in their order, made ahead by threads; a context and an iterator.

    waited: seconds in which the batch asked for was not there yet.
    """

    def __init__(self, stream: Stream, first: int, last: int, *, threads: int = THREADS, ahead: int = AHEAD) -> None:
        self._stream, self._numbers = stream, iter(range(first, last))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="batches")
        self._coming: deque[Future[Mapping[str, Tensor]]] = deque()
        self.waited = 0.0
        for _ in range(ahead):
            self._order_one()

    def _order_one(self) -> None:
        number = next(self._numbers, None)
        if number is not None:
            self._coming.append(self._pool.submit(self._stream.at, number))

    def __iter__(self) -> Iterator[Mapping[str, Tensor]]:
        while self._coming:
            began = time.perf_counter()
            batch = self._coming.popleft().result()
            self.waited += time.perf_counter() - began
            self._order_one()
            yield batch

    def __enter__(self) -> Prefetched:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
