"""Pictures and files: what goes out comes back, and what cannot be read or written is refused in one line."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from itertools import product
from pathlib import Path
from threading import Thread

import cv2
import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, ImageCms, TiffImagePlugin

from parallel_nst.files import images
from parallel_nst.files.formats import tiff
from parallel_nst.files.images import (
    OUTPUT_SUFFIXES,
    Picture,
    check_output,
    fit,
    read_image,
    read_settings,
    resize,
    write_image,
)
from parallel_nst.files.size import Size

LOSSLESS = (".png", ".tif")
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
TOML = 'content = "d\u00e9j\u00e0 \u5bcc\u58eb.jpg"\nweight = 0.04\n'
HALF_STEP_16 = 0.5 / 65535 + 1e-7  # rounding to 16 bits
LOSSY_TOLERANCE = 0.04  # quality 95 on smooth content; WebP halves the chroma planes

Array = np.ndarray


def smooth(height: int = 24, width: int = 32, channels: int = 3) -> Array:
    """(height, width, channels) float32 in [0, 1], different in all corners and channels, kind to JPEG."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    planes = [0.1 + 0.5 * x + 0.3 * y, 0.9 - 0.6 * x, 0.2 + 0.7 * y, 0.3 + 0.4 * x * y]
    return np.dstack(planes[:channels]).astype(np.float32)


D50 = struct.pack(">4s4xiii", b"XYZ ", *(round(v * 65536) for v in (0.9642, 1.0, 0.8249)))


