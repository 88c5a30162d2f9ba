"""What does a server cost on top of the network, and does it keep what it is given?

    python benchmarks/serve.py --soak 60

Starts `pnst serve` on this machine, in a folder of its own, and asks nobody else. Each number of clients asks for as
many pictures; in between the network alone paints, in this process, with as many threads. The soak asks for all kinds
of things at once, bad ones among them, then the server is killed during jobs and started again.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path

import psutil
from page import table, write
from PIL import Image

from parallel_nst.files.bundled import bundled_content
from parallel_nst.networks.generators.files import open_generator
from parallel_nst.painting.generators.runs import chosen_dtype, prepare, stylise
from parallel_nst.workers.opening import native_bfloat16, usable_cores

MODEL = "swirls"
CLIENTS = (1, 2, 4, 8, 16)
PASSES = 12  # of the network alone, each time
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

    def ask(self, method: str, path: str, body: bytes = b"", kind: str = "") -> Answer:
        """One request on a connection of its own."""
        began = time.perf_counter()
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body or None, {"content-type": kind} if kind else {})
            answer = connection.getresponse()
            return Answer(answer.status, time.perf_counter() - began, answer.read())
        finally:
            connection.close()

    def post(self, path: str, content: bytes, fields: Mapping[str, str]) -> Answer:
        """A form with a picture."""
        mark = uuid.uuid4().hex
        parts = [
            f'--{mark}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in fields.items()
        ]
        head = f'--{mark}\r\ncontent-disposition: form-data; name="content"; filename="a.jpg"\r\n\r\n'
        body = b"".join([*parts, head.encode(), content, f"\r\n--{mark}--\r\n".encode()])
        return self.ask("POST", path, body, f"multipart/form-data; boundary={mark}")

    def processor(self) -> float:
        """Seconds of processor time so far, of the server and what it has started."""
        own = psutil.Process(self.process.pid)
        times = [one.cpu_times() for one in (own, *own.children(recursive=True))]
        return sum(one.user + one.system for one in times)

    def usage(self) -> tuple[float, int, int]:
        """Memory in MB, open files and processes, of the server and what it has started."""
        own = psutil.Process(self.process.pid)
        family = [own, *own.children(recursive=True)]
        return sum(one.memory_info().rss for one in family) / 1e6, own.num_fds(), len(family)


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


def bare(side: int) -> tuple[list[float], float]:
    """Seconds of passes of the network alone, as the server runs it, and of processor time of one."""
    import torch  # after parallel_nst, which says how threads wait

    torch.set_num_threads(usable_cores())
    generator = open_generator(MODEL)[0]
    ready = prepare(generator, "cpu", chosen_dtype(generator, native_bfloat16("cpu")))
    picture = torch.rand(1, 3, side, side)
    stylise(ready, picture, memory=4 << 30)
    seconds, busy = [], time.process_time()
    for _ in range(PASSES):
        began = time.perf_counter()
        stylise(ready, picture, memory=4 << 30)
        seconds.append(time.perf_counter() - began)
    return seconds, (time.process_time() - busy) / PASSES


def load(server: Server, clients: int, each: int, content: bytes, form: str) -> tuple[list[Answer], float]:
    """So many clients that each ask so often; all answers, and seconds for all."""
    answers: list[Answer] = []

    def client() -> None:
        for _ in range(each):
            answers.append(server.post("/v1/stylize", content, {"model": MODEL, "format": form}))

    threads = [threading.Thread(target=client) for _ in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers, time.perf_counter() - began


def latency(folder: Path, side: int, requests: int) -> list[list[object]]:
    """A row for each number of clients, with the network alone before and after it."""
    content, rows = photograph(side), []
    with started(folder) as server:
        load(server, 2, 2, content, "jpeg")
        before = bare(side)
        for clients in CLIENTS:
            used = server.processor()
            answers, seconds = load(server, clients, max(2, requests // clients), content, "jpeg")
            used = (server.processor() - used) / len(answers)
            after = bare(side)
            alone, busy = statistics.median(before[0] + after[0]), (before[1] + after[1]) / 2
            times = sorted(answer.seconds for answer in answers)
            rate = len(answers) / seconds
            p95 = times[min(len(times) - 1, int(0.95 * len(times)))]
            ratio = 1 / rate / alone - 1
            bad = sum(answer.status != 200 for answer in answers)
            row = [clients, f"{statistics.median(times):.3f}", f"{p95:.3f}", f"{rate:.1f}", f"{1 / alone:.1f}"]
            rows.append([*row, f"{100 * ratio:+.0f} %", f"{100 * (used / busy - 1):+.0f} %", bad])
            print(rows[-1], flush=True)
            before = after
    return rows


def soak(folder: Path, seconds: float) -> list[str]:
    """All kinds of requests at once for so long: what was used before and after, and that no job is lost."""
    content, until = photograph(256), time.monotonic()
    jobs: list[str] = []
    statuses: dict[int, int] = {}

    def note(answer: Answer) -> Answer:
        statuses[answer.status] = statuses.get(answer.status, 0) + 1
        return answer

    def painter() -> None:
        while time.monotonic() < until:
            form = {"painting": "embers", "size": "96", "recipe": '{"steps": 3}'}
            answer = note(server.post("/v1/jobs", content, form))
            if answer.status == 202:
                jobs.append(json.loads(answer.body)["id"])
                if len(jobs) % 3 == 0:
                    note(server.ask("DELETE", f"/v1/jobs/{jobs[-1]}"))
            time.sleep(0.2)

    def asker() -> None:
        while time.monotonic() < until:
            note(server.post("/v1/stylize", content, {"model": MODEL, "size": "128"}))
            note(server.post("/v1/stylize", b"<svg/>", {"model": MODEL}))
            note(server.ask("GET", "/v1/jobs"))

    def leaver() -> None:
        """Goes away in the middle of everything."""
        while time.monotonic() < until:
            with socket.create_connection(("127.0.0.1", server.port)) as line:
                line.sendall(b"GET /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            with socket.create_connection(("127.0.0.1", server.port)) as line:
                line.sendall(b"POST /v1/stylize HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9999\r\n\r\nabc")
            time.sleep(0.1)

    with started(folder) as server:
        until = time.monotonic() + seconds / 4
        run_all(painter, asker, asker, leaver)
        settle(server)
        first = server.usage()
        until = time.monotonic() + 3 * seconds / 4
        run_all(painter, asker, asker, leaver)
        settle(server)
        last = server.usage()
        told = {job["id"]: job["state"] for job in json.loads(server.ask("GET", "/v1/jobs").body)["jobs"]}
        left = len(list((folder / "incoming").iterdir()))
    states = sorted({told.get(job, "lost") for job in jobs})
    lost = [job for job in jobs if job not in told]
    counts = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
    return [
        f"{sum(statuses.values())} answers in {seconds:.0f} s: {counts}.",
        f"{len(jobs)} jobs, of which {len(lost)} are lost; they are {' or '.join(states)}.",
        table(
            ["", "after a quarter", "at the end"],
            [
                ["memory, MB", f"{first[0]:.0f}", f"{last[0]:.0f}"],
                ["open files", first[1], last[1]],
                ["processes", first[2], last[2]],
            ],
        ),
        f"Files of requests that were left behind: {left}.",
    ]


def run_all(*clients: object) -> None:
    """All at once, until they end."""
    threads = [threading.Thread(target=client) for client in clients]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def settle(server: Server) -> None:
    """Until nothing waits or runs."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        jobs = json.loads(server.ask("GET", "/v1/jobs").body)["jobs"]
        if not any(job["state"] in ("queued", "running") for job in jobs):
            break
        time.sleep(0.2)
    time.sleep(1.0)


