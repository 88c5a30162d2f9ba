"""What benchmarks of a server share: one of its own, in a folder of its own, and how it is asked."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path

import psutil
from PIL import Image

from parallel_nst.files.bundled import bundled_content

PATIENCE = 120  # seconds


@dataclass(frozen=True)
class Answer:
    """status: of HTTP. seconds: until all of it was there."""

    status: int
    seconds: float
    body: bytes


@dataclass
class Server:
    """A server of its own process. port: where it listens."""

    process: subprocess.Popen[str]
    port: int

    def ask(self, method: str, path: str, body: bytes = b"", kind: str = "", patience: float = PATIENCE) -> Answer:
        """One request on a connection of its own."""
        began = time.perf_counter()
        connection = HTTPConnection("127.0.0.1", self.port, timeout=patience)
        try:
            connection.request(method, path, body or None, {"content-type": kind} if kind else {})
            answer = connection.getresponse()
            return Answer(answer.status, time.perf_counter() - began, answer.read())
        finally:
            connection.close()

    def post(self, path: str, content: bytes, fields: Mapping[str, str], patience: float = PATIENCE) -> Answer:
        """A form with a picture."""
        mark = uuid.uuid4().hex
        parts = [
            f'--{mark}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in fields.items()
        ]
        head = f'--{mark}\r\ncontent-disposition: form-data; name="content"; filename="a.jpg"\r\n\r\n'
        body = b"".join([*parts, head.encode(), content, f"\r\n--{mark}--\r\n".encode()])
        return self.ask("POST", path, body, f"multipart/form-data; boundary={mark}", patience)

    def processor(self) -> float:
        """Seconds of processor time so far, of the server and what it has started."""
        own = psutil.Process(self.process.pid)
        times = [one.cpu_times() for one in (own, *own.children(recursive=True))]
        return sum(one.user + one.system for one in times)


@contextmanager
def started(folder: Path) -> Iterator[Server]:
    """A server that answers; ended with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "parallel_nst", "serve", "--port", str(port), "--folder", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, text=True)
    server = Server(process, port)
    try:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                server.ask("GET", "/readyz")
                break
            except OSError:
                if time.monotonic() > until or process.poll() is not None:
                    raise
                time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait(PATIENCE)


def photograph(side: int) -> bytes:
    """A JPEG, `side` px wide and high."""
    file = BytesIO()
    Image.open(bundled_content()).convert("RGB").resize((side, side)).save(file, "JPEG", quality=92)
    return file.getvalue()
