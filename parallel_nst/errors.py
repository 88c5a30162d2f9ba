"""Errors in one line."""

from __future__ import annotations


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
