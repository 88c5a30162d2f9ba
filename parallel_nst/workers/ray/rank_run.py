"""Ranks in Ray actors: one piece of work for each, done at once, and what becomes of it when one dies or hangs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.exceptions import GetTimeoutError, ObjectLostError, RayTaskError

from parallel_nst.errors import ClusterUnavailable, OutOfMemory, WorkerLost
from parallel_nst.workers.pool import Events, Handed, HandedLost, RanksLost, RankWork
from parallel_nst.workers.ranks.communicator import PeerLost
from parallel_nst.workers.ranks.meeting import Unreachable
from parallel_nst.workers.ranks.stations import check_alike, station_here
from parallel_nst.workers.ray.actors import Announced, Slot, TaskFinished, hung
from parallel_nst.workers.ray.cluster import first_line
from parallel_nst.workers.ray.lifeline import CONNECTION, in_use
from parallel_nst.workers.ray.memory_kills import memory_kills
from parallel_nst.workers.ray.reasons import LOST, WorkerTraceback, cause_of, reason_of
from parallel_nst.workers.ray.shared_values import Received, payload
from parallel_nst.workers.worker import out_of_memory

WAIT_SECONDS = 0.2  # of one call of Ray, in which Ctrl-C is not heard
MEET_SECONDS = 60.0  # within which the first rank must have opened a store
GRACE_SECONDS = 15.0  # within which the others must have noticed


@dataclass(eq=False)
class Rank:
    """One of the ranks. stream: of its messages, None once it has ended. announced: what the next of them is, where it
    is to be kept and not to be read; held: that message.
    """

    number: int
    slot: Slot
    stream: Any
    announced: Any = None
    held: Any = None


class RankRun:
    """Works done by the actors of as many slots, which are up. An actor that is lost is dismissed; the pool fills its
    slot again. ClusterUnavailable where the machines do not go together. moved: bytes of the works."""

    def __init__(self, slots: Sequence[Slot], works: Sequence[RankWork], device: str) -> None:
        self._device = device
        self._results: dict[int, Any] = {}
        self._reason: WorkerLost | OutOfMemory | None = None  # why a rank was lost
        self._unreachable: str | None = None  # who cannot reach whom, and perhaps never could
        self._broken: str | None = None  # what another one saw of it
        self._lost_values: str | None = None  # what became of values that were kept for the ranks
        self._error: BaseException | None = None  # of the work itself
        self._failed = float("inf")  # when the first of these happened
        self._here, self._kills = ray.util.get_node_ip_address(), memory_kills()
        self._ranks: list[Rank] = []
        self.moved = 0
        check_together(slots, self._here)
        try:
            meeting = ray.get(slots[0].actor.open_store.remote(), timeout=MEET_SECONDS)
        except (*LOST, GetTimeoutError) as error:
            slots[0].dismiss()
            raise RanksLost(f"the first worker did not answer ({first_line(error)})") from None
        try:
            for number, slot in enumerate(slots):
                self._send(works[number], number, slot, (len(works), meeting))
        except HandedLost:  # a work carries something that is no longer there
            for rank in self._ranks:
                rank.slot.dismiss()
            raise

    def _send(self, work: RankWork, number: int, slot: Slot, group: tuple[int, Any]) -> None:
        """Hand a rank its work, which is nobody's afterwards. group: how many they are, and where they meet."""
        self.moved += payload(work)
        received = slot.actor.receive.remote(work)
        self._ranks.append(Rank(number, slot, slot.actor.work_as_rank.remote(received, number, *group)))

    def events(self) -> Events:
        """What they tell, until all have ended; then their results. RanksLost when one is lost, OutOfMemory when it was
        for its memory, ClusterUnavailable when all live and do not reach each other; an error of the work is raised as
        it is."""
        try:
            while any(rank.stream for rank in self._ranks):
                with in_use():
                    heard = self._listen()
                yield from heard
        finally:
            for rank in self._ranks:
                if rank.stream:
                    rank.slot.dismiss()
        self._raise()
        return [self._results[number] for number in range(len(self._ranks))]

    def _raise(self) -> None:
        """What has gone wrong, if anything has: what explains the rest comes first."""
        if self._error is not None:
            raise self._error
        if self._lost_values is not None:
            raise HandedLost(self._lost_values)
        if isinstance(self._reason, OutOfMemory):
            raise self._reason
        if self._reason is not None:
            raise RanksLost(str(self._reason))
        if self._unreachable is not None:
            raise ClusterUnavailable(self._unreachable)
        if self._broken is not None:
            raise RanksLost(f"workers no longer reach each other ({self._broken})")

    def _listen(self) -> list[tuple[int, Any]]:
        """What they have told meanwhile."""
        streams = {rank.stream: rank for rank in self._ranks if rank.stream}
        ready, _ = ray.wait(list(streams), timeout=WAIT_SECONDS, fetch_local=False)
        heard = [event for stream in ready for event in self._read(streams[stream])]
        self._look_after()
        return heard

    def _read(self, rank: Rank) -> Iterator[tuple[int, Any]]:
        """The next message of a rank, if it is one for the caller."""
        try:
            reference = next(rank.stream, None)
            if reference is None and rank.held is None:
                rank.stream = None
                return
            if reference is not None and rank.announced and rank.held is None:
                rank.held = reference
                return
            message = ray.get(reference or rank.held)  # held at the end: why it ended before it had handed that out
        except RayTaskError as error:
            rank.stream = None
            cause = cause_of(error)
            if isinstance(cause, Unreachable):
                self._unreachable = str(cause)
            elif isinstance(cause, PeerLost):
                self._broken = self._broken or str(cause)
            elif isinstance(cause, ObjectLostError | HandedLost):
                self._lost_values = first_line(cause)
            else:
                cause.__cause__ = WorkerTraceback(str(error))
                self._error = self._error or cause
                if isinstance(cause, OutOfMemory):
                    rank.slot.dismiss()  # autograd keeps what was left of a backward pass as long as its thread lives
            self._failed = min(self._failed, time.monotonic())
        except LOST as error:
            self._reason = self._reason or self._reason_of(error, rank.slot)
            self._lose(rank)
        else:
            yield from self._heard(rank, message)

    def _reason_of(self, error: Exception, slot: Slot) -> WorkerLost | OutOfMemory:
        """What a rank died of. Where it was on this machine, also whether the system has killed for memory since."""
        reason = reason_of(error, self._device)
        here = slot.station is not None and slot.station.address == self._here
        if isinstance(reason, OutOfMemory) or not here or memory_kills() == self._kills:
            return reason
        return OutOfMemory(f"a worker was stopped by the system: {out_of_memory('cpu')}")

    def _heard(self, rank: Rank, message: Any) -> Iterator[tuple[int, Any]]:
        if isinstance(message, TaskFinished):
            self._results[rank.number] = message.result
        elif isinstance(message, Announced) and rank.held is None:
            rank.announced = message
        elif isinstance(message, Announced):  # said once more: what was announced has arrived
            handed, rank.held, rank.announced = Received(rank.held, CONNECTION.number), None, None
            yield rank.number, Handed(message.label, handed)
        else:
            yield rank.number, message

    def _look_after(self) -> None:
        """Ask each rank for a sign of life, and give up those that have had time enough: to give one or, after another
        was lost, to end."""
        now = time.monotonic()
        for rank in [rank for rank in self._ranks if rank.stream]:
            if rank.slot.pulse.stopped(rank.slot.actor):
                self._reason = self._reason or WorkerLost(hung())
                self._lose(rank)
            elif now - self._failed > GRACE_SECONDS:
                self._broken = self._broken or "a worker did not end when another was lost"
                self._lose(rank)

    def _lose(self, rank: Rank) -> None:
        rank.stream = None
        rank.slot.dismiss()
        self._failed = min(self._failed, time.monotonic())


def check_together(slots: Sequence[Slot], address: str) -> None:
    """ClusterUnavailable, in one line, where the workers of these slots, or this program, are not alike; its own device
    may be another one. address: of this machine."""
    stations = [slot.station for slot in slots if slot.station is not None]
    if stations:
        check_alike([station_here(address, torch.device(stations[0].device)), *stations])
