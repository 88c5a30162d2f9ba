"""Pictures to train on: finding them in a folder by their headers, and decoding them once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from parallel_nst.errors import BadInput
from parallel_nst.files.folders import natural_key, picture_files
from parallel_nst.files.formats.pillow import opened
from parallel_nst.files.formats.raster import quiet
from parallel_nst.files.images import read_image, stored_size

CACHE_BYTES = 1 << 30

Pixels = NDArray[np.uint8]
"""(H, W, 3) RGB, 0 to 255."""


@dataclass(frozen=True)
class Skipped:
    """A file that is not trained on, and why."""

    path: Path
    reason: str


def find_pictures(folder: Path, least: int, max_pixels: int | None = None) -> tuple[list[Path], list[Skipped]]:
    """All pictures in `folder` and the folders in it whose shorter side is at least `least` px, in natural order
    (2.jpg before 10.jpg), and those that are left out. Only headers are read. Files and folders whose names begin with
    a dot, and files without a picture's suffix, are passed over. max_pixels: see `read_image`. BadInput when no picture
    is left, and for a folder that cannot be listed."""
    if not folder.is_dir():
        raise BadInput(f"{folder} is no folder; give one with pictures to train on")
    found: list[Path] = []
    skipped: list[Skipped] = []
    for path in sorted(picture_files(folder), key=natural_key):
        reason = fault(path, least, max_pixels)
        if reason is None:
            found.append(path)
        else:
            skipped.append(Skipped(path, reason))
    if not found:
        seen = f" ({len(skipped)} left out, the first: {skipped[0].path.name}, {skipped[0].reason})" if skipped else ""
        raise BadInput(f"no picture of at least {least} px in {folder}{seen}; give a folder with JPEG or PNG files")
    return found, skipped


def fault(path: Path, least: int, max_pixels: int | None = None) -> str | None:
    """Why a picture cannot be used, by its header; None if it can."""
    try:
        height, width = stored_size(path, max_pixels=max_pixels)
    except BadInput as error:
        return str(error).removeprefix(f"{path}: ")
    except (OSError, MemoryError) as error:
        return f"cannot be read ({type(error).__name__})"
    return f"{width}x{height} is smaller than {least} px" if min(width, height) < least else None


def check_apart(first: Sequence[Path], second: Sequence[Path]) -> None:
    """BadInput when a picture is in both sets, under whatever name or link."""
    shared = {path.resolve() for path in first} & {path.resolve() for path in second}
    if shared:
        raise BadInput(
            f"{len(shared)} pictures are in both folders, such as {min(shared)}; give two that do not overlap"
        )


class PictureFiles:
    """Pictures by number; of any thread.

    Those that fit into the cache are decoded once. A file that turns out to be damaged behind its header is replaced
    by the next one, always by the same, and is named in `skipped`.
    """

    def __init__(self, paths: Sequence[Path], load: int | None = None, cache_bytes: int = CACHE_BYTES) -> None:
        """load: px that the shorter side is resized to; None keeps sizes. cache_bytes: for decoded pictures."""
        self.paths = tuple(paths)
        self.load = load
        self._room = cache_bytes
        self._cache: dict[int, Pixels] = {}
        self._damaged: dict[int, str] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int, /) -> Pixels:
        for number in range(index, index + len(self)):
            pixels = self._picture(number % len(self))
            if pixels is not None:
                return pixels
        raise BadInput(f"none of {len(self)} pictures can be decoded, such as {self.paths[0]}; get whole copies")

    @property
    def skipped(self) -> list[Skipped]:
        """Files found damaged so far, in order."""
        with self._lock:
            return [Skipped(self.paths[index], reason) for index, reason in sorted(self._damaged.items())]

    def _picture(self, index: int) -> Pixels | None:
        """None for a damaged one."""
        if index in self._damaged:
            return None
        kept = self._cache.get(index)
        if kept is not None:
            return kept
        try:
            pixels = decoded(self.paths[index], self.load)
        except MemoryError:
            raise
        except Exception as error:  # decoders raise nearly anything on damaged files
            with self._lock:
                self._damaged[index] = f"cannot be decoded ({' '.join(str(error).split())[:100]})"
            return None
        with self._lock:
            if index not in self._cache and pixels.nbytes <= self._room:
                self._room -= pixels.nbytes
                self._cache[index] = pixels
        return pixels


def decoded(path: Path, load: int | None) -> Pixels:
    """A file's upright pixels, the shorter side resized to `load` px if given. Bicubic, with a filter as wide as the
    reduction. For a file that `find_pictures` has found. Raises whatever decoders raise."""
    with quiet():  # for the header alone: threads take turns in it
        file = opened(path)
    with file:
        pixels = file.width * file.height
        if load is not None:
            file.draft("RGB", (load, load))  # a JPEG several times as large is decoded at a half, quarter or eighth
        if file.mode in ("RGB", "L"):
            image = ImageOps.exif_transpose(file).convert("RGB")
        else:  # deep, transparent, CMYK: slower, and right
            image = Image.fromarray(np.rint(read_image(path, max_pixels=pixels).pixels * 255).astype(np.uint8))
    if load is not None:
        shorter = min(image.size)
        size = round(image.width * load / shorter), round(image.height * load / shorter)
        image = image.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(image)
