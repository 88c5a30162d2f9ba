"""What ranks leave behind: vectors over their cores, from which others take what they need, at the same size or at a
larger one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from parallel_nst.files.scratch import let_go, room
from parallel_nst.files.size import Size
from parallel_nst.painting.planning.scales import FRAME, unframed_size
from parallel_nst.painting.tiles.geometry import Rect, gather
from parallel_nst.painting.tiles.ownership import CHANNELS, Shard
from parallel_nst.workers.pool import Shared

Vectors = Mapping[str, np.ndarray]  # flat, by name, laid out by a shard
SHARPNESS = -0.75  # of cubic interpolation, as OpenCV has it


@dataclass(frozen=True)
class Part:
    """One rank's vectors, wherever they lie. shard: how."""

    shard: Shard
    vectors: Shared

    def open(self) -> OpenPart:
        return OpenPart(self.shard, self.vectors.get())


@dataclass(frozen=True)
class OpenPart:
    """The same, at hand."""

    shard: Shard
    vectors: Vectors


def assembled(parts: Sequence[OpenPart], name: str, rect: Rect) -> np.ndarray:
    """A rectangle (3, h, w) of a vector, from all parts that have some of it; a copy."""
    pieces = [
        (common, gather(part.shard.core(part.vectors[name], index), common.within(core)))
        for part in parts
        for index, core in part.shard.cores.items()
        if (common := core.common(rect))
    ]
    found = np.empty((CHANNELS, rect.height, rect.width), pieces[0][1].dtype)
    for common, values in pieces:
        gather(found, common.within(rect))[:] = values
    return found


def whole(parts: Sequence[Part], name: str, size: Size) -> np.ndarray:
    """A vector over a picture of this size, (3, H, W); a copy. One part after the other is opened."""
    found: np.ndarray | None = None
    for part in parts:
        flat = part.vectors.get()[name]
        found = room((CHANNELS, *size), flat.dtype) if found is None else found
        for index, core in part.shard.cores.items():
            gather(found, core)[:] = part.shard.core(flat, index)
            let_go(found)
    assert found is not None
    return found


@dataclass(frozen=True, eq=False)
class InParts:
    """An image with its frame that lies in parts; each is opened by itself."""

    parts: Sequence[Part]
    size: Size

    @property
    def whole(self) -> np.ndarray:
        return whole(self.parts, "image", self.size)

    def read(self, rect: Rect) -> np.ndarray:
        return assembled([part.open() for part in self.parts], "image", rect)

    def picture(self) -> np.ndarray:
        inside = Rect(FRAME, FRAME, self.size.height - FRAME, self.size.width - FRAME)
        found: np.ndarray | None = None
        for part in self.parts:
            flat = part.vectors.get()["image"]
            found = room((*unframed_size(self.size), CHANNELS), flat.dtype) if found is None else found
            for index, core in part.shard.cores.items():
                if common := core.common(inside):
                    values = gather(part.shard.core(flat, index), common.within(core))
                    gather(found.transpose(2, 0, 1), common.within(inside))[:] = values
                    let_go(found)
        assert found is not None
        return found


def vector(parts: Sequence[OpenPart], name: str, shard: Shard, resampling: Resampling | None = None) -> Tensor:
    """A vector over the cores of `shard`, flat: as it is or, resampled, in at least float32."""
    flat: Tensor | None = None
    for index, core in shard.cores.items():
        if resampling is None:
            values = torch.from_numpy(assembled(parts, name, core))
        else:
            values = resampling.of(assembled(parts, name, resampling.source(core)), core)
        flat = values.new_zeros(shard.elements) if flat is None else flat
        shard.core(flat, index).copy_(values)
    assert flat is not None
    return flat


@dataclass(frozen=True)
class Resampling:
    """From a picture of one size to another, without their frames, which are mirrored anew: by bilinear interpolation,
    so that nothing overshoots, or by the sharper cubic one of OpenCV (a = -0.75). Any rectangle comes out as from the
    whole, to the bit."""

    old: Size
    new: Size
    cubic: bool = False

    @classmethod
    def of_framed(cls, old: Size, new: Size) -> Resampling:
        """Between pictures whose sizes are given with their frames."""
        return cls(unframed_size(old), unframed_size(new))

    def source(self, rect: Rect) -> Rect:
        """What a rectangle of the new framed picture depends on in the old one."""
        rows, columns = (axis.places for axis in self._axes(rect))
        return Rect(int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1)

    def of(self, values: np.ndarray, rect: Rect) -> Tensor:
        """The rectangle (3, h, w); values: its `source`."""
        source, (rows, columns) = self.source(rect), self._axes(rect)
        old = torch.from_numpy(values)
        old = old if old.dtype == torch.float64 else old.float()
        return between(between(old, 1, rows, source.top), 2, columns, source.left)

    def _axes(self, rect: Rect) -> tuple[Sampling, Sampling]:
        spans = (rect.top, rect.bottom), (rect.left, rect.right)
        taps = cubic_taps if self.cubic else linear_taps
        rows, columns = (axis(old, new, *span, taps) for old, new, span in zip(self.old, self.new, spans, strict=True))
        return rows, columns


class Sampling(NamedTuple):
    """Along one side, which old positions each new one is made of, and their weights, both (taps, new positions)."""

    places: np.ndarray
    weights: np.ndarray


Taps = Callable[[np.ndarray], tuple[int, np.ndarray]]


def linear_taps(share: np.ndarray) -> tuple[int, np.ndarray]:
    """The offset of the first tap, and the weights of a position that lies so far beyond an old one, 0 to 1."""
    return 0, np.stack([1 - share, share])


def cubic_taps(share: np.ndarray) -> tuple[int, np.ndarray]:
    """The same of Keys, Cubic convolution interpolation for digital image processing (1981), eq. 4 with a = -0.75."""
    near, far = (((SHARPNESS + 2) * d - (SHARPNESS + 3)) * d * d + 1 for d in (share, 1 - share))
    outer = ((SHARPNESS * (share + 1) - 5 * SHARPNESS) * (share + 1) + 8 * SHARPNESS) * (share + 1) - 4 * SHARPNESS
    return -1, np.stack([outer, near, far, 1 - outer - near - far])


def axis(old: int, new: int, start: int, end: int, taps: Taps) -> Sampling:
    """Where the positions [start, end) of `new` px with their frame lie among `old` px with theirs. Beyond the edges
    the last position goes on."""
    mirrored = np.pad(np.arange(new), FRAME, mode="symmetric")[start:end]
    place = (mirrored + 0.5) * (old / new) - 0.5
    below = np.floor(place).astype(np.int64)
    first, weights = taps(place - below)
    places = below + np.arange(first, first + len(weights))[:, None]
    return Sampling(places.clip(0, old - 1) + FRAME, weights)


def between(values: Tensor, dim: int, axis: Sampling, origin: int) -> Tensor:
    """Values interpolated along one dimension, whose first position is `origin`."""
    places, weights = torch.from_numpy(axis.places - origin), torch.from_numpy(axis.weights).to(values.dtype)
    weights = weights[..., None] if dim == 1 else weights
    made = torch.zeros(())
    for number, (place, weight) in enumerate(zip(places, weights, strict=True)):
        part = values.index_select(dim, place).mul_(weight)
        made = made.add_(part) if number else part
    return made
