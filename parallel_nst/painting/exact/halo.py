"""Halos: what a tile reads of other ranks' cores comes from them, and the gradient by it goes back to them.

The second is the adjoint of the first. Which rectangles cross is known from the geometry alone: each rank sends one
message to each neighbour, in which they lie by reader, then by core.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate, groupby, pairwise

import torch
from torch import Tensor

from parallel_nst.painting.tiles.geometry import Rect
from parallel_nst.painting.tiles.ownership import CHANNELS, Crossing, Ownership, crossings
from parallel_nst.workers.ranks.communicator import Communicator

Messages = Mapping[int, Tensor]  # flat, by rank


class Halo:
    """The halos of a rank's tiles. shard: where the rank's pixels lie."""

    def __init__(self, ownership: Ownership, ranks: Communicator) -> None:
        own = ownership.of(ranks.rank)
        self.shard = ownership.shard(ranks.rank)
        self._ranks = ranks
        self._read = {tile.index: tile.read for tile in own}
        read = crossings(own, ownership.tiles)
        lent = crossings(ownership.tiles, own)
        self._reads = {reader: list(group) for reader, group in groupby(read, lambda crossing: crossing.reader)}
        self._readers = readers_of(lent)
        self._fetched = by_rank((c for c in read if c.core not in self.shard.cores), lambda c: ownership.owner(c.core))
        self._lent = by_rank((c for c in lent if c.reader not in self.shard.cores), lambda c: ownership.owner(c.reader))
        self._place = {
            (crossing.reader, crossing.core): (peer, part)
            for peer, theirs in self._fetched.items()
            for crossing, part in zip(theirs, parts(theirs), strict=True)
        }

    def fetch(self, flat: Tensor) -> Messages:
        """What `read` needs of other ranks' pixels; flat: this rank's own. All ranks do this at once."""
        received = self._messages(self._fetched, flat)
        sent = {
            peer: torch.cat([self._view(flat, crossing).reshape(-1) for crossing in theirs])
            for peer, theirs in self._lent.items()
        }
        self._ranks.exchange(sent, received)
        return received

    def read(self, flat: Tensor, received: Messages, index: int) -> Tensor:
        """The pixels (1, 3, h, w) that tile `index` reads. A tile that reads its core alone gets a view of it."""
        read = self._read[index]
        if read == self.shard.cores[index]:
            return self.shard.core(flat, index)[None]
        pixels = flat.new_empty(1, CHANNELS, read.height, read.width)
        for crossing in self._reads[index]:
            if crossing.core in self.shard.cores:
                values = self._view(flat, crossing)
            else:
                values = self._received(received, crossing)
            window(pixels[0], crossing.rect.within(read)).copy_(values)
        return pixels

    def gradient(self, like: Tensor) -> HaloGradient:
        """A gradient to be added up; like: this rank's own pixels."""
        return HaloGradient(self, like)

    def _messages(self, crossings: Mapping[int, list[Crossing]], like: Tensor) -> dict[int, Tensor]:
        """Room for these rectangles."""
        return {peer: like.new_empty(sum(c.elements for c in theirs)) for peer, theirs in crossings.items()}

    def _view(self, flat: Tensor, crossing: Crossing) -> Tensor:
        """The rectangle (3, h, w) of an own core."""
        return window(self.shard.core(flat, crossing.core), crossing.rect.within(self.shard.cores[crossing.core]))

    def _received(self, messages: Messages, crossing: Crossing) -> Tensor:
        """The rectangle (3, h, w) of another rank's core in what was, or will be, exchanged with it."""
        peer, part = self._place[crossing.reader, crossing.core]
        return messages[peer][part].view(CHANNELS, crossing.rect.height, crossing.rect.width)


class HaloGradient:
    """The gradient by a picture, as its tiles' gradients come in.

    To every core they are added in the order of tiles, which is why some must wait for those of other ranks: so the
    bits do not depend on who owns what.
    """

    def __init__(self, halo: Halo, like: Tensor) -> None:
        self._halo = halo
        self._flat = torch.zeros_like(like)
        self._returned = halo._messages(halo._fetched, like)
        self._due = {core: list(reversed(readers)) for core, readers in halo._readers.items()}
        self._waiting: dict[tuple[int, int], tuple[Crossing, Tensor]] = {}  # by core and reader

    def add(self, index: int, gradient: Tensor) -> None:
        """Take in the gradient (1, 3, h, w) by the pixels that tile `index` reads; each tile once."""
        read = self._halo._read[index]
        for crossing in self._halo._reads[index]:
            values = window(gradient[0], crossing.rect.within(read))
            if crossing.core in self._halo.shard.cores:
                self._add(crossing, values)
            else:
                self._halo._received(self._returned, crossing).copy_(values)

    def result(self) -> Tensor:
        """The gradient by this rank's own pixels, flat, once all its tiles are in. All ranks do this at once."""
        halo = self._halo
        received = halo._messages(halo._lent, self._flat)
        halo._ranks.exchange(self._returned, received)
        for peer, theirs in halo._lent.items():
            for crossing, part in zip(theirs, parts(theirs), strict=True):
                self._add(crossing, received[peer][part].view(CHANNELS, crossing.rect.height, crossing.rect.width))
        assert not self._waiting
        return self._flat

    def _add(self, crossing: Crossing, values: Tensor) -> None:
        """Add what a tile gives to an own core, and what has waited for it; or let it wait."""
        core, due = crossing.core, self._due[crossing.core]
        if due[-1] != crossing.reader:
            self._waiting[core, crossing.reader] = crossing, values.clone()
            return
        self._halo._view(self._flat, crossing).add_(values)
        due.pop()
        while due and (core, due[-1]) in self._waiting:
            late, kept = self._waiting.pop((core, due.pop()))
            self._halo._view(self._flat, late).add_(kept)


def window(values: Tensor, rect: Rect) -> Tensor:
    """A rectangle of (3, H, W), as a view."""
    return values[:, rect.top : rect.bottom, rect.left : rect.right]


def readers_of(lent: Iterable[Crossing]) -> dict[int, list[int]]:
    """The tiles that read each core, in their order."""
    readers: dict[int, list[int]] = defaultdict(list)
    for crossing in lent:
        readers[crossing.core].append(crossing.reader)
    return readers


def by_rank(crossings: Iterable[Crossing], rank_of: Callable[[Crossing], int]) -> dict[int, list[Crossing]]:
    """The same, in their order, by the rank at the other end."""
    found: dict[int, list[Crossing]] = defaultdict(list)
    for crossing in crossings:
        found[rank_of(crossing)].append(crossing)
    return dict(found)


def parts(crossings: Iterable[Crossing]) -> list[slice]:
    """Where each one's elements lie in a message of all."""
    ends = list(accumulate((crossing.elements for crossing in crossings), initial=0))
    return [slice(start, end) for start, end in pairwise(ends)]
