"""TIFF: the header of all, the samples of what has more than 8 bits, and all encoding.

tifffile reads; it cannot write an EXIF directory, so the few tags of a plain RGB picture are written here
with Pillow's directory class.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import ExifTags, Image, TiffTags
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from parallel_nst.files.formats import pillow
from parallel_nst.files.formats.exif import survey
from parallel_nst.files.formats.raster import Raster, UnreadablePicture, check_pixels, decode_by_opencv, unit
from parallel_nst.files.size import Size

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ICC = 34675
_STRIP_BYTES = 1 << 20
_TILED_BYTES = 128 << 20  # of samples, from which a file is in tiles and no longer in strips
_TILE = 512  # px
_CLASSIC, _BIG = b"II*\0\0\0\0\0", b"II+\0\x08\0\0\0" + bytes(8)
_CLASSIC_BYTES = 4_200_000_000
_FLOAT_SLACK = 1e-3  # rounding of an export; a real highlight lies far above 1

# Without a handler of its own, tifffile's complaints about damaged files would appear on stderr.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def size(path: Path) -> Size:
    """Of the first page. Call within `quiet`; damaged files raise whatever the decoder raises."""
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        return Size(page.imagelength, page.imagewidth)


def read(path: Path, limit: int | None) -> Raster:
    """Decode the first page. Call within `quiet`; damaged files raise whatever the decoder raises."""
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        check_pixels(Size(page.imagelength, page.imagewidth), limit)
        _check_whole(page, tif.filehandle.size)
        found = survey(lambda: _exif(tif, page))
        raster = _deep(path, page, found.orientation) if _is_deep(page) else _shallow(path, limit)
        # What Pillow decoded it has turned as well, but not the resolution.
        sideways = found.orientation >= 5 and not _is_deep(page)
        dpi = found.dpi[::-1] if found.dpi and sideways else found.dpi
        pages = (f"first of {len(tif.pages)} frames",) if len(tif.pages) > 1 else ()
        return replace(raster, exif=found.block, dpi=dpi, notes=raster.notes + found.notes + pages)


def _check_whole(page: tifffile.TiffPage, size: int) -> None:
    """Decoders fill strips that lie beyond the end of the file with grey; here they are an error."""
    end = max(map(sum, zip(page.dataoffsets, page.databytecounts, strict=False)), default=0)
    if end > size:
        raise UnreadablePicture(
            f"cut short: its samples end at byte {end}, the file at {size}: get a whole copy of the file"
        )


def _exif(tif: tifffile.TiffFile, page: tifffile.TiffPage) -> Image.Exif:
    """The page's own tags: EXIF is TIFF, so the directory of the picture is the EXIF block."""
    exif = Image.Exif()
    exif.endian, exif.bigtiff = tif.byteorder, tif.is_bigtiff
    exif.load_from_fp(tif.filehandle, page.offset)  # type: ignore[arg-type]  # has seek, tell and read
    for tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        if tag in exif:
            exif.get_ifd(tag)
    exif.bigtiff = False  # what is made of it goes into other files, and EXIF is classic TIFF
    return exif


def _is_deep(page: tifffile.TiffPage) -> bool:
    """Whether the samples have more bits than Pillow would keep. 16-bit CMYK is converted at 8 anyway."""
    return page.bitspersample > 8 and page.photometric != tifffile.PHOTOMETRIC.SEPARATED


def _shallow(path: Path, limit: int | None) -> Raster:
    return replace(pillow.read(path, limit), orientation=1)


