"""Processes that decode pictures, from the side of those who ask them (see `decoding`)."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from parallel_nst.errors import BadInput
from parallel_nst.files.images import Picture
from parallel_nst.files.size import Size

MEMORY = 3 << 30  # bytes: a picture of 50 megapixels in float32, five times
SECONDS = 30.0  # for one picture
READ = 1 << 20  # bytes at a time
MOST_TEXT = 1 << 20  # bytes of an answer before its arrays


class NoAnswer(Exception):
    """A process took too long, or ended."""


class DecodeProcess:
    """One process: started when it is asked, and started anew after it was ended."""

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, question: Mapping[str, Any], seconds: float) -> tuple[dict[str, Any], np.ndarray | None]:
        """The answer, and the array behind it. NoAnswer, and the process is ended, where none comes in time."""
        until = time.monotonic() + seconds
        try:
            process = self._started()
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
            text, rest = read_line(process.stdout.fileno(), until)
            told = json.loads(text)
            if "shape" not in told:
                return told, None
            array = np.empty(told["shape"], np.float32)
            read_into(process.stdout.fileno(), array.data.cast("B"), rest, until)
            return told, array
        except BaseException as error:
            self.close()
            if isinstance(error, (OSError, ValueError)):
                raise NoAnswer from None
            raise

    def close(self) -> None:
        """End it, at once."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            for stream in (process.stdin, process.stdout):
                with suppress(OSError):
                    stream.close()  # type: ignore[union-attr]
            process.wait()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            command = [sys.executable, "-m", "parallel_nst.web.decoding", str(self._memory)]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        return self._process


def read_line(stream: int, until: float) -> tuple[bytes, bytes]:
    """Up to the first end of a line, and what was read behind it."""
    read = b""
    while b"\n" not in read:
        if len(read) > MOST_TEXT:
            raise NoAnswer
        read += some(stream, READ, until)
    text, _, rest = read.partition(b"\n")
    return text, rest


def read_into(stream: int, memory: memoryview, begun: bytes, until: float) -> None:
    """Fill the memory, first with what was read before."""
    memory[: len(begun)] = begun
    at = len(begun)
    while at < len(memory):
        got = some(stream, min(READ, len(memory) - at), until)
        memory[at : at + len(got)] = got
        at += len(got)


def some(stream: int, most: int, until: float) -> bytes:
    """Bytes, as soon as there are some. NoAnswer where there are none by then, or no more."""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        if not selector.select(max(0.0, until - time.monotonic())):
            raise NoAnswer
    got = os.read(stream, most)
    if not got:
        raise NoAnswer
    return got


class Decoders:
    """Several such processes. Threads may share them; each asks one at a time."""

    def __init__(self, max_pixels: int, count: int = 2, memory: int = MEMORY, seconds: float = SECONDS) -> None:
        self._max_pixels, self._seconds = max_pixels, seconds
        self._all = [DecodeProcess(memory) for _ in range(count)]
        self._free: SimpleQueue[DecodeProcess] = SimpleQueue()
        for process in self._all:
            self._free.put(process)

    def convert(self, path: Path, to: Path) -> tuple[Size, str | None]:
        """Write the first frame of a picture as PNG; its size and a note. BadInput for what is none."""
        told, _ = self._ask({"do": "convert", "path": str(path), "max_pixels": self._max_pixels, "to": str(to)})
        return Size(*told["size"]), told["note"]

    def picture(self, path: Path, longest: int = 0) -> Picture:
        """The first frame, its longer side brought to `longest` px; 0: as it is. BadInput for what is no picture."""
        asked = {"do": "pixels", "path": str(path), "max_pixels": self._max_pixels, "longest": longest}
        _, image = self._ask(asked)
        assert image is not None
        return Picture(image[..., :3], image[..., 3] if image.shape[2] == 4 else None)

    def settings(self, path: Path) -> str | None:
        """The settings in a picture of this program's own, or None."""
        told, _ = self._ask({"do": "settings", "path": str(path)})
        found: str | None = told["settings"]
        return found

    def close(self) -> None:
        """End all, at once."""
        for process in self._all:
            process.close()

    def _ask(self, question: Mapping[str, Any]) -> tuple[dict[str, Any], np.ndarray | None]:
        process = self._free.get()
        try:
            told, array = process.ask(question, self._seconds)
        except NoAnswer:
            raise BadInput(f"cannot be decoded within {self._seconds:g} s; give another picture") from None
        finally:
            self._free.put(process)
        if "error" in told:
            raise BadInput(told["error"])
        return told, array
