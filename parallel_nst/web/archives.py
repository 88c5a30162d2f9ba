"""Many files as one, made while it is sent: nothing of it is stored, and little of it is in memory."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from zipfile import ZipFile

READ = 1 << 20  # bytes at a time


class Outbox(io.RawIOBase):
    """Holds what was written until it is taken; it cannot be gone back in."""

    def __init__(self) -> None:
        self._held = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes, /) -> int:  # type: ignore[override]  # one kind of bytes is enough
        self._held += data
        return len(data)

    def take(self) -> bytes:
        """What was written since this was asked last."""
        taken, self._held = bytes(self._held), bytearray()
        return taken


def zipped(files: Iterable[tuple[str, Path]]) -> Iterator[bytes]:
    """The parts of a ZIP of files by the names that they are to have; those that are gone are left out."""
    outbox = Outbox()
    with ZipFile(outbox, "w") as archive:  # without compression: pictures have their own
        for name, path in files:
            if not path.exists():
                continue
            with path.open("rb") as source, archive.open(name, "w") as entry:
                while data := source.read(READ):
                    entry.write(data)
                    yield outbox.take()
    yield outbox.take()
