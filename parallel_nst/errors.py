"""Errors in one line."""

from __future__ import annotations


def message_of(error: BaseException) -> str:
    """An error in one line; the operating system's own with the file it is about."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        hint = "; check the name" if isinstance(error, FileNotFoundError) else ""
        return f"{error.filename}: {error.strerror}{hint}"
    return " ".join(str(error).split()) or type(error).__name__
