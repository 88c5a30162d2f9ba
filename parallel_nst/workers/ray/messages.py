"""What the ranks of a training tell the program that started them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

STATUS_SECONDS = 0.2  # least time between two reports of progress


@dataclass(frozen=True)
class Began:
    """Rank 0 begins, for the first time or once more after a death."""


@dataclass(frozen=True)
class News:
    """How far it is."""

    status: Any


@dataclass(frozen=True)
class Line:
    """Something that the user should be told."""

    text: str


@dataclass(frozen=True)
class RankFinished:
    """What rank 0 returned."""

    result: Any


@dataclass(frozen=True)
class RankFailed:
    """An error that another try would only repeat."""

    error: Exception


Message = Began | News | Line | RankFinished | RankFailed


class Mailbox:
    """Keeps messages until they are fetched; an actor."""

    def __init__(self) -> None:
        self._messages: list[Message] = []

    def put(self, message: Message) -> None:
        """Add one. Of two reports of progress with nothing in between, the later one is kept."""
        if isinstance(message, News) and self._messages and isinstance(self._messages[-1], News):
            self._messages.pop()
        self._messages.append(message)

    def take(self) -> list[Message]:
        """All since the last time, in order."""
        messages, self._messages = self._messages, []
        return messages


class Teller:
    """A rank's end: sends reports of progress not too often, everything else at once."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send
        self._sent = float("-inf")
        self._waiting: News | None = None

    def status(self, status: Any) -> None:
        """How far it is; told if the last time is long enough ago, or before whatever is told next."""
        self._waiting = News(status)
        if time.monotonic() - self._sent > STATUS_SECONDS:
            self._flush()

    def line(self, text: str) -> None:
        """Something that the user should be told."""
        self.tell(Line(text))

    def tell(self, message: Message) -> None:
        """Any other message, behind the last report of progress."""
        self._flush()
        self._send(message)

    def _flush(self) -> None:
        if self._waiting is not None:
            self._send(self._waiting)
            self._sent, self._waiting = time.monotonic(), None
