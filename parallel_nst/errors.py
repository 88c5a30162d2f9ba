"""What goes wrong, and how it is said: one family of errors, each in one line that a user can act on.

PnstError
├── BadInput            what was given cannot be used (also a ValueError)
│   └── BadWeights      a file of weights is damaged, not finite, or of another network
├── Diverged            the loss has ceased to be a number
├── OutOfMemory         a worker's memory does not suffice
├── WorkerLost          a worker died, or hung, more often than it is replaced
├── Busy                more waits than may wait
└── ClusterUnavailable  Ray, or a cluster, cannot be started or reached

The system's own errors about files (OSError) go through as they are: `message_of` names the file.
"""

from __future__ import annotations


class PnstError(Exception):
    """Anything that this package raises for a reason that a user can do something about."""


class BadInput(PnstError, ValueError):
    """What was given cannot be used; the message has the value, what is allowed, and what to do."""


class BadWeights(BadInput):
    """A file of weights is damaged, holds what is not finite, or belongs to another network."""


class Diverged(PnstError, RuntimeError):
    """A loss has ceased to be a number; the message says what was kept."""


class OutOfMemory(PnstError, RuntimeError):
    """A worker's memory does not suffice; the message says what would fit."""


class WorkerLost(PnstError, RuntimeError):
    """A worker died, or hung, more often than it is replaced."""


class Busy(PnstError, RuntimeError):
    """More waits than may wait. seconds: after which to ask again."""

    def __init__(self, message: str, seconds: int) -> None:
        super().__init__(message, seconds)
        self.seconds = seconds

    def __str__(self) -> str:
        return str(self.args[0])


class ClusterUnavailable(PnstError, RuntimeError):
    """Ray, or a cluster, cannot be started or reached."""


def message_of(error: BaseException) -> str:
    """An error in one line; the operating system's own with the file it is about."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        hint = "; check the name" if isinstance(error, FileNotFoundError) else ""
        return printable(f"{error.filename}: {error.strerror}{hint}")
    return printable(str(error)) or type(error).__name__


def printable(text: str) -> str:
    """In one line, without characters that a terminal would obey: files may be named with them."""
    line = " ".join(text.split())
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)
