"""Ctrl-C while libraries are being loaded, and after."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from parallel_nst.cli import interrupt, main

PROGRAM = """
from parallel_nst.cli.interrupt import hear
hear()
try:
    {}
except KeyboardInterrupt:
    print("heard")
"""
CALLS = {name: f"import os, signal; os.kill(os.getpid(), signal.{name})" for name in ("SIGINT", "SIGTERM", "SIGHUP")}
CALL = CALLS["SIGINT"]


def run(folder: Path, line: str, call: str = CALL) -> tuple[int, str, str]:
    """Exit code and output of a program that hears Ctrl-C and then does what the line says."""
    (folder / "library.py").write_text(call)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(line)], cwd=folder, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_while_a_library_is_loaded_ends_the_program(tmp_path: Path, name: str, code: int) -> None:
    assert run(tmp_path, "import library", CALLS[name]) == (code, "", "pnst: stopped\n")


@pytest.mark.parametrize("name", CALLS)
def test_a_signal_afterwards_is_an_exception(tmp_path: Path, name: str) -> None:
    assert run(tmp_path, CALLS[name]) == (0, "heard\n", "")


def test_a_program_that_was_started_without_a_terminal_stays_deaf_to_its_end(tmp_path: Path) -> None:
    """As `nohup` starts it."""
    deaf = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); hear(); " + CALLS["SIGHUP"] + "; print('done')"
    assert run(tmp_path, deaf) == (0, "done\n", "")


def test_a_terminal_that_is_gone_does_not_change_how_a_stopped_program_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is said cannot be written any more."""

    class Gone:
        def write(self, text: str = "") -> None:
            raise OSError(5, "Input/output error")

        flush = write

    monkeypatch.setattr(sys, "stderr", Gone())
    monkeypatch.setattr(interrupt, "_heard", [1])
    monkeypatch.setattr(main, "end_now", sys.exit)
    monkeypatch.setattr(main, "app", lambda **settings: print("x", file=sys.stderr))
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert caught.value.code == 129


def test_a_program_that_was_started_deaf_stays_deaf(tmp_path: Path) -> None:
    deaf = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); hear(); " + CALL + "; print('done')"
    assert run(tmp_path, deaf) == (0, "done\n", "")
