"""Ctrl-C, from the first import of the program on."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

STOPPED = 130  # exit code after Ctrl-C
IMPORTING = "importlib._bootstrap"


def hear() -> None:
    """Let SIGINT go to `on_interrupt`, unless the program was started deaf to it, as a shell's background jobs are."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, on_interrupt)


def on_interrupt(number: int, frame: FrameType | None) -> None:
    """KeyboardInterrupt; while a library is being loaded the end of the program, for an exception that passes through
    PyTorch's C++ code there would end it by `std::terminate`."""
    while frame is not None:
        if frame.f_globals.get("__name__") == IMPORTING:
            os.write(2, b"pnst: stopped\n")
            end_now(STOPPED)
        frame = frame.f_back
    raise KeyboardInterrupt


def end_now(code: int) -> NoReturn:
    """End the program without its exit handlers, with a Ray that it has started."""
    rays = sys.modules.get("parallel_nst.workers.ray.cluster")  # not imported for this: it loads Ray
    getattr(rays, "end_program", os._exit)(code)  # not there yet while that module is being loaded itself
    raise AssertionError("the program has ended")
