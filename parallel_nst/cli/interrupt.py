"""Ctrl-C, a request to end and a closed terminal, from the first import of the program on: all three stop a run in the
same clean way."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import NoReturn

STOPPED = 130  # exit code after Ctrl-C, which is 128 and the number of its signal
RAYS = "parallel_nst.workers.ray.cluster"  # not imported for this: it loads Ray
IMPORTING = "importlib._bootstrap"
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

_heard: list[int] = []  # signals, in their order


def hear() -> None:
    """Let the signals that stop a program go to `on_interrupt`, but for those that it was started deaf to, as a shell's
    background jobs are to SIGINT and what `nohup` starts is to SIGHUP."""
    for number in SIGNALS:
        if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
            signal.signal(number, on_interrupt)


def on_interrupt(number: int, frame: FrameType | None) -> None:
    """KeyboardInterrupt; while a library is being loaded the end of the program, for an exception that passes through
    PyTorch's C++ code there would end it by `std::terminate`."""
    _heard.append(number)
    for cluster in getattr(sys.modules.get(RAYS), "CLUSTERS", ()):
        cluster.end_with_program()
    while frame is not None:
        if frame.f_globals.get("__name__") == IMPORTING:
            with suppress(OSError):
                os.write(2, b"pnst: stopped\n")
            end_now(stop_code())
        frame = frame.f_back
    raise KeyboardInterrupt


def stop_code() -> int:
    """The exit code of a program that was stopped: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP."""
    return 128 + _heard[0] if _heard else STOPPED


def was_stopped() -> bool:
    """Whether a signal has come."""
    return bool(_heard)


def end_now(code: int) -> NoReturn:
    """End the program without its exit handlers, with a Ray that it has started."""
    rays = sys.modules.get(RAYS)
    getattr(rays, "end_program", os._exit)(code)  # not there yet while that module is being loaded itself
    raise AssertionError("the program has ended")
