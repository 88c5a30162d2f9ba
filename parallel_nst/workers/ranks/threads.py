"""Ranks that are threads of one process: tensors change hands without being copied on the way."""

from __future__ import annotations

from collections.abc import Mapping
from queue import Empty, SimpleQueue

from torch import Tensor

from parallel_nst.workers.ranks.communicator import PeerLost


class ThreadGroup:
    """So many ranks, each with its `communicator` in a thread of its own.

    seconds: how long a rank waits for another one.
    """

    def __init__(self, size: int, seconds: float) -> None:
        self.seconds = seconds
        self._boxes: dict[tuple[int, int], SimpleQueue[Tensor | None]] = {
            (sender, receiver): SimpleQueue() for sender in range(size) for receiver in range(size)
        }
        self.communicators = [ThreadCommunicator(rank, size, self) for rank in range(size)]

    def put(self, sender: int, receiver: int, values: Tensor) -> None:
        self._boxes[sender, receiver].put(values)

    def take(self, sender: int, receiver: int) -> Tensor:
        """What comes next on this way; PeerLost when nothing does."""
        try:
            values = self._boxes[sender, receiver].get(timeout=self.seconds)
        except Empty:
            raise PeerLost(f"rank {sender} has not answered within {self.seconds:g} s") from None
        if values is None:
            self._boxes[sender, receiver].put(None)
            raise PeerLost(f"rank {sender} has given up")
        return values

    def abort(self) -> None:
        """Let nobody wait any longer, now or later."""
        for box in self._boxes.values():
            box.put(None)


class ThreadCommunicator:
    """As `Communicator`, in a thread."""

    def __init__(self, rank: int, size: int, group: ThreadGroup) -> None:
        self.rank, self.size = rank, size
        self._group = group

    def gather(self, values: Tensor) -> list[Tensor]:
        for peer in range(self.size):
            self._group.put(self.rank, peer, values)
        return [self._group.take(peer, self.rank).to(values.device) for peer in range(self.size)]

    def exchange(self, sent: Mapping[int, Tensor], received: Mapping[int, Tensor]) -> None:
        for peer, values in sent.items():
            self._group.put(self.rank, peer, values)
        for peer, values in received.items():
            values.copy_(self._group.take(peer, self.rank))
