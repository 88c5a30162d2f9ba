"""Strangers' pictures on their way to a job: each is decoded elsewhere (`decoding`) and written anew. What is stored is
never what was sent, under a name that the server has made."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from parallel_nst.errors import BadInput
from parallel_nst.files.bundled import STYLES, bundled_style
from parallel_nst.files.images import Picture
from parallel_nst.files.size import Size
from parallel_nst.web.decoders import Decoders


@dataclass(frozen=True)
class Upload:
    """role: what it is to be, for errors. file: what was sent, from its beginning."""

    role: str
    file: BinaryIO


class Intake:
    """A place for the files of one request; all that is still there at its end is removed."""

    def __init__(self, folder: Path, decoders: Decoders) -> None:
        self._folder, self._decoders = folder, decoders

    def stored(self, upload: Upload) -> tuple[Path, Size]:
        """The picture as a PNG in this place, and its size. BadInput for what is no picture."""
        to = self._folder / f"{upload.role}.png"
        with told_by(upload.role), self._raw(upload) as path:
            size, _ = self._decoders.convert(path, to)
        return to, size

    def picture(self, upload: Upload, longest: int = 0) -> Picture:
        """The picture in memory, its longer side brought to `longest` px; 0: as it is."""
        with told_by(upload.role), self._raw(upload) as path:
            return self._decoders.picture(path, longest)

    def settings(self, upload: Upload) -> str | None:
        """The settings that a picture of this program's own carries."""
        with told_by(upload.role), self._raw(upload) as path:
            return self._decoders.settings(path)

    def painting(self, name: str) -> Path:
        """A painting of the gallery as a PNG in this place. BadInput for a name that there is not."""
        to = self._folder / "style.png"
        self._decoders.convert(painting(name), to)
        return to

    @contextmanager
    def _raw(self, upload: Upload) -> Iterator[Path]:
        """What was sent, as a file for as long as it is decoded."""
        path = self._folder / f"{upload.role}.sent"
        with path.open("xb") as file:
            shutil.copyfileobj(upload.file, file)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def intake(folder: Path, decoders: Decoders) -> Iterator[Intake]:
    """A place in a folder, for as long as the block lasts."""
    own = folder / secrets.token_hex(16)
    own.mkdir()
    try:
        yield Intake(own, decoders)
    finally:
        shutil.rmtree(own, ignore_errors=True)


@contextmanager
def told_by(role: str) -> Iterator[None]:
    """Put what a picture was to be in front of what is wrong with it."""
    try:
        yield
    except BadInput as error:
        raise BadInput(f"{role}: {error}") from None


def painting(name: str) -> Path:
    """A painting of the gallery. BadInput for a name that there is not."""
    if name not in STYLES:
        raise BadInput(f"there is no painting {name[:80]!r}; give one of {', '.join(STYLES)}")
    return bundled_style(name)
