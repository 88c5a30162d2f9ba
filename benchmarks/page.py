"""What every benchmark's page has: the question, the machine, tables, medians with their spread."""

from __future__ import annotations

import platform
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path


def machine() -> str:
    """Processor, cores and versions, as a line of text."""
    from parallel_nst.workers.opening import (
        usable_cores,  # loads PyTorch, whose pages a program that measures memory would share
    )

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = lines[0] if lines else model
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray", "numpy"))
    return f"{model}, {usable_cores()} cores, Python {platform.python_version()}, {versions}"


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median, and least to greatest where there are several."""
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in [header, ["---"] * len(header), *rows]]
    return "\n".join(lines)


def write(program: str, title: str, parts: Iterable[str], *, name: str = "", quick: bool = False) -> Path:
    """The page beside the program: tiles.py writes tiles.md, or the page of this name. quick: among the temporary
    files, so that a run which only shows that the program works does not take the place of its results."""
    folder = Path(tempfile.gettempdir()) if quick else Path(program).parent
    path = folder / f"{name or Path(program).stem}.md"
    text = [f"# {title}", f"Written by `benchmarks/{Path(program).name}`. {machine()}.", *parts]
    path.write_text("\n\n".join(text) + "\n", encoding="utf-8")
    return path
