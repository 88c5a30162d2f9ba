"""The generators under Ray Serve on this machine, configured as in the manifest: asked over HTTP, then ended."""

import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import httpx2
import numpy as np
import psutil
import pytest
import yaml
from PIL import Image

from parallel_nst.networks.generators.files import save_generator
from parallel_nst.web.catalogue import Catalogue
from parallel_nst.web.decoders import Decoders
from parallel_nst.web.forms import STYLE_SIDE
from parallel_nst.web.instant import InstantRequest, InstantStylizer
from tests.served import picture_bytes
from tests.small_generators import narrow

TOKEN = "a-token-of-enough-characters"
ROOT = Path(__file__).parents[2]
PATIENCE = 240  # seconds


THERE = all(find_spec(name) for name in ("aiohttp", "watchfiles"))  # which Ray Serve brings in
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="no such signals there"),
    pytest.mark.skipif(not THERE, reason="the extra `serve` is not installed"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A generator of its own style, and one that takes a style."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("transformer-net", "microast"):
        save_generator(narrow(name).float(), folder / f"{name}.safetensors")
    return folder


def configuration(models, port):
    """That of the manifest, for two small generators on this machine."""
    manifest = yaml.safe_load((ROOT / "examples" / "cluster" / "rayservice.yaml").read_text(encoding="utf-8"))
    config = yaml.safe_load(manifest["spec"]["serveConfigV2"])
    config["http_options"] = {"host": "127.0.0.1", "port": port}
    config["applications"][0]["args"] |= {
        "models": str(models),
        "least": 2,
        "most": 2,
        "cores": 0.5,
        "max_megabytes": 2,
    }
    return config


@pytest.fixture(scope="module")
def running(models, tmp_path_factory):
    """The process of `serve run`, and a caller."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("serve")
    (folder / "config.yaml").write_text(yaml.safe_dump(configuration(models, port)))
    environment = os.environ | {"RAY_ADDRESS": "local", "PNST_TOKEN": TOKEN, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "ray.serve.scripts", "run", "config.yaml"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, preexec_fn=hears_interrupts
        )
    with httpx2.Client(
        base_url=f"http://127.0.0.1:{port}", headers={"authorization": f"Bearer {TOKEN}"}, timeout=60, trust_env=False
    ) as caller:
        try:
            until_ready(caller, process, folder / "log")
            yield process, caller
        finally:
            family = family_of(process)
            for one in family:
                one.kill()
            psutil.wait_procs(family, 10)
            process.wait(10)


def hears_interrupts():
    """A shell starts its background jobs deaf to SIGINT, and they pass that on."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def until_ready(caller, process, log):
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        try:
            if caller.get("/readyz").status_code == 200:
                return
        except httpx2.HTTPError:
            pass
        time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])


def family_of(process):
    """A process that may have ended and all that it has started."""
    try:
        own = psutil.Process(process.pid)
        return [own, *own.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@pytest.fixture
def caller(running):
    return running[1]


def pixels(answer):
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)), np.int16)


def test_many_at_once_of_two_models_and_sizes_are_as_they_are_here(caller, models, tmp_path):
    contents = [picture_bytes(48 + 16 * (n % 2), 40, seed=n) for n in range(12)]
    style = picture_bytes(seed=99)

    def asked(n):
        model = ("transformer-net", "microast")[n % 3 == 0]
        files = {"content": contents[n]} | ({"style": style} if model == "microast" else {})
        return caller.post("/v1/stylize", files=files, data={"model": model, "format": "png"})

    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(asked, range(12)))

    decoders, here = Decoders(10**6, count=1), InstantStylizer(Catalogue(models), 20, threads=1)
    try:
        read = {}
        for name, data in {**dict(enumerate(contents)), "style": style}.items():
            path = tmp_path / "sent"
            path.write_bytes(data)
            read[name] = decoders.picture(path, STYLE_SIDE if name == "style" else 0)
        for n, answer in enumerate(answers):
            own = n % 3 == 0
            request = InstantRequest("microast" if own else "transformer-net", read[n], read["style"] if own else None)
            wanted = np.rint(np.clip(here.submit(request).result(60).pixels, 0, 1) * 255)
            assert np.abs(pixels(answer) - wanted).max() <= 1
    finally:
        here.close()
        decoders.close()


@pytest.mark.parametrize(
    ("files", "form", "status"),
    [
        ({"content": b"<svg/>"}, {"model": "transformer-net"}, 422),
        ({"content": picture_bytes()}, {"model": "../transformer-net"}, 422),
        ({"content": picture_bytes()}, {"model": "microast"}, 422),
        ({"content": picture_bytes()}, {"model": "transformer-net", "size": "-1"}, 422),
        ({"content": bytes(3_000_000)}, {"model": "transformer-net"}, 413),
        ({}, {"model": "transformer-net"}, 422),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(caller, files, form, status):
    answer = caller.post("/v1/stylize", files=files, data=form)
    assert answer.status_code == status
    told = answer.json()["error"]
    assert told and "\n" not in told and "Traceback" not in told and "ray" not in told.lower()


def test_strangers_and_other_names_are_refused(caller):
    assert caller.get("/v1/models", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert caller.get("/v1/models", headers={"host": "evil.example"}).status_code == 403
    assert caller.get("/v1/models", headers={"origin": "https://evil.example"}).status_code == 403
    assert caller.get("/v1/models").headers["x-content-type-options"] == "nosniff"


def test_it_is_watched_over(caller):
    assert caller.get("/healthz").json() == {"status": "ok"}
    assert 'pnst_requests_total{method="GET",route="/healthz",status="200"}' in caller.get("/metrics").text


def test_a_generator_that_dies_is_replaced(running):
    process, caller = running
    generator = next(one for one in family_of(process) if "generators" in " ".join(one.cmdline()))
    generator.kill()
    until = time.monotonic() + PATIENCE
    statuses = []
    while statuses[-6:] != [200] * 6 and time.monotonic() < until:
        answer = caller.post(
            "/v1/stylize", files={"content": picture_bytes()}, data={"model": "transformer-net", "format": "png"}
        )
        statuses.append(answer.status_code)
    assert statuses[-6:] == [200] * 6 and set(statuses) <= {200, 503}


def test_when_it_ends_nothing_stays(running):
    """Neither a process nor a file of a request."""
    process, _ = running
    family = family_of(process)
    process.send_signal(signal.SIGINT)
    _, alive = psutil.wait_procs(family, 60)
    assert [one.cmdline() for one in alive if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []
    assert not list(Path(tempfile.gettempdir()).glob("pnst-incoming-*"))
