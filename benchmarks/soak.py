"""Does a server keep what it is given, and nothing else?

    python benchmarks/soak.py --minutes 10

Starts `pnst serve` on this machine, in a folder of its own. Callers of every kind ask at once, for as long as is said:
pictures at once, jobs that are moved, cancelled, followed and removed, files that are no pictures, clients that vanish
in the middle of everything. Meanwhile the memory, files, sockets, threads and processes of the server are looked at.
Then it is killed in the middle of jobs, several times, and started again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, fields
from http.client import HTTPException
from pathlib import Path

import psutil
from page import table, write
from running_server import PATIENCE, Answer, Server, photograph, started

MODEL = "swirls"
PAINTING = {"painting": "embers", "size": "96", "recipe": '{"steps": 3}'}
NO_PICTURES = (b"<svg/>", b"", photograph(64)[:300], b"\x89PNG\r\n\x1a\n" + bytes(100), b"MZ" * 5000)
BAD_FORMS = ({"model": "../secret"}, {"model": MODEL, "size": "-5"}, {"model": MODEL, "strength": "nan"}, {})
KILLS = 3
GONE_JOB, LOST = "gone", "lost"
GONE = 0  # in place of a status: nobody was there to hear it
SAMPLES = 60  # of what the server uses
ENDED = ("done", "failed", "cancelled", "interrupted")


@dataclass(frozen=True)
class Usage:
    """Of the server and of the processes that decode for it. Memory in MB."""

    minute: float
    server: float
    decoders: float
    processes: int
    threads: int
    files: int
    sockets: int


def usage_of(server: Server, began: float) -> Usage:
    own = psutil.Process(server.process.pid)
    children = own.children(recursive=True)
    return Usage(
        (time.monotonic() - began) / 60,
        own.memory_info().rss / 1e6,
        sum(child.memory_info().rss for child in children) / 1e6,
        1 + len(children),
        own.num_threads(),
        own.num_fds(),
        len(own.net_connections()),
    )


@dataclass
class Load:
    """All that is asked of a server, and what came of it. until: when it ends."""

    server: Server
    until: float
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)  # by kind and status
    jobs: dict[str, str] = field(default_factory=dict)  # id -> what it means when it is no longer there
    content: bytes = field(default_factory=lambda: photograph(256))

    def note(self, kind: str, answer: Answer) -> Answer:
        self.answers[kind, answer.status] += 1
        return answer

    def stylizer(self) -> None:
        """Asks for pictures at once, of few sizes, so that some go together."""
        form = {"model": MODEL, "size": random.choice(("96", "128")), "format": random.choice(("jpeg", "png", "webp"))}
        self.note("stylize", self.server.post("/v1/stylize", self.content, form))

    def painter(self) -> None:
        """Puts jobs into the queue, and moves or cancels some."""
        form = PAINTING if random.random() < 0.6 else {"model": MODEL, "size": "128"}
        answer = self.note("job", self.server.post("/v1/jobs", self.content, form))
        if answer.status != 202:
            time.sleep(1.0)
            return
        job = json.loads(answer.body)["id"]
        self.jobs[job] = LOST  # if it should be gone
        if random.random() < 0.2:
            self.note("move", self.server.ask("PATCH", f"/v1/jobs/{job}", b'{"place": 1}', "application/json"))
        if random.random() < 0.3:
            time.sleep(random.random())
            told = self.note("cancel", self.server.ask("DELETE", f"/v1/jobs/{job}"))
            if told.status == 200 and json.loads(told.body)["state"] in ENDED[:2]:
                self.jobs[job] = "removed"  # it was sooner
        time.sleep(0.3)

    def follower(self) -> None:
        """Follows a job to its end, and looks at its picture."""
        if not self.jobs:
            time.sleep(0.1)
            return
        job = random.choice(list(self.jobs))
        self.note("events", self.server.ask("GET", f"/v1/jobs/{job}/events"))
        self.note("image", self.server.ask("GET", f"/v1/jobs/{job}/image"))
        self.note("list", self.server.ask("GET", "/v1/jobs"))
        time.sleep(0.2)

    def mistaken(self) -> None:
        """Sends what is no picture, and forms that make no sense."""
        self.note("bad file", self.server.post("/v1/stylize", random.choice(NO_PICTURES), {"model": MODEL}))
        self.note("bad form", self.server.post("/v1/stylize", self.content, random.choice(BAD_FORMS)))
        self.note("bad job", self.server.post("/v1/jobs", random.choice(NO_PICTURES), PAINTING))
        self.note("bad json", self.server.ask("PATCH", "/v1/jobs/x", b"{", "application/json"))
        time.sleep(0.2)

    def leaver(self) -> None:
        """Goes away in the middle: of following, of sending, of waiting for a picture."""
        host = "HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        half = f"POST /v1/stylize {host}Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 9999\r\n\r\n-"
        for text, pause in ((f"GET /v1/events {host}\r\n", 1.0), (half, 0.1), ("GET /v1/mod", 0.1), ("", 0.1)):
            with socket.create_connection(("127.0.0.1", self.server.port)) as line:
                line.sendall(text.encode())
                time.sleep(pause * random.random())
            self.answers["vanished", GONE] += 1
        self.leave_while_painting()

    def leave_while_painting(self) -> None:
        with suppress(OSError, HTTPException):
            self.server.post("/v1/stylize", self.content, {"model": MODEL, "size": "256"}, patience=0.05)
        self.answers["vanished", GONE] += 1

    def again(self, client: Callable[[], None]) -> None:
        while time.monotonic() < self.until:
            client()

    def run(self) -> None:
        """All at once, until it is over."""
        clients = [self.stylizer, self.stylizer, self.painter, self.follower, self.mistaken, self.leaver]
        threads = [threading.Thread(target=self.again, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def state_of(server: Server, job: str) -> str:
    answer = server.ask("GET", f"/v1/jobs/{job}")
    return json.loads(answer.body)["state"] if answer.status == 200 else GONE_JOB


def settle(server: Server, jobs: list[str]) -> dict[str, str]:
    """How jobs have ended, once all have."""
    until, states = time.monotonic() + PATIENCE, {}
    while time.monotonic() < until:
        states = {job: state_of(server, job) for job in jobs}
        if not {"queued", "running"} & set(states.values()):
            break
        time.sleep(1.0)
    time.sleep(12.0)  # connections are kept for ten seconds
    return states


def soak(folder: Path, seconds: float) -> list[str]:
    """Everything at once for so long: what was used, what is lost, what is left."""
    samples: list[Usage] = []
    with started(folder) as server:
        began = time.monotonic()
        load = Load(server, began + seconds)
        watching = threading.Thread(target=watch, args=(server, began, seconds, samples))
        watching.start()
        load.run()
        watching.join()
        states = settle(server, list(load.jobs))
        samples.append(usage_of(server, began))
        pictures = sum(
            server.ask("GET", f"/v1/jobs/{job}/image").status == 200 for job in states if states[job] == "done"
        )
        metrics = server.ask("GET", "/metrics").body.decode().splitlines()
    left = len(list((folder / "incoming").iterdir()))
    following = next(line.split()[-1] for line in metrics if line.startswith("pnst_event_listeners "))
    return [
        *told(load, states, pictures),
        *used(samples),
        f"Left in the folder for requests: {left} files. Callers that the server still takes for there: {following}.",
    ]


def watch(server: Server, began: float, seconds: float, samples: list[Usage]) -> None:
    """Look now and then, until the time is over."""
    for number in range(1, SAMPLES + 1):
        time.sleep(max(0.0, began + number * seconds / SAMPLES - time.monotonic()))
        samples.append(usage_of(server, began))


def told(load: Load, states: dict[str, str], pictures: int) -> list[str]:
    """What was asked, and what came of it."""
    rows = []
    for kind in sorted({kind for kind, _ in load.answers}):
        counts = {status: count for (one, status), count in sorted(load.answers.items()) if one == kind}
        answers = ", ".join(f"{count} x {status}" for status, count in counts.items() if status != GONE)
        rows.append([kind, sum(counts.values()), answers])
    broken = sum(count for (_, status), count in load.answers.items() if status >= 500)
    states = {job: load.jobs[job] if state == GONE_JOB else state for job, state in states.items()}
    lost = sum(state == LOST for state in states.values())
    ended = ", ".join(f"{count} {state}" for state, count in sorted(Counter(states.values()).items()))
    return [
        f"{sum(load.answers.values())} requests, {broken} of them answered with 5xx.",
        table(["what", "requests", "answers"], rows),
        f"{len(states)} jobs were taken, {lost} are lost: {ended}; {pictures} have their picture.",
    ]


def used(samples: list[Usage]) -> list[str]:
    """What the server used over time."""
    *during, after = samples
    rows = [row(one, f"{one.minute:.1f}") for one in during[:: max(1, len(during) // 10)]]
    half = during[len(during) // 2 :]
    growth = (slope(half, "server"), slope(half, "decoders"))
    head = ["minute", "server, MB", "decoders, MB", "processes", "threads", "open files", "sockets"]
    return [
        table(head, [*rows, row(after, "afterwards")]),
        f"Growth of memory over the second half: server {growth[0]:+.2f} MB a minute, decoders {growth[1]:+.2f}.",
    ]


def row(one: Usage, label: str) -> list[object]:
    return [label, f"{one.server:.0f}", f"{one.decoders:.0f}", one.processes, one.threads, one.files, one.sockets]


def slope(samples: list[Usage], name: str) -> float:
    """A minute, of the straight line that fits best."""
    assert name in [spec.name for spec in fields(Usage)]
    times, values = [one.minute for one in samples], [getattr(one, name) for one in samples]
    middle, mean = sum(times) / len(times), sum(values) / len(values)
    spread = sum((time - middle) ** 2 for time in times)
    return sum((time - middle) * (value - mean) for time, value in zip(times, values, strict=True)) / max(spread, 1e-9)


def killed(folder: Path) -> list[object]:
    """A server that is killed while it paints, and the next one in its folder: a row of what was and became."""
    form = PAINTING | {"size": "160", "recipe": '{"steps": 60}'}
    with started(folder) as server:
        jobs = [json.loads(server.post("/v1/jobs", photograph(256), form).body)["id"] for _ in range(3)]
        until = time.monotonic() + PATIENCE
        while not list(folder.glob("jobs/*/run.snapshot")) and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(random.random())
        children = psutil.Process(server.process.pid).children(recursive=True)
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        psutil.wait_procs(children, timeout=10)
        orphans = sum(child.is_running() for child in children)
    with started(folder) as server:
        found = [state_of(server, job) for job in jobs]
        ended = list(settle(server, jobs).values())
        left = len(list((folder / "incoming").iterdir()))
    return [", ".join(found), ", ".join(ended), orphans, left]


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--quick", action="store_true", help="only show that it works")
    asked = parser.parse_args()
    minutes = 0.1 if asked.quick else asked.minutes
    random.seed(0)
    with tempfile.TemporaryDirectory() as name:
        soaked = soak(Path(name) / "soak", 60 * minutes)
        kills = [killed(Path(name) / f"killed-{number}") for number in range(1 if asked.quick else KILLS)]
    parts = [
        f"`pnst serve` for {minutes:g} minutes under everything at once: pictures at once of {MODEL}, small "
        "paintings and generators as jobs, moved, cancelled, followed and removed; files that are no pictures and "
        "forms that make no sense; clients that vanish while they send, wait or follow. All of it "
        "is small, so that there are as many requests as in an hour of use by several people.",
        *soaked,
        "## Killed",
        "With SIGKILL, three jobs in the queue, the first of them running; then started again.",
        table(["the next server found them", "they ended as", "processes that outlived it", "files left"], kills),
    ]
    print(write(__file__, "What a server keeps", parts, quick=asked.quick))


if __name__ == "__main__":
    main()
