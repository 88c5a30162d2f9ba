"""Crops of pictures, and batches of them that can be made from their number alone.

Batch number s is a pure function of (seed, s): the order of an epoch is drawn from (seed, source, epoch), where and how
a crop is cut from (seed, source, epoch, picture). A run thus goes on from step s by asking for batch s; nothing about
the data is kept in checkpoints, and ranks cut one batch into slices without talking to each other.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from random import Random
from types import TracebackType
from typing import Protocol

import torch
from torch import Tensor

from parallel_nst.errors import BadInput
from parallel_nst.training.pictures import Pixels

THREADS = 2  # that make batches while the last one is trained on
AHEAD = 4  # batches made before they are asked for

Cut = Callable[[Pixels, Random], Tensor]
"""A picture and a source of randomness to a crop (3, S, S), uint8 0 to 255 or float [0, 1]."""


class TrainingPictures(Protocol):
    """Pictures by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Pixels: ...


class Batches:
    """The batches of a run by their number; of any thread. Several sources are unpaired: each has its own order."""

    def __init__(
        self,
        sources: Mapping[str, TrainingPictures],
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
        equal ones. BadInput for a batch that does not divide, or larger than a source."""
        if batch < 1 or batch % ranks:
            raise BadInput(f"a batch of {batch} cannot be shared by {ranks} workers; give a multiple of {ranks}")
        for name, source in sources.items():
            if len(source) < batch:
                raise BadInput(f"{len(source)} pictures ({name}) are fewer than a batch of {batch}; give more")
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

    def _crops(self, name: str, source: TrainingPictures, step: int) -> list[Tensor]:
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
