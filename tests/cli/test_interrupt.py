"""Ctrl-C while libraries are being loaded, and after."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
from parallel_nst.cli.interrupt import hear
hear()
try:
    {}
except KeyboardInterrupt:
    print("heard")
"""
CALL = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"


def run(folder: Path, line: str) -> tuple[int, str, str]:
    """Exit code and output of a program that hears Ctrl-C and then does what the line says."""
    (folder / "library.py").write_text(CALL)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(line)], cwd=folder, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


def test_ctrl_c_while_a_library_is_loaded_ends_the_program(tmp_path: Path) -> None:
    assert run(tmp_path, "import library") == (130, "", "pnst: stopped\n")


def test_ctrl_c_afterwards_is_an_exception(tmp_path: Path) -> None:
    assert run(tmp_path, CALL) == (0, "heard\n", "")


def test_a_program_that_was_started_deaf_stays_deaf(tmp_path: Path) -> None:
    deaf = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); hear(); " + CALL + "; print('done')"
    assert run(tmp_path, deaf) == (0, "done\n", "")