def profile_of(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC version 2 profile of these tags."""
    table, body, place = b"", b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        table += struct.pack(">4sII", name, place + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = place + len(body)
    head = struct.pack(">I4sI4s4s4s12x4s", size, b"lcms", 0x02100000, kind, space, connection, b"acsp")
    return (head + bytes(28) + D50[8:]).ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def grey_profile(gamma: float) -> bytes:
    """A minimal monochrome display profile."""
    curve = struct.pack(">4s4xIH2x", b"curv", 1, round(gamma * 256))
    return profile_of(b"mntr", b"GRAY", b"XYZ ", {b"wtpt": D50, b"kTRC": curve})


def cmyk_profile() -> bytes:
    """A tiny ICC version 2 printer profile whose cyan ink is sRGB's red, and every mixture black."""
    table = np.zeros((2, 2, 2, 2, 3), np.uint8)
    table[...] = (0, 128, 128)  # L*, a*, b* of black
    table[0, 0, 0, 0], table[1, 0, 0, 0] = (255, 128, 128), (138, 208, 198)
    identity = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    lut = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + matrix + identity * 4 + table.tobytes() + identity * 3
    return profile_of(b"prtr", b"CMYK", b"Lab ", {b"wtpt": D50, b"A2B0": lut})


def camera_exif(orientation: int = 1, *, thumbnail: bytes = b"") -> bytes:
    """A block with tags in every directory, the thumbnail last."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x010E] = "Maker", orientation, "by the sea"
    exif[0x8769] = {0x829A: 0.01, 0x9003: "2024:01:02 03:04:05", 0xA002: 9999, 0x927C: b"secret preview" * 9}
    exif[0x8825] = {1: "N", 2: (52.0, 31.0, 12.5)}
    block = exif.tobytes()
    if not thumbnail:
        return block
    ifd = TiffImagePlugin.ImageFileDirectory_v2(b"MM\0*\0\0\0\0")
    start = len(block) - 6
    ifd[513], ifd[514] = start + 30, len(thumbnail)
    entries = struct.unpack(">H", block[14:16])[0]
    at = 16 + 12 * entries
    return block[:at] + struct.pack(">I", start) + block[at + 4 :] + ifd.tobytes(start) + thumbnail


def saved(path: Path, image: Image.Image | Array, **options: object) -> Path:
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path, **options)
    return path


def bytes_of(values: Array) -> Array:
    return np.rint(values * 255).astype(np.uint8)


def words_of(values: Array) -> Array:
    return np.rint(values * 65535).astype(np.uint16)


def png16(values: Array, *chunks: tuple[bytes, bytes]) -> bytes:
    """A 16-bit PNG with further chunks; those that need not stand before the pixels stand behind them."""
    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    early = b"".join(chunk(*c) for c in chunks if c[0] in (b"tRNS", b"iCCP", b"pHYs"))
    late = b"".join(chunk(*c) for c in chunks if c[0] not in (b"tRNS", b"iCCP", b"pHYs"))
    return b"\x89PNG\r\n\x1a\n" + head + early + chunk(b"IDAT", zlib.compress(rows)) + late + chunk(b"IEND", b"")


def refusal(kind: type[Exception], action: Callable[..., object], *args: object, **options: object) -> str:
    """The one line that `action` refuses with; it names the file, has a remedy, and no chained noise."""
    with pytest.raises(kind) as caught:
        action(*args, **options)
    line = str(caught.value)
    assert "\n" not in line and str(args[0]) in line and ":" in line.split(str(args[0]), 1)[1]
    assert caught.value.__cause__ is None and (caught.value.__context__ is None or caught.value.__suppress_context__)
    return line


# ---- round trips


@pytest.mark.parametrize(
    ("suffix", "alpha", "depth"),
    [(s, a, d) for s, a, d in product(OUTPUT_SUFFIXES, (False, True), (8, 16)) if d == 8 or s in LOSSLESS],
)
def test_round_trip(tmp_path: Path, suffix: str, alpha: bool, depth: int) -> None:
    veil = smooth(24, 32, 1)[..., 0] if alpha else None
    picture = Picture(smooth(), veil, SRGB, camera_exif(), (300.0, 150.0), depth)
    notes = write_image(tmp_path / f"a{suffix}", picture, settings=TOML)
    back = read_image(tmp_path / f"a{suffix}")
    form = OUTPUT_SUFFIXES[suffix]
    step = HALF_STEP_16 if depth == 16 else 0.5 / 255 + 1e-6
    expected = picture.pixels
    if alpha and form in ("JPEG", "BMP"):
        expected = expected * veil[..., None] + 1 - veil[..., None]
        assert f"alpha flattened onto white: {form} has none" in notes
    assert np.abs(back.pixels - expected).max() <= (step if form in ("PNG", "TIFF", "BMP") else LOSSY_TOLERANCE)
    assert back.size == (24, 32) and back.depth == depth and back.note is None
    assert back.pixels.dtype == np.float32 and back.pixels.flags.c_contiguous
    if alpha and form not in ("JPEG", "BMP"):
        assert np.abs(back.alpha - veil).max() <= step
    else:
        assert back.alpha is None
    assert np.allclose(back.dpi, (300, 150), atol=1)
    if form == "BMP":
        assert back.icc is None and back.exif is None and any("settings not stored" in n for n in notes)
        return
    assert notes == ([] if not alpha or form != "JPEG" else notes[:1])
    assert back.icc == SRGB and read_settings(tmp_path / f"a{suffix}") == TOML
    exif = Image.Exif()
    exif.load(back.exif)
    assert (exif[0x010F], exif[0x0112], exif[0x010E]) == ("Maker", 1, "by the sea")
    details = exif.get_ifd(0x8769)
    assert details[0xA002] == 32 and float(details[0x829A]) == pytest.approx(0.01) and 0x927C not in details
    assert [float(v) for v in exif.get_ifd(0x8825)[2]] == [52, 31, 12.5]


@pytest.mark.parametrize("suffix", LOSSLESS)
@pytest.mark.parametrize("depth", [8, 16])
def test_every_step_survives(tmp_path: Path, suffix: str, depth: int) -> None:
    steps = 2**depth
    ramp = np.arange(65536).reshape(256, 256, 1) % steps / np.float32(steps - 1)
    picture = Picture(np.repeat(ramp, 3, axis=2).astype(np.float32), depth=depth)
    write_image(tmp_path / f"a{suffix}", picture)
    assert np.array_equal(read_image(tmp_path / f"a{suffix}").pixels, picture.pixels)


def test_rounding_and_clipping(tmp_path: Path) -> None:
    values = np.array([[[-0.5, 0.49 / 255, 0.51 / 255], [254.6 / 255, 1.5, 0.5]]], np.float32)
    write_image(tmp_path / "a.png", Picture(values))
    with Image.open(tmp_path / "a.png") as image:
        stored = np.asarray(image).tolist()
    assert stored == [[[0, 0, 1], [255, 255, 128]]]


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp"])
def test_sixteen_bits_are_reduced_with_a_note(tmp_path: Path, suffix: str) -> None:
    notes = write_image(tmp_path / f"a{suffix}", Picture(smooth(), depth=16))
    assert notes == [f"16 bit reduced to 8: {OUTPUT_SUFFIXES[suffix]}"]
    assert read_image(tmp_path / f"a{suffix}").depth == 8


@pytest.mark.parametrize("suffix", [s for s in OUTPUT_SUFFIXES if s not in (".jpeg", ".tiff")])
@pytest.mark.parametrize("shape", [(1, 1), (3, 16000), (16000, 3)])
def test_extreme_shapes(tmp_path: Path, suffix: str, shape: tuple[int, int]) -> None:
    picture = Picture(smooth(*shape))
    write_image(tmp_path / f"a{suffix}", picture)
    back = read_image(tmp_path / f"a{suffix}")
    assert back.size == picture.size and np.abs(back.pixels - picture.pixels).max() < 2 * LOSSY_TOLERANCE


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".bmp"])
def test_twenty_thousand_by_three(tmp_path: Path, suffix: str) -> None:
    write_image(tmp_path / f"a{suffix}", Picture(smooth(3, 20000), depth=16))
    assert read_image(tmp_path / f"a{suffix}").size == (3, 20000)


def test_webp_at_quality_100_is_lossless(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3)) / np.float32(255)
    write_image(tmp_path / "a.webp", Picture(noise.astype(np.float32)), quality=100)
    assert np.array_equal(bytes_of(read_image(tmp_path / "a.webp").pixels), bytes_of(noise))


def test_jpeg_keeps_full_chroma(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", Picture(smooth()))
    with Image.open(tmp_path / "a.jpg") as image:
        assert all(layer[1:3] == (1, 1) for layer in image.layer)


def test_big_tiff_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff, "_CLASSIC_BYTES", 0)
    monkeypatch.setattr(tiff, "_STRIP_BYTES", 500)
    picture = Picture(smooth(), None, SRGB, camera_exif(), (300.0, 300.0), 16)
    write_image(tmp_path / "a.tif", picture, settings=TOML)
    assert (tmp_path / "a.tif").read_bytes()[2] == 43
    back = read_image(tmp_path / "a.tif")
    assert np.abs(back.pixels - picture.pixels).max() <= HALF_STEP_16
    assert b"Maker" in back.exif and back.dpi == (300, 300) and read_settings(tmp_path / "a.tif") == TOML


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("size", [(24, 32), (16, 16), (17, 33), (5, 40)])
@pytest.mark.parametrize(("channels", "depth"), [(3, 8), (4, 8), (3, 16), (4, 16)])
def test_large_tiff_is_in_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int, depth: int, size: tuple[int, int], big: bool
) -> None:
    """The same samples as in strips, for whoever reads them, and what is read of it carries no trace of the tiles."""
    values = smooth(*size, channels)
    picture = Picture(values[..., :3], values[..., 3] if channels == 4 else None, SRGB, camera_exif(), depth=depth)
    write_image(tmp_path / "strips.tif", picture, settings=TOML)
    monkeypatch.setattr(tiff, "_TILED_BYTES", 0)
    monkeypatch.setattr(tiff, "_TILE", 16)
    monkeypatch.setattr(tiff, "_CLASSIC_BYTES", 0 if big else 10**9)
    write_image(tmp_path / "tiles.tif", picture, settings=TOML)
    with tifffile.TiffFile(tmp_path / "tiles.tif") as tif:
        assert tif.pages.first.is_tiled and tif.is_bigtiff == big
        assert len(tif.pages.first.dataoffsets) == -(-size[0] // 16) * -(-size[1] // 16)
        assert np.array_equal(tif.asarray(), tifffile.imread(tmp_path / "strips.tif"))
    stored = cv2.imread(str(tmp_path / "tiles.tif"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(stored, cv2.imread(str(tmp_path / "strips.tif"), cv2.IMREAD_UNCHANGED))
    one, other = (read_image(tmp_path / name) for name in ("tiles.tif", "strips.tif"))
    assert np.array_equal(one.pixels, other.pixels) and (one.exif, one.icc) == (other.exif, other.icc)
    assert read_settings(tmp_path / "tiles.tif") == TOML
    monkeypatch.undo()
    write_image(tmp_path / "again.tif", one, settings=TOML)
    assert (tmp_path / "again.tif").read_bytes() == (tmp_path / "strips.tif").read_bytes()


# ---- orientation


def turned(values: Array, orientation: int) -> Array:
    """What a camera held that way stores: the inverse of Pillow's own table."""
    inverse = {6: 8, 8: 6}.get(orientation, orientation)
    planes = []
    for plane in np.moveaxis(values, 2, 0):
        image = Image.fromarray(np.ascontiguousarray(plane).astype(np.float32))
        method = {
            2: Image.Transpose.FLIP_LEFT_RIGHT,
            3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_270,
            7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_90,
        }.get(inverse)
        planes.append(np.asarray(image.transpose(method) if method is not None else image))
    return np.dstack(planes)


def store_jpeg(path: Path, values: Array, code: int) -> Path:
    return saved(path.with_suffix(".jpg"), bytes_of(values), quality=100, subsampling=0, exif=camera_exif(code))


def store_webp(path: Path, values: Array, code: int) -> Path:
    return saved(path.with_suffix(".webp"), bytes_of(values), lossless=True, exif=camera_exif(code))


def store_png(path: Path, values: Array, code: int) -> Path:
    return saved(path.with_suffix(".png"), bytes_of(values), exif=camera_exif(code), dpi=(100, 200))


def store_png16(path: Path, values: Array, code: int) -> Path:
    path = path.with_suffix(".png")
    size = struct.pack(">IIB", round(100 / 0.0254), round(200 / 0.0254), 1)
    path.write_bytes(png16(words_of(values), (b"pHYs", size), (b"eXIf", camera_exif(code)[6:])))
    return path


def store_tiff(path: Path, values: Array, code: int) -> Path:
    tags = {270: "by the sea", 271: "Maker", 274: code}
    return saved(path.with_suffix(".tif"), bytes_of(values), tiffinfo=tags, dpi=(100, 200))


def store_tiff16(path: Path, values: Array, code: int) -> Path:
    path = path.with_suffix(".tif")
    tags = [(274, 3, 1, code, True), (271, 2, 0, "Maker", True)]
    tifffile.imwrite(path, words_of(values), photometric="rgb", extratags=tags, resolution=(100, 200), resolutionunit=2)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("store", [store_jpeg, store_webp, store_png, store_png16, store_tiff, store_tiff16])
def test_orientation(tmp_path: Path, store: Callable[..., Path], orientation: int) -> None:
    upright = smooth(12, 20)
    path = store(tmp_path / "a", turned(upright, orientation), orientation)
    picture = read_image(path)
    assert picture.size == (12, 20) and np.abs(picture.pixels - upright).max() < LOSSY_TOLERANCE
    assert b"Maker" in picture.exif
    if store in (store_png, store_png16, store_tiff, store_tiff16):
        assert np.allclose(picture.dpi, (200, 100) if orientation >= 5 else (100, 200), atol=1)
    for suffix in (".jpg", ".png", ".tif", ".webp"):
        write_image(tmp_path / f"out{suffix}", picture)
        back = read_image(tmp_path / f"out{suffix}")
        assert back.size == (12, 20) and np.abs(back.pixels - upright).max() < 2 * LOSSY_TOLERANCE


# ---- kinds of pixels


def test_16_bit_png_of_every_colour_type(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    for channels in (1, 2, 3, 4):
        values = words_of(smooth(5, 7, channels))
        path.write_bytes(png16(values))
        picture = read_image(path)
        alpha = channels in (2, 4)
        colours = values[..., :-1] if alpha else values
        assert picture.depth == 16 and (picture.alpha is not None) == alpha
        assert np.array_equal(words_of(picture.pixels), np.broadcast_to(colours, (5, 7, 3)))
        assert not alpha or np.array_equal(words_of(picture.alpha), values[..., -1])


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_png_with_a_transparent_colour(tmp_path: Path, channels: int) -> None:
    values = words_of(smooth(5, 7, channels))
    (tmp_path / "a.png").write_bytes(png16(values, (b"tRNS", values[2, 3].astype(">u2").tobytes())))
    picture = read_image(tmp_path / "a.png")
    assert picture.alpha[2, 3] == 0 and picture.alpha.sum() == 34
    assert np.array_equal(words_of(picture.pixels), np.broadcast_to(values, (5, 7, 3)))


TIFF_LAYOUTS = {
    "plain": {},
    "deflate": {"compression": "zlib", "predictor": True},
    "big endian": {"byteorder": ">"},
    "planar": {"planarconfig": "separate"},
    "tiled": {"tile": (16, 16)},
    "big": {"bigtiff": True},
}


@pytest.mark.parametrize("layout", TIFF_LAYOUTS)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_tiff(tmp_path: Path, layout: str, channels: int) -> None:
    values = words_of(smooth(20, 24, channels))
    options: dict[str, object] = {
        "photometric": "rgb" if channels > 2 else "minisblack",
        **TIFF_LAYOUTS[layout],
    }
    if channels in (2, 4):
        options |= {"extrasamples": ["unassalpha"], "planarconfig": options.get("planarconfig", "contig")}
    if channels == 1:
        options.pop("planarconfig", None)
    stored = np.moveaxis(values, 2, 0) if "planarconfig" in TIFF_LAYOUTS[layout] else values
    stored = stored if channels > 1 else values[..., 0]
    tifffile.imwrite(tmp_path / "a.tif", stored, iccprofile=SRGB, metadata=None, **options)
    picture = read_image(tmp_path / "a.tif")
    colours = values[..., :-1] if channels in (2, 4) else values
    assert picture.depth == 16 and picture.icc == SRGB
    assert np.array_equal(words_of(picture.pixels), np.broadcast_to(colours, (20, 24, 3)))
    assert channels not in (2, 4) or np.array_equal(words_of(picture.alpha), values[..., -1])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_tiff_with_lzw(tmp_path: Path, channels: int) -> None:
    values = words_of(smooth(20, 24, channels))
    stored = values[..., [2, 1, 0, 3][:channels]] if channels > 1 else values
    assert cv2.imwrite(str(tmp_path / "a.tif"), stored, [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    picture = read_image(tmp_path / "a.tif")
    assert np.array_equal(words_of(picture.pixels), np.broadcast_to(values[..., :3], (20, 24, 3)))
    assert (picture.alpha is not None) == (channels == 4)


def test_16_bit_tiff_white_is_zero_and_premultiplied(tmp_path: Path) -> None:
    grey = words_of(smooth(5, 6, 1))
    tifffile.imwrite(tmp_path / "a.tif", 65535 - grey[..., 0], photometric="miniswhite")
    assert np.abs(read_image(tmp_path / "a.tif").pixels - grey / 65535).max() < 1e-6
    values, veil = smooth(5, 6), np.full((5, 6, 1), 0.5, np.float32)
    stored = words_of(np.dstack([values * veil, veil]))
    tifffile.imwrite(tmp_path / "b.tif", stored, photometric="rgb", extrasamples=["assocalpha"])
    assert np.abs(read_image(tmp_path / "b.tif").pixels - values).max() < 1e-4


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floating_point_tiff(tmp_path: Path, kind: type) -> None:
    tifffile.imwrite(tmp_path / "a.tif", smooth().astype(kind), photometric="rgb")
    picture = read_image(tmp_path / "a.tif")
    assert picture.depth == 16 and np.abs(picture.pixels - smooth()).max() < 1e-3


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_becomes_srgb(tmp_path: Path, suffix: str) -> None:
    cmyk = Image.fromarray(bytes_of(smooth())).convert("CMYK")
    path = saved(tmp_path / f"a{suffix}", cmyk, quality=100, icc_profile=b"")
    picture = read_image(path)
    assert np.abs(picture.pixels - smooth()).max() < 2 * LOSSY_TOLERANCE
    assert picture.icc is None and picture.note == "CMYK converted to sRGB"


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_profile_is_used_and_left_behind(tmp_path: Path, suffix: str) -> None:
    paper, cyan = Image.new("CMYK", (8, 8), (0, 0, 0, 0)), Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    options = {"quality": 100, "icc_profile": cmyk_profile()}
    white = read_image(saved(tmp_path / f"white{suffix}", paper, **options))
    red = read_image(saved(tmp_path / f"red{suffix}", cyan, **options))
    assert white.pixels.min() > 0.98 and white.icc is red.icc is None
    assert np.abs(red.pixels - (1, 0, 0)).max() < 0.1  # plain conversion would give (0, 1, 1)
    write_image(tmp_path / "out.jpg", red)
    assert read_image(tmp_path / "out.jpg").icc is None


def test_cmyk_with_an_unusable_profile_is_converted_plainly(tmp_path: Path) -> None:
    stamped = SRGB[:16] + b"CMYK" + SRGB[20:]
    cmyk = Image.fromarray(bytes_of(smooth())).convert("CMYK")
    picture = read_image(saved(tmp_path / "a.tif", cmyk, icc_profile=stamped))
    assert picture.icc is None and np.abs(picture.pixels - smooth()).max() < 0.01


def test_16_bit_cmyk_tiff(tmp_path: Path) -> None:
    cmyk = np.asarray(Image.fromarray(bytes_of(smooth())).convert("CMYK")).astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "a.tif", cmyk, photometric="separated")
    picture = read_image(tmp_path / "a.tif")
    assert picture.depth == 8 and np.abs(picture.pixels - smooth()).max() < 0.01


@pytest.mark.skipif(int(Image.__version__.split(".")[0]) < 13, reason="older Pillow cannot read its own YCbCr TIFF")
def test_lab_and_ycbcr_tiff(tmp_path: Path) -> None:
    colours = np.array([[[1, 0, 0], [0, 1, 0]], [[0, 0, 1], [1, 1, 1]]], np.float32)
    rgb = Image.fromarray(bytes_of(colours * 0.8 + 0.1))
    lab = ImageCms.profileToProfile(
        rgb, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    picture = read_image(saved(tmp_path / "lab.tif", lab))
    assert np.abs(picture.pixels - np.asarray(rgb) / 255).max() < 0.03 and "CIELAB" in picture.note
    picture = read_image(saved(tmp_path / "ycc.tif", rgb.convert("YCbCr")))
    assert np.abs(picture.pixels - np.asarray(rgb) / 255).max() < 0.03


@pytest.mark.parametrize(("mode", "suffix"), [*product(("1", "L", "LA", "P", "RGB", "RGBA"), (".png", ".tif"))])
def test_8_bit_modes(tmp_path: Path, mode: str, suffix: str) -> None:
    image = Image.fromarray(bytes_of(smooth(9, 10, 4 if mode.endswith("A") else 3))).convert(mode)
    picture = read_image(saved(tmp_path / f"a{suffix}", image))
    expected = np.asarray(image.convert("RGBA"))
    assert picture.depth == 8 and np.array_equal(bytes_of(picture.pixels), expected[..., :3])
    assert (picture.alpha is not None) == mode.endswith("A")


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "1"])
def test_png_with_a_transparent_colour(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(np.where(smooth(8, 8) > 0.5, 255, 0).astype(np.uint8)).convert(mode)
    key = image.getpixel((0, 0))
    path = saved(tmp_path / "a.png", image, transparency=bytes([128] * 256) if mode == "P" else key)
    picture = read_image(path)
    hidden = 128 / 255 if mode == "P" else 0
    assert picture.alpha[0, 0] == pytest.approx(hidden) and picture.alpha.shape == (8, 8)
    assert np.array_equal(bytes_of(picture.pixels), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
def test_first_frame_of_an_animation(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (6, 5), colour) for colour in ("red", "lime", "blue")]
    path = saved(tmp_path / f"a{suffix}", frames[0], save_all=True, append_images=frames[1:], lossless=True)
    picture = read_image(path)
    assert picture.note == "first of 3 frames"
    assert np.array_equal(bytes_of(picture.pixels), np.asarray(frames[0]))


def test_previews_in_a_camera_file_are_no_animation(tmp_path: Path) -> None:
    frame = Image.fromarray(bytes_of(smooth()))
    path = saved(tmp_path / "a.jpg", frame, format="MPO", save_all=True, append_images=[frame.resize((8, 6))])
    picture = read_image(path)
    assert picture.note is None and picture.size == (24, 32)


def test_first_page_of_a_16_bit_tiff(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 5, 6, 3), np.uint16), photometric="rgb")
    picture = read_image(tmp_path / "a.tif")
    assert picture.note == "first of 4 frames" and picture.size == (5, 6)


def test_transparent_gif(tmp_path: Path) -> None:
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 255))
    image.putpixel((1, 2), (0, 0, 0, 0))
    picture = read_image(saved(tmp_path / "a.gif", image))
    assert picture.alpha[2, 1] == 0 and picture.alpha.sum() == 15


