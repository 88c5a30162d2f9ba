"""The machine that something was measured on, and the memory that it took there."""

from __future__ import annotations

import ctypes
import gc
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from threading import Event, Thread
from types import TracebackType

import psutil  # type: ignore[import-untyped]

from parallel_nst.workers import opening as pools

SAMPLE_SECONDS = 0.1  # between two looks at the memory; the arrays of a step live about as long
PACKAGES = ("parallel-nst", "torch", "ray", "numpy", "opencv-python-headless")


@dataclass(frozen=True)
class Machine:
    """memory: bytes. cores: those this process may run on. versions: of Python and packages."""

    system: str
    processor: str
    cores: int
    memory: int
    versions: Mapping[str, str]


def this_machine() -> Machine:
    """What this process runs on."""
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=processor_name(),
        cores=pools.usable_cores(),
        memory=int(psutil.virtual_memory().total),
        versions={"Python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    )


def processor_name() -> str:
    """The processor's own name where the system tells it, or its kind."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


class PeakMemory:
    """Looks now and then, while its `with` block runs, at the memory of this process and all it has started.

    bytes: the most that they held together. Linux tells a process's proportional share (PSS), which counts memory that
    processes share once; elsewhere what each has for itself is added up (USS).
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._end = Event()
        self._thread = Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.bytes = max(self.bytes, sum(held()))
            if self._end.wait(SAMPLE_SECONDS):
                return


def held() -> Iterator[int]:
    """Bytes held by this process and by each below it; those that end meanwhile are left out."""
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        with suppress(psutil.Error):
            memory = process.memory_full_info()
            yield int(getattr(memory, "pss", memory.uss))


def release_memory() -> None:
    """Give memory that is free in this process back to the system, so that one measurement does not count what the one
    before has left. Workers tell glibc to keep it; another C library is left to itself."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
