"""From float samples to a file of some format: what the format holds is kept, what it does not is told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from parallel_nst.files.formats import icc, pillow, png, tiff
from parallel_nst.files.formats.exif import clean_dpi, has_comment, stamped
from parallel_nst.files.formats.raster import Raster
from parallel_nst.files.scratch import let_go, room, strips
from parallel_nst.files.size import Size

_DEEP = ("PNG", "TIFF")
_OPAQUE = ("JPEG", "BMP")
_JPEG_EXIF = 65533  # bytes in one marker


@dataclass(frozen=True)
class Parcel:
    """What an encoder of format `form` gets.

    samples: (H, W, 3 or 4) uint8 or uint16.
    text: settings, for the one format with a text field of its own (PNG); elsewhere they are in `exif`.
    notes: what the format could not hold.
    """

    form: str
    samples: NDArray[Any]
    icc: bytes | None
    exif: Image.Exif
    dpi: tuple[float, float] | None
    text: str | None = None
    notes: tuple[str, ...] = ()


def pack(raster: Raster, form: str, settings: str | None) -> Parcel:
    """Make RGB or RGBA samples and what belongs to them fit the format. Call within `quiet`."""
    height, width, channels = raster.samples.shape
    values, notes = raster.samples, []
    if channels == 4 and form in _OPAQUE:
        values = _on_white(values)
        notes += [f"alpha flattened onto white: {form} has none"] if raster.samples[..., 3].min() < 1 else []
    if raster.depth > 8 and form not in _DEEP:
        notes += [f"16 bit reduced to 8: {form}"]
    samples = _rounded(values, raster.depth > 8 and form in _DEEP)
    parcel = Parcel(form, samples, raster.icc, Image.Exif(), clean_dpi(raster.dpi), notes=tuple(notes))
    return _with_metadata(_with_profile(parcel), raster.exif, Size(height, width), settings)


def _on_white(values: NDArray[np.float32]) -> NDArray[np.float32]:
    alpha = values[..., 3:]
    return values[..., :3] * alpha + (1 - alpha)


def _rounded(values: NDArray[np.float32], deep: bool) -> NDArray[Any]:
    """[0, 1] to all steps of 8 or 16 bits, to the nearest; what lies outside is clipped. Strip by strip: a large
    picture is not held once more in between."""
    rounded = room(values.shape, np.uint16 if deep else np.uint8)
    for rows in strips(len(values)):
        steps = np.clip(values[rows], 0, 1)
        steps *= 65535 if deep else 255
        rounded[rows] = np.rint(steps, out=steps)
        let_go(values)
    let_go(rounded)
    return rounded


def _with_profile(parcel: Parcel) -> Parcel:
    """Keep a profile of RGB; BMP readers ignore profiles, so its colours become sRGB."""
    kind = icc.space(parcel.icc)
    if not parcel.icc or (kind == "RGB" and parcel.form != "BMP"):
        return parcel
    if kind != "RGB":
        note = f"{kind} ICC profile dropped: it does not describe RGB pixels"
        return replace(parcel, icc=None, notes=(*parcel.notes, note))
    samples = icc.rgb_to_srgb(parcel.samples, parcel.icc)
    note = f"colours converted to sRGB: {parcel.form} has no ICC profile"
    return replace(parcel, samples=samples, icc=None, notes=(*parcel.notes, note))


def _with_metadata(parcel: Parcel, block: bytes | None, size: Size, settings: str | None) -> Parcel:
    """Put EXIF and settings where the format has room for them."""
    if parcel.form == "BMP":
        lost = [name for name, value in (("EXIF", block), ("settings", settings)) if value]
        return replace(parcel, notes=parcel.notes + tuple(f"{name} not stored: BMP has no place" for name in lost))
    if parcel.form == "PNG":
        return replace(parcel, exif=stamped(block, size, parcel.dpi, None), text=settings)
    exif, notes = stamped(block, size, parcel.dpi, settings), list(parcel.notes)
    if parcel.form == "JPEG" and block and len(exif.tobytes()) > _JPEG_EXIF:
        notes.append("EXIF dropped: above the 64 KiB that JPEG holds")
        exif, block = stamped(None, size, parcel.dpi, settings), None
    if parcel.form == "JPEG" and len(exif.tobytes()) > _JPEG_EXIF:
        notes.append("settings not stored: above the 64 KiB that JPEG holds")
        exif, settings = Image.Exif(), None
    if settings is not None and has_comment(block):
        notes.append("EXIF user comment replaced by the settings")
    return replace(parcel, exif=exif, notes=tuple(notes))


def encode(file: BinaryIO, parcel: Parcel, quality: int) -> None:
    """Write the whole file; `quality` (1 to 100) is for JPEG and WebP. Raises OSError when that fails."""
    if parcel.form == "TIFF":
        tiff.write(file, parcel.samples, icc=parcel.icc, exif=parcel.exif)
        return
    block = parcel.exif.tobytes() if len(parcel.exif) else None
    if parcel.form == "PNG":
        png.write(file, parcel.samples, icc=parcel.icc, exif=block, dpi=parcel.dpi, settings=parcel.text)
        return
    pillow.write(file, parcel.form, parcel.samples, quality=quality, icc=parcel.icc, exif=block, dpi=parcel.dpi)
