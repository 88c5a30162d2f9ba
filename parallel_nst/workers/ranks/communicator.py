"""How ranks talk to each other: two verbs, `gather` and `exchange`, and sums that repeat to the bit.

What a rank hears depends on what the others said, never on when: tensors arrive by rank, and whatever is added is added
in the order of ranks. So the same ranks give the same bits again. No call waits for ever: a peer that dies, or does not
answer in time, is a `PeerLost`, after which the group is of no more use.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

SMALL = 1 << 14  # numbers in all parts of a sum up to which every rank is sent all of them


class PeerLost(Exception):
    """Another rank has died or has not answered in time. The group can do nothing more."""


class Communicator(Protocol):
    """A rank's way to its peers. rank: its number, from 0; size: how many they are.

    All ranks must make the same calls in the same order. What is handed over is the others' to read from then on and
    must not be changed, and what is received may only be read.
    """

    rank: int
    size: int

    def gather(self, values: Tensor) -> list[Tensor]:
        """Everybody's tensor, in the order of ranks; all are of one shape and type. A barrier, too."""
        ...

    def exchange(self, sent: Mapping[int, Tensor], received: Mapping[int, Tensor]) -> None:
        """Send contiguous tensors to peers, by rank, and fill those that come from peers. Both ends know who sends
        what to whom."""
        ...


class Alone:
    """The only rank there is."""

    rank, size = 0, 1

    def gather(self, values: Tensor) -> list[Tensor]:
        return [values]

    def exchange(self, sent: Mapping[int, Tensor], received: Mapping[int, Tensor]) -> None:
        assert not sent and not received, "there is nobody else"


def added(parts: Iterable[Tensor]) -> Tensor:
    """Sum of tensors of one shape in float64, one after the other."""
    each = iter(parts)
    total = next(each).to(torch.float64, copy=True)
    for part in each:
        total += part
    return total


def sum_in_order(ranks: Communicator, parts: Iterable[Tensor], counts: Sequence[int]) -> Tensor:
    """The sum in float64 of all ranks' parts (n,), one after the other: rank by rank, and of each in the order given.

    So it depends on the parts alone and not on who has which, as long as their order over all ranks is the same; every
    rank gets the same bits. counts: how many parts each rank has, at least one. Parts are of one type on all ranks and
    travel in it.

    Each rank adds up a slice of the numbers and hands it round, so that as much goes through every one of them.
    """
    if ranks.size == 1:
        return added(parts)
    own = torch.stack(list(parts))
    if own.shape[1] * sum(counts) <= SMALL:
        everyone = ranks.gather(pad(own, (0, 0, 0, max(counts) - len(own))))
        return added(part for theirs, count in zip(everyone, counts, strict=True) for part in theirs[:count])
    width = -(-own.shape[1] // ranks.size)
    padded = pad(own, (0, width * ranks.size - own.shape[1]))
    slices = [padded[:, rank * width : (rank + 1) * width].contiguous() for rank in range(ranks.size)]
    received = {peer: own.new_empty(count, width) for peer, count in enumerate(counts) if peer != ranks.rank}
    ranks.exchange({peer: slices[peer] for peer in received}, received)
    theirs = received | {ranks.rank: slices[ranks.rank]}
    total = added(part for peer in range(ranks.size) for part in theirs[peer])
    return torch.cat(ranks.gather(total))[: own.shape[1]]
