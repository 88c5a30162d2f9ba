"""PNG: decoding of 16-bit samples, which Pillow halves, and all encoding.

OpenCV decodes and knows nothing of metadata. It encodes only what is in memory as a whole, in the order BGR, so the
few chunks of a file are written here, strip by strip.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from parallel_nst.files.formats.pillow import TEXT_KEY, describe
from parallel_nst.files.formats.raster import Raster, UnreadablePicture, check_pixels, decode_by_opencv, unit
from parallel_nst.files.scratch import strips
from parallel_nst.files.size import Size

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_INCH = 0.0254  # metres


def is_deep(head: bytes) -> bool:
    """Whether the first 25 bytes of a file are those of a PNG with 16 bits a channel."""
    return head.startswith(SIGNATURE) and head[24:25] == b"\x10"


def read_deep(path: Path, limit: int | None) -> Raster:
    """Decode 16 bits a channel. Call within `quiet`; damaged files raise whatever Pillow raises.

    Pillow reads the whole file as well: it finds metadata behind the pixels and notices what is cut off.
    """
    with Image.open(path, formats=["PNG"]) as image:
        check_pixels(Size(image.height, image.width), limit)
        image.load()
        samples = _samples(path.read_bytes(), image.info.get("transparency"))
        return describe(image, samples, depth=16)


def _samples(data: bytes, key: object) -> NDArray[np.float32]:
    """(H, W, C as in `Raster`); `key` is the grey value that a tRNS chunk makes transparent."""
    decoded = decode_by_opencv(np.frombuffer(_bare(data), np.uint8))
    if decoded is None or decoded.dtype != np.uint16:
        raise UnreadablePicture("its 16-bit samples cannot be decoded: save it again with another program")
    samples = decoded.reshape(*decoded.shape[:2], -1)
    if samples.shape[2] == 1 and isinstance(key, int):
        samples = np.dstack([samples, np.where(samples == key, 0, 65535)])
    elif samples.shape[2] >= 3:
        samples = samples[..., [2, 1, 0, 3][: samples.shape[2]]]
        if data[25] == 4:  # colour type grey and alpha, which OpenCV spreads over four channels
            samples = samples[..., 2:]
    return unit(samples)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and the whole bytes of each chunk."""
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], data[at:end]
        at = end


def _bare(data: bytes) -> bytes:
    """The stream with pixels only: libpng writes to stderr about profiles and other chunks it dislikes."""
    pixels = (b"IHDR", b"tRNS", b"IDAT", b"IEND")
    return SIGNATURE + b"".join(raw for kind, raw in _chunks(data) if kind in pixels)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _metadata(
    icc: bytes | None, exif: bytes | None, dpi: tuple[float, float] | None, settings: str | None
) -> Iterator[bytes]:
    if icc:
        yield _chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc))
    if dpi:
        yield _chunk(b"pHYs", struct.pack(">IIB", *(round(value / _INCH) for value in dpi), 1))
    if exif:
        yield _chunk(b"eXIf", exif.removeprefix(b"Exif\0\0"))
    if settings is not None:
        yield _chunk(b"iTXt", TEXT_KEY.encode() + b"\0\0\0\0\0" + settings.encode())


def write(
    file: BinaryIO,
    samples: NDArray[np.uint8] | NDArray[np.uint16],
    *,
    icc: bytes | None,
    exif: bytes | None,
    dpi: tuple[float, float] | None,
    settings: str | None,
) -> None:
    """Encode (H, W, 3 or 4) samples of 8 or 16 bits."""
    height, width, channels = samples.shape
    file.write(SIGNATURE)
    kind = struct.pack(">IIBBBBB", width, height, 8 * samples.itemsize, 2 if channels == 3 else 6, 0, 0, 0)
    file.write(_chunk(b"IHDR", kind))
    file.writelines(_metadata(icc, exif, dpi, settings))
    packer = zlib.compressobj()
    for rows in strips(height):
        file.write(_chunk(b"IDAT", packer.compress(_filtered(samples[rows]))))
    file.write(_chunk(b"IDAT", packer.flush()))
    file.write(_chunk(b"IEND", b""))


def _filtered(samples: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """PNG section 9: each row begins with the number of its filter, here that of each byte less the one of its left
    neighbour; big-endian."""
    step = samples.shape[2] * samples.itemsize
    stored = np.ascontiguousarray(samples, samples.dtype.newbyteorder(">")).view(np.uint8).reshape(len(samples), -1)
    rows = np.empty((len(stored), 1 + stored.shape[1]), np.uint8)
    rows[:, 0] = 1
    rows[:, 1 : 1 + step] = stored[:, :step]
    np.subtract(stored[:, step:], stored[:, :-step], out=rows[:, 1 + step :])
    return rows.tobytes()
