"""What ranks leave behind: vectors over their cores, from which others take what they need, at the same size or at a
larger one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from parallel_nst.files.size import Size
from parallel_nst.painting.planning.scales import FRAME, unframed_size
from parallel_nst.painting.tiles.geometry import Rect, gather
from parallel_nst.painting.tiles.ownership import CHANNELS, Shard
from parallel_nst.workers.pool import Shared

Vectors = Mapping[str, np.ndarray]  # flat, by name, laid out by a shard


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
        found = np.empty((CHANNELS, *size), flat.dtype) if found is None else found
        for index, core in part.shard.cores.items():
            gather(found, core)[:] = part.shard.core(flat, index)
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
    """From a picture of one size to another, by bilinear interpolation, so that nothing overshoots; sizes are height
    and width without the frame, which is mirrored anew. Any rectangle comes out as from the whole, to the bit."""

    old: Size
    new: Size

    @classmethod
    def of_framed(cls, old: Size, new: Size) -> Resampling:
        """Between pictures whose sizes are given with their frames."""
        return cls(*(unframed_size(size) for size in (old, new)))

    def source(self, rect: Rect) -> Rect:
        """What a rectangle of the new framed picture depends on in the old one."""
        (top, bottom, _), (left, right, _) = self._axes(rect)
        return Rect(int(top.min()), int(left.min()), int(bottom.max()) + 1, int(right.max()) + 1)

    def of(self, values: np.ndarray, rect: Rect) -> Tensor:
        """The rectangle (3, h, w); values: its `source`."""
        source, (rows, columns) = self.source(rect), self._axes(rect)
        old = torch.from_numpy(values)
        old = old if old.dtype == torch.float64 else old.float()
        return between(between(old, 1, rows, source.top), 2, columns, source.left)

    def _axes(self, rect: Rect) -> tuple[Axis, Axis]:
        spans = (rect.top, rect.bottom), (rect.left, rect.right)
        rows, columns = (axis(old, new, *span) for old, new, span in zip(self.old, self.new, spans, strict=True))
        return rows, columns


Axis = tuple[np.ndarray, np.ndarray, np.ndarray]  # positions below and above, and the share of the one above


def axis(old: int, new: int, start: int, end: int) -> Axis:
    """Where the positions [start, end) of `new` px with their frame lie among `old` px with theirs."""
    mirrored = np.pad(np.arange(new), FRAME, mode="symmetric")[start:end]
    place = np.maximum((mirrored + 0.5) * (old / new) - 0.5, 0)
    below = np.minimum(place.astype(np.int64), old - 1)
    return below + FRAME, np.minimum(below + 1, old - 1) + FRAME, place - below


def between(values: Tensor, dim: int, places: Axis, origin: int) -> Tensor:
    """Values interpolated along one dimension, whose first position is `origin`."""
    below, above, share = places
    low, high = (values.index_select(dim, torch.from_numpy(index - origin)) for index in (below, above))
    weight = torch.from_numpy(share).to(values.dtype)
    return torch.lerp(low, high, weight.view(-1, 1) if dim == 1 else weight)