def _deep(path: Path, page: tifffile.TiffPage, orientation: int) -> Raster:
    """Grey or RGB of 16 bits or floating point, full precision."""
    kinds = tifffile.PHOTOMETRIC
    if page.photometric not in (kinds.MINISWHITE, kinds.MINISBLACK, kinds.RGB):
        raise UnreadablePicture(
            f"{page.bitspersample}-bit {_name(page.photometric)} is not read: save it as RGB or with 8 bits"
        )
    colours = 3 if page.photometric == kinds.RGB else 1
    if colours == 1 and page.samplesperpixel > 2:
        raise UnreadablePicture(
            f"{page.samplesperpixel} grey channels are not read as one picture: save it as RGB or grey"
        )
    samples = _unit(_stored(path, page))
    if page.photometric == kinds.MINISWHITE:
        samples[..., 0] = 1 - samples[..., 0]
    tag = page.tags.get(_ICC)
    icc = bytes(tag.value) if tag else None
    return Raster(_with_alpha(samples, colours, page.extrasamples), 16, icc, orientation=orientation)


def _name(member: object) -> str:
    return str(getattr(member, "name", member))


def _stored(path: Path, page: tifffile.TiffPage) -> NDArray[Any]:
    """(H, W, C) samples as stored; by OpenCV where tifffile lacks the codec (LZW, without imagecodecs)."""
    try:
        planes = page.asarray(maxworkers=1).reshape(page.shaped)[:, 0]
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        return _by_opencv(path, page)
    return np.moveaxis(planes, 0, -2).reshape(*planes.shape[1:3], -1)


def _by_opencv(path: Path, page: tifffile.TiffPage) -> NDArray[Any]:
    decoded = decode_by_opencv(np.fromfile(path, np.uint8))
    wanted = (page.imagelength, page.imagewidth, page.samplesperpixel)
    if decoded is None or decoded.dtype != page.dtype or decoded.size != np.prod(wanted):
        raise UnreadablePicture(
            f"{page.bitspersample}-bit samples in {_name(page.compression)} compression cannot be decoded: "
            "save it uncompressed or with Deflate, or get a whole copy of the file if it is damaged"
        )
    order = [2, 1, 0, 3] if page.samplesperpixel >= 3 else [0]
    return decoded.reshape(wanted)[..., order[: page.samplesperpixel]]


def _unit(stored: NDArray[Any]) -> NDArray[np.float32]:
    """Samples in [0, 1]; refuses numbers whose white nobody knows."""
    if stored.dtype.kind == "u" and stored.dtype.itemsize == 2:
        return unit(stored)
    if stored.dtype.kind != "f":
        raise UnreadablePicture(
            f"{stored.dtype.name} samples are not read, their white is not known: save it with 8 or 16 bits"
        )
    low, high = float(stored.min()), float(stored.max())
    if not np.isfinite([low, high]).all():
        raise UnreadablePicture(
            "some of its floating-point samples are NaN or infinite: repair it, or save it with 16 bits"
        )
    if low < -_FLOAT_SLACK or high > 1 + _FLOAT_SLACK:
        raise UnreadablePicture(
            f"its floating-point samples run from {low:g} to {high:g}, allowed is 0 to 1: rescale them"
        )
    return np.clip(stored.astype(np.float32), 0, 1)


def _with_alpha(samples: NDArray[np.float32], colours: int, extra: tuple[int, ...]) -> NDArray[np.float32]:
    """Keep the colours and, where the first extra sample is one, alpha; colours not premultiplied.

    An extra sample that the header does not explain is taken for alpha; one that it calls unspecified is not.
    """
    meaning = tifffile.EXTRASAMPLE
    kind = extra[0] if extra else meaning.UNASSALPHA
    if samples.shape[2] == colours or kind == meaning.UNSPECIFIED:
        return samples[..., :colours]
    kept = samples[..., : colours + 1].copy()
    if kind == meaning.ASSOCALPHA:
        alpha = kept[..., -1:]
        np.divide(kept[..., :-1], alpha, out=kept[..., :-1], where=alpha > 0)
        np.minimum(kept, 1, out=kept)
    return kept


