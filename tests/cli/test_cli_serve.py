"""`pnst serve`: what is refused before it listens, and that it ends when it is told to."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path

import pytest

from parallel_nst.cli import main as cli
from parallel_nst.cli import serve

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-of-enough-characters"
NEEDS_WEB = pytest.mark.skipif(find_spec("fastapi") is None, reason="the extra `web` is not installed")


def refused(monkeypatch, capsys, *options):
    """The one line that `pnst serve` ends with."""
    monkeypatch.setattr("sys.argv", ["pnst", "serve", *options])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code in (1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--host", "0.0.0.0"), "--token"),
        (("--host", "0.0.0.0", "--token", "short"), "--token"),
        (("--port", "70000"), "port is 70000"),
        (("--port", "-1"), "port is -1"),
        (("--keep", "0"), "keep is 0"),
        (("--queue", "0"), "queue is 0"),
        (("--max-megapixels", "many"), "max_megapixels is 'many'"),
        (("--models", "/nothing/there"), "no folder"),
        (("--workers", "0"), "workers is 0"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(monkeypatch, capsys, options, told):
    monkeypatch.delenv("PNST_TOKEN", raising=False)
    assert told in refused(monkeypatch, capsys, *options)


def test_a_missing_extra_is_named(monkeypatch, capsys):
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    assert "parallel-nst[web]" in refused(monkeypatch, capsys)


@NEEDS_WEB
def test_a_port_that_is_taken_is_told(monkeypatch, capsys, tmp_path):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert "give another --port" in refused(monkeypatch, capsys, "--port", port, "--folder", str(tmp_path / "jobs"))


@pytest.fixture
def hearing():
    """A shell starts its background jobs deaf to SIGINT, and they pass that on to what they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@NEEDS_WEB
@pytest.mark.skipif(os.name == "nt", reason="no such signals there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_listens_and_ends_when_it_is_told_to(tmp_path, hearing, number):
    """Whatever follows its events; the token comes from the environment."""
    command = [sys.executable, "-m", "parallel_nst", "serve", "--port", "0", "--folder", str(tmp_path / "jobs")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PNST_TOKEN": TOKEN}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        line = process.stderr.readline()
        address = next(word for word in line.split() if word.startswith("http"))
        host = address.split("/")[2]
        for _ in range(600):
            try:
                with closing(HTTPConnection(host, timeout=30)) as asking:
                    asking.request("GET", "/healthz")
                    asking.getresponse().read()
                break
            except OSError:
                time.sleep(0.1)
        with closing(HTTPConnection(host, timeout=60)) as asking:
            asking.request("GET", "/v1/events", headers={"authorization": f"Bearer {TOKEN}"})
            events = asking.getresponse()
            first = events.readline()
            process.send_signal(number)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
        told = process.stderr.read()
    assert first.startswith(b"data: ")
    assert process.returncode in (0, 130, -number, 128 + number)
    assert "Traceback" not in told, told
