"""Folders of Rays of our own: held while their program lives, removed by the next when it was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from parallel_nst.workers.ray.session_folders import SessionFolder, lock_of, remove_left_behind

HOLD = """
import sys, time
from parallel_nst.workers.ray.session_folders import SessionFolder
folder = SessionFolder()
(folder.path / "log").touch()
print(folder.path, flush=True)
time.sleep(600)
"""
USE = "import sys, time; file = open(sys.argv[1]); print(flush=True); time.sleep(600)"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    return tmp_path


def started(*command: str) -> tuple[subprocess.Popen[str], str]:
    """A Python program, and its first line."""
    program = subprocess.Popen([sys.executable, "-c", *command], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    return program, program.stdout.readline().strip()


def ended(program: subprocess.Popen[str], *, kill: bool) -> None:
    if kill:
        program.kill()
    program.communicate(timeout=60)


def test_a_folder_is_for_its_owner_and_goes_with_all_that_is_in_it(place: Path) -> None:
    folder = SessionFolder()
    assert folder.path.parent == place and folder.path.stat().st_mode & 0o777 == 0o700
    (folder.path / "logs").mkdir()
    (folder.path / "logs" / "raylet.out").touch()
    folder.remove()
    assert list(place.iterdir()) == []
    folder.remove()  # twice does no harm


def test_the_folder_of_a_program_that_lives_is_left_alone_and_that_of_a_killed_one_is_removed(place: Path) -> None:
    holder, name = started(HOLD)
    folder = Path(name)
    user, _ = started(USE, str(folder / "log"))
    remove_left_behind()
    assert (folder / "log").exists() and user.poll() is None
    ended(holder, kill=True)
    remove_left_behind()
    ended(user, kill=False)  # killed: it had a file open there
    assert list(place.iterdir()) == []


def test_folders_of_others_are_left_alone(place: Path) -> None:
    """Also such as look alike but were never locked by this package."""
    others = [place / name for name in ("ray", "pnst-mine", "pnst-0123456", "pnst-01234567")]
    for folder in others:
        folder.mkdir()
    lock_of(place / "pnst-mine").touch()
    (place / "pnst-89abcdef").touch()  # no folder
    before = sorted(place.iterdir())
    remove_left_behind()
    assert sorted(place.iterdir()) == before


def test_the_folder_of_this_very_program_is_not_left_behind(place: Path) -> None:
    folder = SessionFolder()
    remove_left_behind()
    assert folder.path.exists()
    folder.remove()
