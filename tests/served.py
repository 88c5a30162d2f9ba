"""A server for tests: its own small networks, its own folder, and pictures to send to it."""

import io
import struct
import time
import zlib
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
from PIL import Image
from starlette.testclient import TestClient

from parallel_nst.networks.backbones.loading import load_weights
from parallel_nst.networks.generators.files import save_generator
from parallel_nst.web.api import create_app
from parallel_nst.web.service import opened
from parallel_nst.web.settings import ServeSettings
from parallel_nst.workers.pool import SerialPool
from parallel_nst.workers.worker import WorkerSpec
from tests.small_generators import narrow

BASE = "http://127.0.0.1:8002"


@contextmanager
def served(folder, pool=None, **options):
    """A server's parts, and a caller on this machine. Its model folder has one generator of each kind."""
    models = folder / "models"
    models.mkdir(exist_ok=True)
    for name in ("transformer-net", "microast"):
        save_generator(narrow(name).float(), models / f"{name}.safetensors")
    settings = ServeSettings(folder=folder / "jobs", models=models, **options)
    with (
        patch("parallel_nst.web.instant.usable_cores", return_value=1),  # threads that wait for each other take minutes
        opened(settings, pool=pool or one_thread) as service,
        TestClient(create_app(service), base_url=BASE) as caller,
    ):
        yield service, caller


def one_thread():
    """A pool of one worker with one thread."""
    return SerialPool(WorkerSpec("cpu", "float32", 1, {"embedded": load_weights("embedded", None)}))


def picture_bytes(width=48, height=40, form="PNG", seed=0, **more):
    """A file of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **more)
    return file.getvalue()


def bomb(width=20_000, height=20_000):
    """A PNG of a few bytes whose header states so many px."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1 << 20), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def animation(frames=3):
    """A GIF whose frames are of different colours."""
    images = [Image.new("RGB", (8, 6), (80 * number, 0, 0)) for number in range(frames)]
    file = io.BytesIO()
    images[0].save(file, "GIF", save_all=True, append_images=images[1:])
    return file.getvalue()


def sent(caller, content=None, name="a.png", files=None, **form):
    """Ask for a job; small and short unless said otherwise."""
    given = {"content": (name, content if content is not None else picture_bytes()), **(files or {})}
    return caller.post("/v1/jobs", files=given, data={"size": 16, **form})


def ended(caller, job, seconds=120):
    """The job when it has ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = caller.get(f"/v1/jobs/{job}").json()
        if found["state"] not in ("queued", "running"):
            return found
        time.sleep(0.05)
    raise AssertionError(f"still {found['state']}: {found}")


def stored_files(service):
    """All files of a server but its data base."""
    base = service.store.folder
    return {
        str(path.relative_to(base))
        for path in base.rglob("*")
        if path.is_file() and not path.name.startswith(("jobs.sqlite", ".lock"))
    }
