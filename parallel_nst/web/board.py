"""What is known of running jobs from one moment to the next, and who wants to hear of it. Nothing of this outlives the
server; what must, stands in the store.

Listeners are woken, never sent anything: each asks for what has changed since it last asked. So one that is slow, or
that has gone, holds nothing and holds nobody up.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

REMEMBERED = 10_000  # jobs whose changes are remembered


@dataclass(frozen=True)
class Live:
    """How far a running job is. share: of all its work, 0 to 1. scale, step: of so many scales, and of steps at this
    one. seconds_left: None where nothing can be said yet."""

    share: float
    scale: int
    scales: int
    step: int
    steps: int
    loss: float
    seconds_left: float | None


class Board:
    """Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: dict[str, Live] = {}
        self._changed: dict[str, int] = {}  # the version in which a job changed last, oldest first
        self._version = 0
        self._listeners: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self.closed = False

    @property
    def version(self) -> int:
        return self._version

    def live(self, job: str) -> Live | None:
        """None for a job that does not run."""
        return self._live.get(job)

    def update(self, job: str, live: Live) -> None:
        """Say how far a job is."""
        self._live[job] = live
        self.touch(job)

    def drop(self, job: str) -> None:
        """It runs no more."""
        self._live.pop(job, None)
        self.touch(job)

    def touch(self, job: str) -> None:
        """Something about a job has changed."""
        with self._lock:
            self._version += 1
            self._changed.pop(job, None)
            self._changed[job] = self._version
            while len(self._changed) > REMEMBERED:
                self._changed.pop(next(iter(self._changed)))
        self._wake()

    def since(self, version: int) -> tuple[int, list[str]]:
        """The version now, and all jobs that have changed after that one."""
        with self._lock:
            return self._version, [job for job, at in self._changed.items() if at > version]

    @contextmanager
    def listening(self) -> Iterator[asyncio.Event]:
        """An event of the running loop that is set at every change; whoever waits for it clears it."""
        own = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._listeners.add(own)
        try:
            yield own[1]
        finally:
            with self._lock:
                self._listeners.discard(own)

    @property
    def listeners(self) -> int:
        return len(self._listeners)

    def close(self) -> None:
        """Let all listeners go."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            for loop, event in self._listeners:
                with suppress(RuntimeError):  # of a loop that has ended
                    loop.call_soon_threadsafe(event.set)
