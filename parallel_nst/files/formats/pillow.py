"""Everything with 8 bits a channel, read and written by Pillow."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from parallel_nst.files.formats.exif import Survey, clean_dpi, settings_of, survey
from parallel_nst.files.formats.icc import cmyk_to_srgb, lab_to_srgb
from parallel_nst.files.formats.raster import Raster, check_pixels
from parallel_nst.files.scratch import room, strips
from parallel_nst.files.size import Size

TEXT_KEY = "parallel_nst"
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF")
_GREY = ("1", "L", "LA", "La")


def opened(path: Path) -> Image.Image:
    """A file of one of `FORMATS`, its pixels not yet decoded. Nothing else is tried: Pillow would hand an EPS file of
    any name to Ghostscript."""
    return Image.open(path, formats=FORMATS)


def size(path: Path) -> Size:
    """Of the header. Call within `quiet`; damaged files raise whatever Pillow raises."""
    with opened(path) as image:
        return Size(image.height, image.width)


def read(path: Path, limit: int | None) -> Raster:
    """Decode the first frame. Call within `quiet`; damaged files raise whatever Pillow raises.

    A TIFF comes back upright and without EXIF: Pillow turns it while loading.
    """
    with opened(path) as image:
        check_pixels(Size(image.height, image.width), limit)
        image.load()
        rgb, notes = _displayable(image)
        return describe(image, _samples(rgb), notes)


def _samples(image: Image.Image) -> NDArray[np.float32]:
    """(H, W, C) in [0, 1], of an image of 8 bits a channel."""
    samples = room((image.height, image.width, len(image.getbands())), np.float32)
    for rows in strips(image.height):
        stored = np.asarray(image.crop((0, rows.start, image.width, rows.stop)))
        np.divide(stored.reshape(samples[rows].shape), np.float32(255), out=samples[rows])
    return samples


def _displayable(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """The image in mode L, LA, RGB or RGBA, and what had to be done to it that a user would like to know."""
    if image.mode == "CMYK":
        return cmyk_to_srgb(image, image.info.get("icc_profile")), ("CMYK converted to sRGB",)
    if image.mode == "LAB":
        return lab_to_srgb(image), ("CIELAB converted to sRGB",)
    alpha = image.has_transparency_data
    mode = ("LA" if alpha else "L") if image.mode in _GREY else ("RGBA" if alpha else "RGB")
    return image if image.mode == mode else image.convert(mode), ()  # to convert is to copy


def describe(image: Image.Image, samples: NDArray[np.float32], notes: tuple[str, ...] = (), depth: int = 8) -> Raster:
    """A `Raster` of these samples with what the loaded image says of itself."""
    found = Survey() if image.format == "TIFF" else survey(image.getexif)
    dpi = clean_dpi(image.info.get("dpi")) or found.dpi
    icc = None if image.mode in ("CMYK", "LAB") else image.info.get("icc_profile")
    notes += found.notes + _frames(image)
    return Raster(samples, depth, icc, found.block, found.orientation, dpi, notes)


def _frames(image: Image.Image) -> tuple[str, ...]:
    """A note for an animation. Further frames of an MPO are previews and gain maps; `tiff` counts pages."""
    count = 1 if image.format in ("MPO", "TIFF") else getattr(image, "n_frames", 1)
    return (f"first of {count} frames",) if count > 1 else ()


def read_settings(path: Path) -> str | None:
    """Settings of the run in the PNG text, or in the EXIF user comment. Call within `quiet`."""
    with opened(path) as image:
        if image.format == "PNG":
            image.load()  # text may stand behind the pixels
            text = image.info.get(TEXT_KEY)
            return str(text) if text is not None else None
        return settings_of(image.getexif)


def write(
    file: BinaryIO,
    form: str,
    samples: NDArray[np.uint8],
    *,
    quality: int,
    icc: bytes | None,
    exif: bytes | None,
    dpi: tuple[float, float] | None,
) -> None:
    """Encode (H, W, 3 or 4) samples as JPEG (4:4:4), WebP (lossless at quality 100) or BMP."""
    exact = quality == 100
    options: dict[str, dict[str, object]] = {
        "JPEG": {"quality": quality, "subsampling": 0},
        "WebP": {"quality": quality, "lossless": exact, "exact": exact, "use_sharp_yuv": not exact},
        "BMP": {},
    }
    metadata = {"icc_profile": icc, "exif": exif, "dpi": dpi}
    given = options[form] | {name: value for name, value in metadata.items() if value is not None}
    whole = BytesIO()  # Pillow, given a file, takes no notice when a full disk takes only a part of what it writes
    Image.fromarray(samples).save(whole, form, **given)
    file.write(whole.getbuffer())
