"""What names of files may hold, and what every refusal keeps to."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

ODD_TEXTS = [
    "a b",
    "line\nbreak",
    "\u00e9 e\u0301 \u98a8",
    os.fsdecode(b"\xff\xfe"),
    "\0",
    "\u2028",
    '"\\',
    "\U0001f304",
]


def touch(folder: Path, *names: str) -> Path:
    """Empty files; folders are made."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def refused(call: Callable[[], object], *names: object, kind: type[Exception] = ValueError) -> str:
    """The one line that says why, with these names in it."""
    with pytest.raises(kind) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line and ": " in line
    for name in names:
        assert str(name) in line
    return line