def test_bmp(tmp_path: Path) -> None:
    picture = read_image(saved(tmp_path / "a.bmp", bytes_of(smooth()), dpi=(96, 96)))
    assert np.array_equal(bytes_of(picture.pixels), bytes_of(smooth())) and np.allclose(picture.dpi, 96, atol=1)


def test_the_suffix_of_an_input_does_not_matter(tmp_path: Path) -> None:
    saved(tmp_path / "a.png", bytes_of(smooth()))
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg").size == (24, 32)


# ---- what travels along


@pytest.mark.parametrize("deep", [False, True])
def test_grey_profile_is_applied_and_left_behind(tmp_path: Path, deep: bool) -> None:
    values = smooth(8, 9, 1)
    profile = grey_profile(1.0)
    if deep:
        packed = b"grey\0\0" + zlib.compress(profile)
        (tmp_path / "a.png").write_bytes(png16(words_of(values), (b"iCCP", packed)))
    else:
        saved(tmp_path / "a.png", bytes_of(values)[..., 0], icc_profile=profile)
    picture = read_image(tmp_path / "a.png")
    srgb = np.where(values > 0.0031308, 1.055 * values ** (1 / 2.4) - 0.055, 12.92 * values)
    assert picture.icc is None and np.abs(picture.pixels - srgb).max() < 0.01
    assert len(np.unique(picture.pixels)) >= 0.9 * len(np.unique(words_of(values) if deep else bytes_of(values)))