def write(
    file: BinaryIO, samples: NDArray[np.uint8] | NDArray[np.uint16], *, icc: bytes | None, exif: Image.Exif
) -> None:
    """Encode (H, W, 3 or 4) samples of 8 or 16 bits, Deflate with differencing; resolution is in `exif`."""
    layout = _tiles(samples) if samples.nbytes >= _TILED_BYTES else _strips(samples)
    big = samples.nbytes > _CLASSIC_BYTES
    directory = ImageFileDirectory_v2(_BIG if big else _CLASSIC)
    for tag in (layout.offsets, layout.counts):
        directory.tagtype[tag] = TiffTags.LONG8 if big else TiffTags.LONG
    directory.update(_described(exif))
    directory.update({_ICC: icc} if icc else {})
    directory.update(_raster_tags(samples) | layout.tags([0] * len(layout.parts), 0))
    directory.save(file)  # it comes first and says where each part is: once more when that is known
    start = file.tell() if layout.tiled else 0  # Pillow has strips, and only those, count from the directory's end
    with ThreadPoolExecutor() as threads:
        lengths = [file.write(part) for part in threads.map(layout.deflated, layout.parts)]
    directory.update(layout.tags(lengths, start))
    file.seek(0)
    directory.save(file)


@dataclass(frozen=True)
class _Layout:
    """The parts that a file is compressed in, in their order. shape: tags that say how large each is; offsets, counts:
    tags of where each begins and how long it is."""

    parts: Sequence[NDArray[Any]]
    shape: Mapping[int, int]
    offsets: int
    counts: int
    tiled: bool

    def tags(self, lengths: Sequence[int], start: int) -> dict[int, int | tuple[int, ...]]:
        offsets = tuple(accumulate(lengths[:-1], initial=start))
        return {**self.shape, self.offsets: offsets, self.counts: tuple(lengths)}

    def deflated(self, part: NDArray[Any]) -> bytes:
        """TIFF 6.0 section 14: each sample less its left neighbour, modulo its range; little-endian. A tile that ends
        with the picture is filled up with its edge."""
        height, width, _ = part.shape
        whole = np.pad(part, ((0, _TILE - height), (0, _TILE - width), (0, 0)), "edge") if self.tiled else part
        differences: NDArray[Any] = whole.astype(whole.dtype.newbyteorder("<"))
        differences[:, 1:] -= whole[:, :-1]
        return zlib.compress(differences.tobytes())


def _strips(samples: NDArray[Any]) -> _Layout:
    """Of whole rows."""
    height, width, channels = samples.shape
    rows = min(height, max(1, _STRIP_BYTES // (samples.itemsize * width * channels)))
    return _Layout([samples[top : top + rows] for top in range(0, height, rows)], {278: rows}, 273, 279, tiled=False)


def _tiles(samples: NDArray[Any]) -> _Layout:
    """TIFF 6.0 section 15: who looks at a large picture reads only those that are seen."""
    height, width, _ = samples.shape
    corners = ((top, left) for top in range(0, height, _TILE) for left in range(0, width, _TILE))
    parts = [samples[top : top + _TILE, left : left + _TILE] for top, left in corners]
    return _Layout(parts, {322: _TILE, 323: _TILE}, 324, 325, tiled=True)


def _described(exif: Image.Exif) -> dict[int, Any]:
    """All tags of the block, its sub-directories as dictionaries."""
    pointers = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
    return {tag: exif.get_ifd(tag) if tag in pointers else value for tag, value in exif.items()}


def _raster_tags(samples: NDArray[np.uint8] | NDArray[np.uint16]) -> dict[int, int | tuple[int, ...]]:
    """Baseline tags of an RGB picture, TIFF 6.0 section 6, but for those of its layout."""
    height, width, channels = samples.shape
    return {
        256: width,
        257: height,
        258: (8 * samples.itemsize,) * channels,
        259: tifffile.COMPRESSION.ADOBE_DEFLATE.value,
        262: tifffile.PHOTOMETRIC.RGB.value,
        277: channels,
        317: tifffile.PREDICTOR.HORIZONTAL.value,
    } | ({338: tifffile.EXTRASAMPLE.UNASSALPHA.value} if channels == 4 else {})
