"""SHA-256 of whatever is to be recognised again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

_BLOCK = 1 << 20  # bytes
_SHORT = 16  # digits: enough where nobody looks for two contents with one digest


def digest_of(parts: Iterable[bytes | memoryview]) -> str:
    """Of these bytes one after the other, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def short_digest(parts: Iterable[bytes | memoryview]) -> str:
    """The first 16 digits of `digest_of`."""
    return digest_of(parts)[:_SHORT]


def file_digest(path: Path) -> str:
    """Of a file's bytes, 64 hexadecimal digits. OSError as `open` raises it."""
    digest, block = hashlib.sha256(), memoryview(bytearray(_BLOCK))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(block[:count])
    return digest.hexdigest()
