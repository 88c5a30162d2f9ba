"""Pictures and their files: reading, writing, resizing.

Whatever the container, a `Picture` is upright RGB in [0, 1]; what came with the pixels (alpha, ICC profile,
EXIF, resolution, bit depth) goes out again as far as the output's format holds it; `write_image` says what is
lost.

Every refusal is one line that names the file and what to do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import UnidentifiedImageError

from parallel_nst.errors import BadInput
from parallel_nst.files.formats import icc, pillow, png, tiff
from parallel_nst.files.formats.output import encode, pack
from parallel_nst.files.formats.raster import Raster, UnreadablePicture, check_pixels, quiet
from parallel_nst.files.scratch import contiguous, let_go, room, strips
from parallel_nst.files.size import Size
from parallel_nst.files.whole_files import aside_path, told_in_one_line, whole_file

__all__ = [
    "INPUT_SUFFIXES",
    "OUTPUT_SUFFIXES",
    "Picture",
    "check_output",
    "fit",
    "read_image",
    "read_settings",
    "resize",
    "stored_size",
    "write_image",
]

OUTPUT_SUFFIXES = MappingProxyType(
    {
        ".png": "PNG",
        ".jpg": "JPEG",
        ".jpeg": "JPEG",
        ".tif": "TIFF",
        ".tiff": "TIFF",
        ".webp": "WebP",
        ".bmp": "BMP",
        ".jpe": "JPEG",
        ".jfif": "JPEG",
    }
)
"""Suffixes that `write_image` knows, in lower case, and the format each stands for."""

INPUT_SUFFIXES = (*OUTPUT_SUFFIXES, ".gif")
"""Of what is taken from a folder, in lower case. A file that is named is read whatever its suffix."""

_KNOWN = (b"\xff\xd8\xff", png.SIGNATURE, b"BM", b"GIF8")
_LONGEST = {"JPEG": 65500, "WebP": 16383, "PNG": 1_000_000}  # px; of libjpeg and libpng


@dataclass(frozen=True, eq=False)
class Picture:
    """An upright RGB picture with what its file carried. Compared by identity, as arrays have no truth value.

    pixels: (H, W, 3) float32 in [0, 1].
    alpha: (H, W) float32 in [0, 1], or None; pixels are not premultiplied.
    icc: ICC profile of the pixels' RGB space; None means sRGB.
    exif: EXIF block, orientation 1, no thumbnail.
    dpi: horizontal and vertical pixels per inch.
    depth: bits a channel of the source, 8 or 16.
    note: something the user should be told, such as "first of 12 frames".
    """

    pixels: NDArray[np.float32]
    alpha: NDArray[np.float32] | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    depth: int = 8
    note: str | None = None

    @property
    def size(self) -> Size:
        return Size(*self.pixels.shape[:2])


_TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}
"""EXIF orientation to the turn that makes (H, W, C) samples upright."""


def read_image(path: str | Path, *, max_pixels: int | None = None) -> Picture:
    """Read JPEG, PNG, TIFF, WebP, BMP or GIF; of an animation the first frame.

    A header that states more pixels than `max_pixels` (default: Pillow's limit against decompression bombs)
    is refused before decoding. Grey and CMYK profiles are applied, giving sRGB. Floating-point TIFF must lie
    in 0 to 1. Threads take turns.

    Raises FileNotFoundError, IsADirectoryError, PermissionError, or BadInput for what cannot be read whole.
    """
    path = Path(path)
    with _in_one_line(path), quiet() as limit:
        picture = _picture(_container(path).read(path, limit if max_pixels is None else max_pixels))
    for values in (picture.pixels, picture.alpha):
        if values is not None:
            let_go(values)
    return picture


def stored_size(path: str | Path, *, max_pixels: int | None = None) -> Size:
    """As the header of a file has it, before its EXIF orientation. Raises as `read_image` does, but for what is damaged
    behind the header."""
    path = Path(path)
    with _in_one_line(path), quiet() as limit:
        size = _container(path).size(path)
        check_pixels(size, limit if max_pixels is None else max_pixels)
        return size


def read_settings(path: str | Path) -> str | None:
    """The settings that `write_image` stored in a file, or None. Raises as `read_image` does."""
    path = Path(path)
    with _in_one_line(path), quiet():
        _container(path)
        try:
            return pillow.read_settings(path)
        except UnidentifiedImageError:  # a TIFF of a kind that `write_image` does not write
            return None


@contextmanager
def _in_one_line(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises into one line about the file."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, PermissionError, MemoryError):
        raise
    except UnreadablePicture as reason:
        raise BadInput(f"{path}: {reason}") from None
    except Exception as error:  # decoders raise nearly anything on damaged files
        if isinstance(error, OSError) and error.strerror:
            raise BadInput(f"{path}: cannot be read ({error.strerror}): check the name and the disk") from None
        detail = " ".join(str(error).split())[:150] or type(error).__name__
        if isinstance(error, (UnidentifiedImageError, LookupError, TypeError)):
            detail = "its header makes no sense"
        raise BadInput(f"{path}: damaged or cut short ({detail}): get a whole copy of the file") from None


@dataclass(frozen=True)
class _Container:
    """How files of a kind are read. size: of the header. read: all of it, at most so many pixels."""

    size: Callable[[Path], Size]
    read: Callable[[Path, int | None], Raster]


def _container(path: Path) -> _Container:
    """Look at the first bytes; the suffix does not matter."""
    head = _head(path)
    if png.is_deep(head):
        return _Container(pillow.size, png.read_deep)
    if head.startswith(tiff.MAGIC):
        return _Container(tiff.size, tiff.read)
    if head.startswith(_KNOWN) or (head.startswith(b"RIFF") and head[8:12] == b"WEBP"):
        return _Container(pillow.size, pillow.read)
    if not head:
        raise UnreadablePicture("the file is empty: get a whole copy of it")
    raise UnreadablePicture("not a picture of a known kind (JPEG, PNG, TIFF, WebP, BMP, GIF): convert it to one")


def _head(path: Path) -> bytes:
    """The first 32 bytes; fewer for a shorter file."""
    try:
        if path.is_dir():
            raise IsADirectoryError(f"{path}: a folder, not a picture: name a file in it")
        if path.exists() and not path.is_file():
            raise UnreadablePicture("not a regular file: save the picture to one first")
        with path.open("rb") as file:
            return file.read(32)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file: check the name") from None
    except PermissionError:
        raise PermissionError(f"{path}: may not be read: change its permissions") from None


def _picture(raster: Raster) -> Picture:
    """Apply profile and orientation, and part colours from alpha."""
    samples, profile, note = icc.settle(raster.samples, raster.icc)
    samples = _TURNS[raster.orientation](samples)
    channels = samples.shape[2]
    colours = samples[..., :3] if channels >= 3 else samples[..., [0, 0, 0]]
    return Picture(
        contiguous(colours),
        contiguous(samples[..., -1]) if channels in (2, 4) else None,
        profile,
        raster.exif,
        raster.dpi[::-1] if raster.dpi and raster.orientation >= 5 else raster.dpi,
        raster.depth,
        "; ".join([*raster.notes, *([note] if note else [])]) or None,
    )


def check_output(path: str | Path, *, inputs: Iterable[str | Path] = (), size: Size | None = None) -> Path:
    """Find out before the long computation whether `write_image` can write there; leaves nothing behind.

    inputs: files that must not be overwritten, under whatever name or link.
    size: of what will be written, if known.

    Raises BadInput for an unknown suffix, a size that the format cannot hold, an output that is an input;
    IsADirectoryError, FileNotFoundError, NotADirectoryError or PermissionError for the place.
    """
    path = Path(path)
    _check_size(path, _format(path), size)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: a folder: give a file name in it")
    if path.exists() and not path.is_file():
        raise BadInput(f"{path}: not a regular file: choose another output")
    for other in inputs:
        if _same(path, other):
            raise BadInput(f"{path}: would overwrite the input {other}: choose another output")
    _check_folder(path)
    return path


def _format(path: Path) -> str:
    form = OUTPUT_SUFFIXES.get(path.suffix.lower())
    if form is None:
        known = " ".join(OUTPUT_SUFFIXES)
        raise BadInput(f"{path}: suffix '{path.suffix}' names no output format: use one of {known}")
    return form


def _check_size(path: Path, form: str, size: Size | None) -> None:
    longest = _LONGEST.get(form)
    if size and longest and max(size) > longest:
        raise BadInput(f"{path}: {size} is too large, {form} holds at most {longest} px a side: write a .tif")


def _same(one: Path, other: str | Path) -> bool:
    """Whether two names lead to one file, through symbolic and hard links; either may not exist yet."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)


def _check_folder(path: Path) -> None:
    folder = Path(os.path.realpath(path)).parent
    if not folder.exists():
        raise FileNotFoundError(f"{path}: the folder {folder} does not exist: create it first")
    if not folder.is_dir():
        raise NotADirectoryError(f"{path}: {folder} is not a folder: choose another output")
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(f"{path}: is write-protected: change its permissions or choose another output")
    trial = aside_path(path)
    try:
        trial.touch(exist_ok=False)  # permission bits alone say little on network and read-only file systems
    except OSError as error:
        reason = error.strerror or error
        raise PermissionError(f"{path}: cannot write in {folder} ({reason}): choose another folder") from None
    finally:
        trial.unlink(missing_ok=True)


def write_image(path: str | Path, picture: Picture, *, settings: str | None = None, quality: int = 95) -> list[str]:
    """Write a picture in the format of the suffix; returns notes on what the format could not hold.

    settings: text kept in the file's metadata, see `read_settings`. quality: 1 to 100; JPEG without chroma
    subsampling; WebP lossy, at 100 lossless. PNG and TIFF are lossless and keep 16 bits.

    The file is written aside and renamed: it appears whole or not at all. A symbolic link stays and its
    target is replaced. Values are rounded to the nearest step; those outside [0, 1] are clipped.

    Raises as `check_output`, BadInput for a malformed picture or quality, OSError when writing fails.
    """
    _check_picture(Path(path), picture)
    path = check_output(path, size=picture.size)
    if not 1 <= quality <= 100:
        raise BadInput(f"{path}: quality {quality} is not in 1 to 100: choose one that is, such as 95")
    with quiet():
        parcel = pack(_raster(picture), _format(path), settings)
    with told_in_one_line(path, "free some space or choose another output", ValueError), whole_file(path) as file:
        encode(file, parcel, quality)
    return list(parcel.notes)


def _raster(picture: Picture) -> Raster:
    return Raster(_samples(picture), picture.depth, picture.icc, picture.exif, dpi=picture.dpi)


def _samples(picture: Picture) -> NDArray[np.float32]:
    """(H, W, 3), or 4 with alpha."""
    if picture.alpha is None:
        return picture.pixels
    samples = room((*picture.size, 4), np.float32)
    for rows in strips(picture.size.height):
        samples[rows, :, :3], samples[rows, :, 3] = picture.pixels[rows], picture.alpha[rows]
    return samples


def _check_picture(path: Path, picture: Picture) -> None:
    pixels, alpha = picture.pixels, picture.alpha
    if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size or pixels.dtype.kind != "f":
        found = f"{pixels.dtype} {pixels.shape}"
        raise BadInput(f"{path}: pixels are {found}, must be floating-point (height, width, 3): convert them")
    if alpha is not None and alpha.shape != pixels.shape[:2]:
        raise BadInput(f"{path}: alpha is {alpha.shape}, the pixels {pixels.shape[:2]}: resize alpha")
    if not all(_finite(values) for values in (pixels, alpha) if values is not None):
        raise BadInput(f"{path}: some values are NaN or infinite: look at what made them, nothing is written")


def _finite(values: NDArray[np.floating[Any]]) -> bool:
    """By the extremes, of which NaN is one if it is there: a mask of a large picture would be large."""
    for rows in strips(len(values)):
        if not np.isfinite([values[rows].min(), values[rows].max()]).all():
            return False
        let_go(values)
    return True


def resize(pixels: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    """(H, W) or (H, W, C) float32 scaled to `size`, clipped to [0, 1].

    An axis that shrinks is averaged by area, one that grows is interpolated cubically. Always a new array.
    """
    height, width = size
    if width < 1 or height < 1:
        raise BadInput(f"cannot resize to {size}: both sides must be at least 1 px")
    smaller = (min(width, pixels.shape[1]), min(height, pixels.shape[0]))
    # OpenCV averages areas only when neither axis grows, hence two steps.
    steps = [(smaller, cv2.INTER_AREA)] + [((width, height), cv2.INTER_CUBIC)] * (smaller != (width, height))
    scaled = contiguous(pixels)
    for (across, down), kind in steps:
        found = room((down, across, *pixels.shape[2:]), np.float32)
        made = cv2.resize(scaled, (across, down), dst=found, interpolation=kind)
        if not np.shares_memory(made, found):  # OpenCV takes what it is offered if it has the shape that it would make
            found[:] = made.reshape(found.shape)
        let_go(scaled)
        scaled = found
    for rows in strips(height):
        np.clip(scaled[rows], 0, 1, out=scaled[rows])
    let_go(scaled)
    return scaled


def shrunk(pixels: NDArray[np.float32], longest: int) -> NDArray[np.float32]:
    """(H, W) or (H, W, C) float32 with its longer side at most `longest` px, clipped to [0, 1]; always a new array."""
    size = Size(*pixels.shape[:2])
    return resize(pixels, fit(size, min(longest, max(size))))


def fit(size: Size, longest: int) -> Size:
    """Scaled so that the longest side is `longest` px, the other at least 1."""
    if longest < 1 or min(size) < 1:
        raise BadInput(f"cannot fit {size} to {longest} px: all must be at least 1 px")
    return Size(*(max(1, round(side * longest / max(size))) for side in size))
