"""What does a server cost on top of the network?

    python benchmarks/serve.py

Starts `pnst serve` on this machine, in a folder of its own, and asks nobody else. Each number of clients asks for as
many pictures; in between the network alone paints, in this process, with as many threads. Takes two to five minutes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from pathlib import Path

from page import table, write
from running_server import Answer, Server, photograph, started

from parallel_nst.networks.generators.files import open_generator
from parallel_nst.painting.generators.runs import chosen_dtype, prepare, stylise
from parallel_nst.workers.opening import native_bfloat16, usable_cores

MODEL = "swirls"
CLIENTS = (1, 2, 4, 8, 16)
PASSES = 12  # of the network alone, each time


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


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=512, help="of the pictures, px")
    parser.add_argument("--requests", type=int, default=48, help="for each number of clients")
    parser.add_argument("--quick", action="store_true", help="only show that it works")
    asked = parser.parse_args()
    side, requests = (128, 4) if asked.quick else (asked.side, asked.requests)
    with tempfile.TemporaryDirectory() as name:
        rows = latency(Path(name) / "jobs", side, requests)
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
        "Whether it keeps what it is given, and nothing else: [soak](soak.md).",
    ]
    print(write(__file__, "What a server costs", parts, quick=asked.quick))


if __name__ == "__main__":
    main()
