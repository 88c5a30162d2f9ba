"""The photograph's colours kept, in either of two ways (Gatys, Bethge, Hertzmann, Shechtman, Preserving Color in Neural
Artistic Style Transfer, 2016, arXiv 1606.05897). Pictures are (H, W, 3), RGB in [0, 1]. Each is done to a whole
picture, before or after it is painted, and so does not depend on tiles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from parallel_nst.files.images import Picture, resize
from parallel_nst.files.scratch import room, strips
from parallel_nst.files.size import Size

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of YIQ (section 4.2 there)
LEAST = 1e-5  # variance that a colour counts as having: a grey picture has none along two axes


def recoloured(style: Picture, content: Picture) -> Picture:
    """The style picture with the mean and covariance of the content's colours: A x + b with A = C^1/2 S^-1/2
    (section 4.1 there, the form of Image Analogies)."""
    (mean, spread), (target, wanted) = (colours_of(picture.pixels) for picture in (style, content))
    matrix = power_of(wanted, 0.5) @ power_of(spread, -0.5)
    pixels = (style.pixels - mean.astype(np.float32)) @ matrix.T.astype(np.float32) + target.astype(np.float32)
    return replace(style, pixels=pixels.clip(0, 1))


def colours_of(pixels: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean (3,) and covariance (3, 3)."""
    flat = pixels.reshape(-1, 3)
    mean = flat.mean(0, dtype=np.float64)
    outer = np.einsum("ni,nj->ij", flat, flat, dtype=np.float64, casting="same_kind") / len(flat)
    return mean, outer - np.outer(mean, mean)


def power_of(matrix: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    """A power of a covariance, none of whose eigenvalues counts as less than LEAST."""
    values, vectors = np.linalg.eigh(matrix)
    made: NDArray[np.float64] = (vectors * values.clip(LEAST) ** power) @ vectors.T
    return made


def with_colours_of(content: NDArray[np.float32], painted: NDArray[np.float32]) -> NDArray[np.float32]:
    """The luminance of what was painted with the colours (the two other channels of YIQ) of the content."""
    same = content if content.shape == painted.shape else resize(content, Size(*painted.shape[:2]))
    coloured = room(painted.shape, np.float32)
    for rows in strips(len(painted)):
        lighter = (painted[rows] - same[rows]) @ LUMA  # adding it to all three channels changes luminance alone
        np.clip(same[rows] + lighter[..., None], 0, 1, out=coloured[rows])
    return coloured
