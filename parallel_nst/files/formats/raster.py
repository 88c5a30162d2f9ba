"""What every container module shares: the decoded `Raster`, the refusal, and decoders kept quiet."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from parallel_nst.errors import BadInput
from parallel_nst.files.scratch import room, strips
from parallel_nst.files.size import Size

_pillow = threading.Lock()


class UnreadablePicture(BadInput):
    """Why a file is not read, without its name: `read_image` puts the path in front."""


@dataclass(frozen=True)
class Raster:
    """A decoded file, before its orientation and its profile are applied.

    samples: (H, W, C) float32 in [0, 1]; C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA; not premultiplied.
    depth: bits a channel of the source, 8 or 16; floating point counts as 16.
    icc: profile as found, of whatever colour space.
    exif: tidied block (see `exif.tidy`).
    orientation: EXIF code 1 to 8 still to be applied.
    dpi: horizontal and vertical pixels per inch, as stored.
    notes: what the user should be told.
    """

    samples: NDArray[np.float32]
    depth: int = 8
    icc: bytes | None = None
    exif: bytes | None = None
    orientation: int = 1
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()


@contextmanager
def quiet() -> Iterator[int | None]:
    """Pillow without its warnings and its pixel limit; yields that limit, for the caller to hold to.

    Both belong to the whole process: one thread at a time changes them, and puts them back. Not reentrant.
    """
    with _pillow, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield limit
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def decode_by_opencv(data: NDArray[np.uint8]) -> NDArray[Any] | None:
    """Samples as stored, colours in the order BGR; None when it cannot. OpenCV would complain on stderr."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        return cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    finally:
        cv2.utils.logging.setLogLevel(level)


def unit(stored: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Samples of 16 bits in [0, 1]."""
    samples = room(stored.shape, np.float32)
    for rows in strips(len(stored)):
        np.divide(stored[rows], np.float32(65535), out=samples[rows])
    return samples


def check_pixels(size: Size, limit: int | None) -> None:
    """Refuse a header that promises more than `limit` pixels (None: no limit), before anything is decoded."""
    if limit is not None and size.area > limit:
        raise UnreadablePicture(
            f"{size} is {size.area} pixels, above the limit of {limit}: "
            f"pass --max-pixels {size.area} if you trust the file"
        )
