"""A small picture of a large one whose pixels lie on many ranks: sums over squares of pixels, which add."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from parallel_nst.files.size import Size
from parallel_nst.painting.planning.scales import FRAME, unframed_size
from parallel_nst.painting.tiles.geometry import Rect, scatter_add
from parallel_nst.painting.tiles.ownership import CHANNELS

LONGEST = 512  # px of a preview's sides, at most


@dataclass(frozen=True)
class PreviewPart:
    """Sums (3, h, w) over the squares of `rect`, in px of the preview."""

    rect: Rect
    sums: np.ndarray


@dataclass(frozen=True)
class Reduction:
    """How a picture is made small: squares of `side` px become one. size: of the picture, without its frame."""

    size: Size

    @classmethod
    def of_framed(cls, size: Size) -> Reduction:
        """For a picture whose size is given with its frame."""
        return cls(unframed_size(size))

    @property
    def side(self) -> int:
        return -(-max(self.size) // LONGEST)

    def part(self, values: Tensor, core: Rect) -> PreviewPart | None:
        """What a core (3, h, w) of the framed picture adds to the preview, in [0, 1]; None where it is all frame."""
        inside = core.common(Rect(FRAME, FRAME, FRAME + self.size.height, FRAME + self.size.width))
        if inside is None:
            return None
        seen, local = inside.moved(-FRAME), inside.within(core)
        rows, columns = (
            torch.arange(*span) // self.side for span in ((seen.top, seen.bottom), (seen.left, seen.right))
        )
        rect = Rect(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
        pixels = values[:, local.top : local.bottom, local.left : local.right].clamp(0, 1).float().cpu()
        strips = pixels.new_zeros(CHANNELS, rect.height, local.width).index_add_(1, rows - rect.top, pixels)
        sums = pixels.new_zeros(CHANNELS, rect.height, rect.width).index_add_(2, columns - rect.left, strips)
        return PreviewPart(rect, sums.numpy())

    def picture(self, parts: Iterable[PreviewPart]) -> np.ndarray:
        """The preview (H, W, 3) from all parts."""
        counts = [np.bincount(np.arange(length) // self.side) for length in self.size]
        total = np.zeros((CHANNELS, len(counts[0]), len(counts[1])), np.float32)
        for part in parts:
            scatter_add(total, part.rect, part.sums)
        return np.ascontiguousarray((total / np.outer(*counts)).transpose(1, 2, 0).astype(np.float32))
