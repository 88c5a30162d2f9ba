"""Words that several summaries share."""

from __future__ import annotations

from typing import Any

UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def counted(count: int, name: str) -> str:
    """'1 worker', '2 workers'."""
    return f"{count} {name}{'s' * (count != 1)}"


def crew_text(workers: int, threads: int, device: str) -> str:
    """'2 workers x 1 thread'; workers on GPUs have no threads worth a word: '2 GPU workers'."""
    if device == "cuda":
        return counted(workers, "GPU worker")
    return f"{counted(workers, 'worker')} x {counted(threads, 'thread')}"


def parts_text(report: Any, names: str) -> str:
    """'start-up 1.2, compute 3.4': the parts of a report's seconds."""
    return ", ".join(f"{name.replace('startup', 'start-up')} {getattr(report, name):.1f}" for name in names.split())


def amount(value: float, unit: str) -> str:
    """'1.5 TFLOP'."""
    for letter in ("", "k", "M", "G", "T", "P", "E"):
        if value < 999.5 or letter == "E":
            break
        value /= 1000
    return f"{value:.3g} {letter}{unit}"


def duration(seconds: float) -> str:
    """'0.35 s', '1 h 20 min'."""
    if seconds < 60:
        return f"{seconds:.2g} s"
    first = next(i for i, (length, _) in enumerate(UNITS) if seconds >= length)
    length, name = UNITS[first]
    smaller, smaller_name = UNITS[first + 1]
    whole, rest = divmod(round(seconds / smaller), length // smaller)
    return f"{whole} {name} {rest} {smaller_name}"
