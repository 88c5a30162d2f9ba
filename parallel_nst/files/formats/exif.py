"""EXIF blocks: what may stay when pixels change, and the settings of a run in the user comment.

The user comment is the one text field that JPEG, WebP and TIFF all carry and that Pillow and exiftool read; a
description written by the photographer is left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import ExifTags, Image

from parallel_nst.files.size import Size

_MARK = "# parallel_nst settings\n"
_COMMENT = int(ExifTags.Base.UserComment)
_ORIENTATION = int(ExifTags.Base.Orientation)
_RESOLUTION = (282, 283, 296)
_EXTENT = (int(ExifTags.Base.ExifImageWidth), int(ExifTags.Base.ExifImageHeight))

# Tags that say how a TIFF file stores its samples or thumbnail, or that hold other metadata (XMP, IPTC,
# Photoshop, ICC). In a TIFF the photographer's tags stand among these.
_STRUCTURE = frozenset(
    (
        *range(254, 260),
        *range(262, 267),
        *(273, 277, 278, 279, 280, 281, 284, 297, 301, 330, 559, 700),
        *range(288, 294),
        *range(317, 326),
        *range(332, 348),
        *range(512, 533),
        *(33723, 34377, 34675, 37724),
        *_RESOLUTION,
    )
)


@dataclass(frozen=True)
class Survey:
    """What an EXIF block says.

    block: the tidied block (see `tidy`).
    orientation: 1 to 8, as found.
    dpi: pixels per inch, as found.
    notes: what the user should be told.
    """

    block: bytes | None = None
    orientation: int = 1
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()


def survey(source: Callable[[], Image.Exif]) -> Survey:
    """Open a block and read what matters; what cannot be read is dropped, no reason to refuse the picture."""
    turn = 1
    try:
        exif = source()
        turn, dpi = orientation(exif), resolution(exif)
        return Survey(tidy(exif), turn, dpi)
    except Exception:  # damaged blocks make Pillow raise nearly anything
        return Survey(orientation=turn, notes=("damaged EXIF dropped",))


def load(block: bytes | None) -> Image.Exif:
    """The block opened; an empty one when there is none or it cannot be read."""
    exif = Image.Exif()
    try:
        exif.load(block or b"")
        exif.tobytes()  # proves that all of it can be read
    except Exception:  # as in `survey`
        return Image.Exif()
    return exif


def orientation(exif: Image.Exif) -> int:
    """EXIF orientation 1 to 8; 1 when absent or out of range."""
    code = exif.get(_ORIENTATION, 1)
    return code if isinstance(code, int) and 1 <= code <= 8 else 1


def clean_dpi(dpi: Any) -> tuple[float, float] | None:
    """Pixels per inch that every format can hold, or None: files hold zeros, NaN and single numbers too."""
    try:
        x, y = (float(value) for value in dpi)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if 1 <= x <= 65535 and 1 <= y <= 65535 else None


def resolution(exif: Image.Exif) -> tuple[float, float] | None:
    """Pixels per inch that the block states; None without a unit of length."""
    x, y, unit = (exif.get(tag) for tag in _RESOLUTION)
    per_inch = {2: 1.0, 3: 2.54, None: 1.0}.get(unit)
    dpi = clean_dpi((x, y))
    return clean_dpi((dpi[0] * per_inch, dpi[1] * per_inch)) if dpi and per_inch else None


def trim(exif: Image.Exif) -> None:
    """Take out what is not true of other pixels.

    Gone are how the old file was stored, the resolution (`Picture.dpi` has it), the maker note (its inner
    offsets break when a block is rewritten, and it may hold previews), the claim to follow the camera file
    rules, and the settings of an earlier run. `tobytes` writes no second directory, so no thumbnail.
    """
    for tag in _STRUCTURE.intersection(exif):
        del exif[tag]
    if ExifTags.IFD.Exif in exif:
        details = exif.get_ifd(ExifTags.IFD.Exif)
        for tag in (ExifTags.Base.MakerNote, ExifTags.IFD.Interop):
            details.pop(tag, None)
        if _settings_in(details.get(_COMMENT)) is not None:
            del details[_COMMENT]
    if _ORIENTATION in exif:
        exif[_ORIENTATION] = 1


def tidy(exif: Image.Exif) -> bytes | None:
    """The block as it may follow other pixels: trimmed and upright; None when nothing is left."""
    trim(exif)
    return exif.tobytes() if set(exif) - {_ORIENTATION} else None


def stamped(block: bytes | None, size: Size, dpi: tuple[float, float] | None, settings: str | None) -> Image.Exif:
    """The block for a file of this size: trimmed, right in size and dpi, with settings."""
    exif = load(block)
    trim(exif)
    if dpi:
        for tag, value in zip(_RESOLUTION, (*dpi, 2), strict=True):
            exif[tag] = value
    if ExifTags.IFD.Exif in exif:
        details = exif.get_ifd(ExifTags.IFD.Exif)
        details.update({tag: n for tag, n in zip(_EXTENT, (size.width, size.height), strict=True) if tag in details})
    if settings is not None:
        details = exif.get_ifd(ExifTags.IFD.Exif)
        details[_COMMENT] = _as_comment(_MARK + settings)
        exif[int(ExifTags.IFD.Exif)] = details
    return exif


def has_comment(block: bytes | None) -> bool:
    """Whether a user comment is there, other than the usual blank filler and settings of ours."""
    comment = load(block).get_ifd(ExifTags.IFD.Exif).get(_COMMENT)
    written = isinstance(comment, bytes) and bool(comment[8:].strip(b" \0"))
    return written and _settings_in(comment) is None


def settings_of(source: Callable[[], Image.Exif]) -> str | None:
    """The settings that `stamped` left in the block, or None."""
    try:
        return _settings_in(source().get_ifd(ExifTags.IFD.Exif).get(_COMMENT))
    except Exception:  # as in `survey`
        return None


def _as_comment(text: str) -> bytes:
    """Eight bytes name the character code; UTF-16 in network order, as other tools write it."""
    return b"ASCII\0\0\0" + text.encode() if text.isascii() else b"UNICODE\0" + text.encode("utf-16-be")


def _settings_in(comment: Any) -> str | None:
    if not isinstance(comment, bytes):
        return None
    for codec in ("utf-8", "utf-16-be", "utf-16-le"):
        text = comment[8:].decode(codec, "replace")
        if text.startswith(_MARK):
            return text.removeprefix(_MARK).rstrip("\0")
    return None