def test_profile_of_another_space_is_dropped(tmp_path: Path) -> None:
    picture = read_image(saved(tmp_path / "a.png", bytes_of(smooth()), icc_profile=grey_profile(2.2)))
    assert picture.icc is None and "GRAY ICC profile dropped" in picture.note
    picture = read_image(saved(tmp_path / "b.png", bytes_of(smooth()), icc_profile=b"not a profile" * 20))
    assert picture.icc is None and "damaged ICC profile dropped" in picture.note
    notes = write_image(tmp_path / "c.png", Picture(smooth(), icc=grey_profile(2.2)))
    assert notes == ["GRAY ICC profile dropped: it does not describe RGB pixels"]
    assert read_image(tmp_path / "c.png").icc is None


def test_bmp_colours_become_srgb(tmp_path: Path) -> None:
    notes = write_image(tmp_path / "a.bmp", Picture(smooth(), icc=SRGB))
    assert notes == ["colours converted to sRGB: BMP has no ICC profile"]
    assert np.abs(read_image(tmp_path / "a.bmp").pixels - smooth()).max() < 0.01


def test_thumbnail_does_not_go_stale(tmp_path: Path) -> None:
    preview = b"\xff\xd8stale thumbnail\xff\xd9"
    path = saved(tmp_path / "a.jpg", bytes_of(smooth()), exif=camera_exif(6, thumbnail=preview))
    with Image.open(path) as image:
        assert image.getexif().get_ifd(ExifTags.IFD.IFD1)[514] == len(preview)
    picture = read_image(path)
    write_image(tmp_path / "b.jpg", picture)
    write_image(tmp_path / "c.jpg", Picture(smooth(), exif=path.read_bytes()[6 : 6 + 1000]))
    for name in ("b.jpg", "c.jpg"):
        assert b"stale thumbnail" not in (tmp_path / name).read_bytes()


