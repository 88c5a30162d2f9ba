"""Colour profiles: pixels leave here as RGB, with a profile that describes RGB, or none (sRGB)."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms


def space(icc: bytes | None) -> str:
    """Colour space of a profile: "RGB", "GRAY", "CMYK", ...; "" for none, "damaged" for a bad one."""
    if not icc:
        return ""
    try:
        ImageCms.ImageCmsProfile(BytesIO(icc))
    except OSError:
        return "damaged"
    return icc[16:20].decode("ascii", "replace").strip()


def to_srgb(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    """8-bit RGB in sRGB, relative colorimetric with black point compensation: the photo editors' default.

    Raises ImageCms.PyCMSError when the profile does not fit the image.
    """
    converted = ImageCms.profileToProfile(
        image,
        profile,
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    if converted is None:
        raise ImageCms.PyCMSError("no image came back")
    return converted


def cmyk_to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """Through the embedded profile where it is one of CMYK and usable, else by Pillow's plain arithmetic."""
    if icc and space(icc) == "CMYK":
        try:
            return to_srgb(image, ImageCms.ImageCmsProfile(BytesIO(icc)))
        except ImageCms.PyCMSError:
            pass
    return image.convert("RGB")


def lab_to_srgb(image: Image.Image) -> Image.Image:
    """CIELAB to sRGB, which `Image.convert` cannot do."""
    return to_srgb(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))


def rgb_to_srgb(samples: NDArray[np.uint8], icc: bytes) -> NDArray[np.uint8]:
    """(H, W, 3) samples of an RGB profile as sRGB samples; as they are when the profile cannot be used."""
    try:
        return np.asarray(to_srgb(Image.fromarray(samples), ImageCms.ImageCmsProfile(BytesIO(icc))))
    except (ImageCms.PyCMSError, OSError):
        return samples


def _grey_curve(icc: bytes) -> NDArray[np.float32]:
    """(256,) sRGB value in [0, 1] of each of 256 evenly spaced grey values of the profile."""
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    rgb = to_srgb(ramp, ImageCms.ImageCmsProfile(BytesIO(icc)))
    return np.asarray(rgb)[0, :, 1].astype(np.float32) / np.float32(255)


def settle(samples: NDArray[np.float32], icc: bytes | None) -> tuple[NDArray[np.float32], bytes | None, str | None]:
    """Samples (H, W, C as in `Raster`), the profile that may stay with them as RGB, and a note.

    A grey profile is applied: its curve is interpolated between 256 values, so 16 bits keep their steps. Any
    other profile that does not describe RGB is dropped.
    """
    kind = space(icc)
    if kind == "RGB" or not icc:
        return samples, icc or None, None
    if kind == "GRAY" and samples.shape[2] <= 2:
        try:
            curve = _grey_curve(icc)
        except ImageCms.PyCMSError:
            kind = "damaged"
        else:
            grey = np.interp(samples[..., :1], np.linspace(0, 1, 256), curve).astype(np.float32)
            return np.concatenate([grey, samples[..., 1:]], axis=2), None, None
    return samples, None, f"{kind} ICC profile dropped: it does not describe these pixels"
