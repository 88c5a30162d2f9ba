"""Names of the files that a picture is written to before it takes its place: hidden, beside it, and told from others.

`.NAME.0123456789abcdef.pnst` for a picture NAME, so that what a killed process has left can be found again from
the picture's name alone.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets

LONGEST = 255  # bytes of a name, on nearly all file systems
_TAIL = re.compile(r"\.[0-9a-f]{16}\.pnst")
_ROOM = LONGEST - len("." + "." + 16 * "0" + ".pnst")


def aside_name(name: str) -> str:
    """A hidden new name for what will become `name`; neither has a folder. At most 255 bytes, if need be cut."""
    return f".{cut_name(name)}.{secrets.token_hex(8)}.pnst"


def is_aside(name: str, of: str) -> bool:
    """Whether `name` is one that `aside_name(of)` gives."""
    return aside_stem(name) == cut_name(of)


def aside_stem(name: str) -> str | None:
    """What all names that `aside_name` gives for one file have in common, or None for any other name."""
    tail = _TAIL.search(name, max(1, len(name) - 22))
    return name[1 : tail.start()] if tail and tail.end() == len(name) and name.startswith(".") else None


def cut_name(name: str) -> str:
    """The name, or so much of it as there is room for with a digest of the whole: long names often begin alike."""
    raw = os.fsencode(name)
    if len(raw) <= _ROOM:
        return name
    digest = "~" + hashlib.sha256(raw).hexdigest()[:8]
    end = _ROOM - len(digest)
    while raw[end] & 0xC0 == 0x80:  # not within a character
        end -= 1
    return os.fsdecode(raw[:end]) + digest