def killed(folder: Path) -> list[str]:
    """A server that is killed while it paints, and the next one in its folder."""
    form = {"painting": "embers", "size": "160", "recipe": '{"steps": 60}'}
    with started(folder) as server:
        jobs = [json.loads(server.post("/v1/jobs", photograph(256), form).body)["id"] for _ in range(3)]
        until = time.monotonic() + PATIENCE
        while not list(folder.glob("jobs/*/run.snapshot")) and time.monotonic() < until:
            time.sleep(0.02)
        children = psutil.Process(server.process.pid).children(recursive=True)
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        psutil.wait_procs(children, timeout=10)
        orphans = sum(child.is_running() for child in children)
    with started(folder) as server:
        told = json.loads(server.ask("GET", "/v1/jobs").body)["jobs"]
        at_once = {job["id"]: job["state"] for job in told}
        settle(server)
        ended = {job["id"]: job["state"] for job in json.loads(server.ask("GET", "/v1/jobs").body)["jobs"]}
    return [
        f"Killed (SIGKILL) with {len(jobs)} jobs, one of them running; processes that outlived it: {orphans}. "
        f"The next server found them {', '.join(at_once.get(job, 'lost') for job in jobs)}, and they ended as "
        f"{', '.join(ended.get(job, 'lost') for job in jobs)}."
    ]


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=512, help="of the pictures, px")
    parser.add_argument("--requests", type=int, default=48, help="for each number of clients")
    parser.add_argument("--soak", type=float, default=60, help="seconds")
    parser.add_argument("--quick", action="store_true", help="only show that it works")
    asked = parser.parse_args()
    side, requests, seconds = (128, 4, 4) if asked.quick else (asked.side, asked.requests, asked.soak)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = latency(folder / "latency", side, requests)
        soaked = soak(folder / "soak", seconds)
        again = killed(folder / "killed")
    header = [
        "clients",
        "p50, s",
        "p95, s",
        "requests/s",
        "passes/s of the network alone",
        "overhead",
        "in processor time",
        "refused",
    ]
    parts = [
        f"`POST /v1/stylize` with a JPEG of {side} x {side} px, model `{MODEL}`, answered as JPEG, on loopback. "
        "Overhead: time a picture at this rate against the median pass of the network alone, before and after, with "
        "the same threads; in processor time: the same of all that the server and its processes compute, which other "
        "programs of the machine disturb less. Client, server and decoding share the cores.",
        table(header, rows),
        "## Much at once",
        *soaked,
        "## Killed",
        *again,
    ]
    print(write(__file__, "What a server costs", parts, quick=asked.quick))


if __name__ == "__main__":
    main()
