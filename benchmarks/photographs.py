"""Photographs for benchmarks that are given none: pieces of the bundled one."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from parallel_nst.files.bundled import bundled_content

SIDE = 300  # px


def write_photographs(folder: Path, count: int) -> None:
    """Squares of the bundled photograph at several scales, as JPEG."""
    whole, rng = cv2.imread(str(bundled_content())), np.random.default_rng(0)
    for number in range(count):
        side = int(rng.integers(SIDE // 2, min(whole.shape[:2]) + 1))
        top, left = (int(rng.integers(0, length - side + 1)) for length in whole.shape[:2])
        piece = cv2.resize(whole[top : top + side, left : left + side], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / f"{number}.jpg"), piece)
