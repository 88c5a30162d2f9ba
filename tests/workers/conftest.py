"""Places for tests among real Ray processes."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import Place, pictures


@pytest.fixture(scope="module")
def ray_folder() -> Iterator[Path]:
    """A short name: Ray's sockets lie in it, and the path of a socket is short."""
    folder = Path(tempfile.mkdtemp(prefix="pnst", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def place(tmp_path: Path, ray_folder: Path) -> Iterator[Place]:
    """SIGINT is heard by the programs that are started, even where this one was started with SIGINT ignored."""
    pictures(tmp_path)
    place = Place(tmp_path, ray_folder)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield place
    signal.signal(signal.SIGINT, before)
    place.end()