@pytest.mark.parametrize("block", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", camera_exif()[:40]])
def test_broken_exif_is_dropped(tmp_path: Path, block: bytes) -> None:
    path = saved(tmp_path / "a.jpg", bytes_of(smooth()), exif=block)
    assert read_image(path).size == (24, 32)
    write_image(tmp_path / "b.tif", Picture(smooth(), exif=block))
    assert read_image(tmp_path / "b.tif").size == (24, 32)


def test_exif_too_large_for_jpeg(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "x" * 70000
    picture = Picture(smooth(), exif=exif.tobytes())
    notes = write_image(tmp_path / "a.jpg", picture, settings=TOML)
    assert notes == ["EXIF dropped: above the 64 KiB that JPEG holds"] and read_settings(tmp_path / "a.jpg") == TOML
    notes = write_image(tmp_path / "a.jpg", Picture(smooth()), settings="x" * 70000)
    assert notes == ["settings not stored: above the 64 KiB that JPEG holds"]
    assert read_settings(tmp_path / "a.jpg") is None


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif", ".png"])
def test_settings_of_an_earlier_run_do_not_stay(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_image(path, Picture(smooth(), exif=camera_exif()), settings="plain = 1\n")
    assert read_settings(path) == "plain = 1\n"
    write_image(path, read_image(path))
    assert read_settings(path) is None


def test_a_user_comment_gives_way_with_a_note(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x8769] = {0x9286: b"ASCII\0\0\0grandmother's garden"}
    picture = Picture(smooth(), exif=exif.tobytes())
    assert write_image(tmp_path / "a.jpg", picture) == []
    assert b"grandmother" in (tmp_path / "a.jpg").read_bytes()
    assert write_image(tmp_path / "a.jpg", picture, settings=TOML) == ["EXIF user comment replaced by the settings"]
    assert write_image(tmp_path / "a.png", picture, settings=TOML) == []


@pytest.mark.parametrize("dpi", [(0, 0), (float("nan"), 72), (1e9, 1e9)])
@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_an_impossible_resolution_is_left_out(tmp_path: Path, suffix: str, dpi: tuple[float, float]) -> None:
    write_image(tmp_path / f"a{suffix}", Picture(smooth(), dpi=dpi))
    back = read_image(tmp_path / f"a{suffix}").dpi
    assert back is None or (suffix == ".bmp" and np.allclose(back, 96, atol=1))  # Pillow's default for BMP


# ---- bad inputs


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "no such file" in refusal(FileNotFoundError, read_image, tmp_path / "a.png")
    assert "no such file" in refusal(FileNotFoundError, read_settings, tmp_path / "a.png")
    assert "folder" in refusal(IsADirectoryError, read_image, tmp_path)


def test_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.png", bytes_of(smooth()))
    monkeypatch.setattr(Path, "open", raiser(PermissionError(13, "Permission denied")))
    assert "may not be read" in refusal(PermissionError, read_image, path)


def raiser(error: BaseException) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise error

    return fail


def test_empty_text_and_unknown_files(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"")
    assert "empty" in refusal(ValueError, read_image, path)
    path.write_text("this is not a picture")
    assert "convert it" in refusal(ValueError, read_image, path)
    saved(path, bytes_of(smooth()), format="PPM")
    assert "convert it" in refusal(ValueError, read_image, path)
    assert "convert it" in refusal(ValueError, read_settings, path)
    path.write_bytes(b"RIFF\x10\0\0\0WAVEfmt ")
    assert "convert it" in refusal(ValueError, read_image, path)
    path.write_bytes(b"BM")
    assert "damaged" in refusal(ValueError, read_image, path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_named_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert "regular" in refusal(ValueError, read_image, tmp_path / "a.png")
    assert "regular" in refusal(ValueError, check_output, tmp_path / "a.png")


def whole_files(tmp_path: Path) -> dict[str, bytes]:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    files = {}
    for name, options in {
        "a.jpg": {},
        "progressive.jpg": {"progressive": True},
        "a.png": {},
        "a.webp": {},
        "a.bmp": {},
        "a.gif": {},
        "a.tif": {},
        "lzw.tif": {"compression": "tiff_lzw"},
        "jpeg.tif": {"compression": "jpeg"},
    }.items():
        files[name] = saved(tmp_path / name, noise, **options).read_bytes()
    words = noise.astype(np.uint16) * 257
    files["deep.png"] = png16(words)
    (tmp_path / "deep.png").write_bytes(files["deep.png"])
    for name, options in {"deep.tif": {}, "deflate.tif": {"compression": "zlib"}}.items():
        tifffile.imwrite(tmp_path / name, words, photometric="rgb", **options)
        files[name] = (tmp_path / name).read_bytes()
    assert cv2.imwrite(str(tmp_path / "lzw16.tif"), words, [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    files["lzw16.tif"] = (tmp_path / "lzw16.tif").read_bytes()
    return files


def test_files_cut_short(tmp_path: Path) -> None:
    for name, data in whole_files(tmp_path).items():
        path = tmp_path / name
        read_image(path)
        for share in (0.02, 0.3, 0.7, 0.95):
            path.write_bytes(data[: int(len(data) * share)])
            line = refusal(ValueError, read_image, path)
            assert "get a whole copy of the file" in line


def test_damaged_files_never_raise_anything_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(1)
    for name, data in whole_files(tmp_path).items():
        for _ in range(12):
            damaged = bytearray(data)
            for place in random.integers(0, min(len(data), 400), 3):
                damaged[place] = random.integers(256)
            (tmp_path / name).write_bytes(damaged)
            try:
                picture = read_image(tmp_path / name, max_pixels=10**6)
            except ValueError as error:
                assert "\n" not in str(error) and name in str(error)
            else:
                assert np.isfinite(picture.pixels).all() and 0 <= picture.pixels.min() <= picture.pixels.max() <= 1
    assert capfd.readouterr().out == ""


def test_a_bomb_is_refused_from_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, data in whole_files(tmp_path).items():
        (tmp_path / name).write_bytes(data)
        for limit in (1599, 700):  # Pillow itself would warn at the first and raise at the second
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
            with monkeypatch.context() as patch:
                patch.setattr(cv2, "imdecode", raiser(RuntimeError("decoded")))
                patch.setattr(tifffile.TiffPage, "asarray", raiser(RuntimeError("decoded")))
                patch.setattr(Image.Image, "load", raiser(RuntimeError("decoded")))
                line = refusal(ValueError, read_image, tmp_path / name)
            assert f"40x40 is 1600 pixels, above the limit of {limit}: pass --max-pixels 1600" in line
            assert read_image(tmp_path / name, max_pixels=1600).size == (40, 40)
            assert limit == Image.MAX_IMAGE_PIXELS
            refusal(ValueError, read_image, tmp_path / name, max_pixels=1599)


def test_a_huge_header_costs_nothing(tmp_path: Path) -> None:
    data = bytearray(png16(np.zeros((1, 1, 3), np.uint16)))
    data[16:24] = struct.pack(">II", 60000, 60000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "a.png").write_bytes(data)
    assert "60000x60000" in refusal(ValueError, read_image, tmp_path / "a.png")


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.array([[0, np.nan]], np.float32), "NaN"),
        (np.array([[0, np.inf]], np.float32), "infinite"),
        (np.array([[0, 3.5]], np.float32), "from 0 to 3.5, allowed is 0 to 1: rescale"),
        (np.array([[0, 7]], np.uint32), "uint32"),
        (np.array([[0, 7]], np.int32), "int32"),
        (np.array([[0, -7]], np.int16), "int16"),
    ],
)
def test_samples_without_a_known_white(tmp_path: Path, values: Array, why: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack")
    assert why in refusal(ValueError, read_image, tmp_path / "a.tif")


def test_settings_of_pictures_that_hold_none(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "float.tif", smooth(), photometric="rgb")
    saved(tmp_path / "broken.jpg", bytes_of(smooth()), exif=b"Exif\0\0garbage")
    for suffix in (".gif", ".bmp", ".png"):
        saved(tmp_path / f"a{suffix}", bytes_of(smooth()))
    assert [read_settings(path) for path in tmp_path.iterdir()] == [None] * 5


def test_deep_layouts_that_are_not_read(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 4, 3), np.uint16), photometric="cielab")
    assert "16-bit CIELAB is not read" in refusal(ValueError, read_image, tmp_path / "a.tif")
    tifffile.imwrite(
        tmp_path / "b.tif", np.zeros((4, 4, 3), np.uint16), photometric="minisblack", planarconfig="contig"
    )
    assert "3 grey channels" in refusal(ValueError, read_image, tmp_path / "b.tif")


def test_warnings_and_limits_are_left_as_found_by_many_threads(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", bytes_of(smooth()))
    filters, limit = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    threads = [Thread(target=lambda: [read_image(path) for _ in range(10)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (warnings.filters, Image.MAX_IMAGE_PIXELS) == (filters, limit)


# ---- outputs


def test_check_output_accepts_and_leaves_nothing(tmp_path: Path) -> None:
    source = saved(tmp_path / "in.png", bytes_of(smooth()))
    for name in ("a.png", "a.JPG", "a.tiff"):
        assert check_output(str(tmp_path / name), inputs=[source, tmp_path / "gone.png"]) == tmp_path / name
    assert [p.name for p in tmp_path.iterdir()] == ["in.png"]


def test_check_output_refuses(tmp_path: Path) -> None:
    for name in ("a.gif", "a", "a.png.txt"):
        assert ".png .jpg" in refusal(ValueError, check_output, tmp_path / name)
    assert "create it" in refusal(FileNotFoundError, check_output, tmp_path / "no" / "a.png")
    (tmp_path / "folder.png").mkdir()
    assert "give a file name" in refusal(IsADirectoryError, check_output, tmp_path / "folder.png")
    (tmp_path / "file").touch()
    assert "not a folder" in refusal(NotADirectoryError, check_output, tmp_path / "file" / "a.png")
    assert "65500" in refusal(ValueError, check_output, tmp_path / "a.jpg", size=Size(1, 65501))
    assert "16383" in refusal(ValueError, check_output, tmp_path / "a.webp", size=Size(16384, 1))
    assert check_output(tmp_path / "a.webp", size=Size(16383, 16383))


def test_check_output_refuses_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "touch", raiser(OSError(30, "Read-only file system")))
    assert "Read-only file system" in refusal(PermissionError, check_output, tmp_path / "a.png")
    monkeypatch.undo()
    saved(tmp_path / "a.png", bytes_of(smooth()))
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "write-protected" in refusal(PermissionError, check_output, tmp_path / "a.png")


def test_check_output_refuses_an_input_under_any_name(tmp_path: Path) -> None:
    source = saved(tmp_path / "in.png", bytes_of(smooth()))
    (tmp_path / "soft.png").symlink_to(source)
    (tmp_path / "hard.png").hardlink_to(source)
    (tmp_path / "there").symlink_to(tmp_path)
    for name in ("in.png", "soft.png", "hard.png", "there/in.png", "there/../in.png"):
        path = os.path.join(tmp_path, name)
        if name == "there/../in.png":
            path = os.path.join(tmp_path, "there", "in.png")
        assert "would overwrite the input" in refusal(ValueError, check_output, path, inputs=[source])


def test_a_linked_output_keeps_its_link(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    for existing in (False, True):
        target, link = tmp_path / "store" / f"{existing}.png", tmp_path / f"{existing}.png"
        if existing:
            target.write_bytes(b"old")
        link.symlink_to(target)
        write_image(link, Picture(smooth()))
        assert link.is_symlink() and read_image(target).size == (24, 32)
    assert len(list((tmp_path / "store").iterdir())) == 2


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_permissions_follow_the_umask(tmp_path: Path, suffix: str, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_image(tmp_path / f"a{suffix}", Picture(smooth(2, 2)))
    finally:
        os.umask(before)
    assert (tmp_path / f"a{suffix}").stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp", ".png", ".tif"])
def test_no_encoder_writes_past_the_file_object(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the file object sees that a full disk has taken a part of what was written."""

    class Plain(io.BytesIO):
        def fileno(self) -> int:
            raise AssertionError("the descriptor is nobody's business")

    path, file = tmp_path / f"a{suffix}", Plain()
    monkeypatch.setattr(images, "whole_file", lambda path: contextlib.nullcontext(file))
    write_image(path, Picture(smooth()))
    path.write_bytes(file.getvalue())
    assert np.abs(read_image(path).pixels - smooth()).max() < 0.1


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), RuntimeError("x")])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, error: BaseException
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"old")

    def fail(file: io.BufferedWriter, *_: object) -> None:
        file.write(b"half")
        raise error

    monkeypatch.setattr(images, "encode", fail)
    if isinstance(error, OSError):
        assert "No space left on device" in refusal(OSError, write_image, path, Picture(smooth()))
    else:
        with pytest.raises(type(error)):
            write_image(path, Picture(smooth()))
    assert [p.name for p in tmp_path.iterdir()] == [path.name] and path.read_bytes() == b"old"


def test_a_failure_to_rename_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "replace", raiser(OSError(5, "Input/output error")))
    assert "Input/output error" in refusal(OSError, write_image, tmp_path / "a.png", Picture(smooth()))
    assert not list(tmp_path.iterdir())


def test_malformed_pictures_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    nan = smooth()
    nan[3, 4, 1] = np.nan
    assert "NaN" in refusal(ValueError, write_image, path, Picture(nan))
    assert "NaN" in refusal(ValueError, write_image, path, Picture(smooth(), nan[..., 1]))
    assert "alpha" in refusal(ValueError, write_image, path, Picture(smooth(), smooth(3, 3, 1)[..., 0]))
    assert "pixels" in refusal(ValueError, write_image, path, Picture(smooth(channels=4)))
    assert "pixels" in refusal(ValueError, write_image, path, Picture(bytes_of(smooth())))
    assert "quality" in refusal(ValueError, write_image, path, Picture(smooth()), quality=0)
    assert "65500" in refusal(ValueError, write_image, tmp_path / "a.jpg", Picture(smooth(1, 65501)))
    assert not list(tmp_path.iterdir())


# ---- sizes


@pytest.mark.parametrize("shape", [(1, 1), (3, 20000, 3), (20000, 3, 3), (7, 9), (7, 9, 1), (40, 30, 4)])
@pytest.mark.parametrize("size", [(1, 1), (5, 8), (100, 2), (2, 300), (9, 7)])
def test_resize_keeps_constants_range_and_rank(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    flat = resize(np.full(shape, 0.25, np.float32), Size(*size))
    assert flat.shape == (*size, *shape[2:]) and flat.dtype == np.float32
    assert np.abs(flat - 0.25).max() < 1e-5
    edge = np.zeros(shape, np.float32)
    edge[: shape[0] // 2] = 1
    out = resize(edge, Size(*size))
    assert out.min() >= 0 and out.max() <= 1


def test_resize_averages_when_it_shrinks() -> None:
    checks = np.indices((64, 64)).sum(0).astype(np.float32) % 2
    assert np.abs(resize(checks, Size(16, 16)) - 0.5).max() < 1e-6
    assert np.abs(resize(checks, Size(128, 16)).mean() - 0.5) < 1e-3
    noise = np.random.default_rng(0).random((60, 90, 3), np.float32)
    assert np.allclose(resize(noise, Size(20, 30)).mean((0, 1)), noise.mean((0, 1)), atol=1e-5)


def test_resize_returns_a_copy_and_takes_views() -> None:
    pixels = smooth()
    same = resize(pixels, Size(24, 32))
    assert np.array_equal(same, pixels) and not np.shares_memory(same, pixels)
    assert np.array_equal(resize(pixels[::-1, ::-1], Size(12, 16)), resize(pixels[::-1, ::-1].copy(), Size(12, 16)))
    with pytest.raises(ValueError, match="at least 1"):
        resize(pixels, Size(5, 0))


def test_fit() -> None:
    assert fit(Size(480, 640), 320) == (240, 320) and fit(Size(640, 480), 1280) == (1280, 960)
    assert fit(Size(3, 20000), 512) == (1, 512) and fit(Size(1, 1), 7) == (7, 7)
    assert all(max(fit(Size(h, w), 362)) == 362 for w, h in product((1, 3, 999, 20001), repeat=2))
    with pytest.raises(ValueError, match="at least 1"):
        fit(Size(5, 5), 0)
