"""All that is needed to go on with a scale: by the ranks themselves, or by another run from a snapshot."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parallel_nst.painting.exact.parts import Part
from parallel_nst.painting.named_tensors import prefixed
from parallel_nst.painting.snapshots import Snapshot, distinct
from parallel_nst.painting.tiles.geometry import Rect
from parallel_nst.painting.tiles.ownership import Shard
from parallel_nst.workers.pool import Shared


@dataclass(frozen=True)
class Kept:
    """Where a scale stood after a step. parts: image, best image and the optimiser's vectors; numbers: its other
    tensors, the same on every rank; aliases: names that stand for another one's vector."""

    step: int
    parts: Sequence[Part]
    numbers: Mapping[str, Tensor]
    aliases: Mapping[str, str]


def snapshot_of(kept: Kept, scale: int) -> Snapshot:
    """As a snapshot of a scale with this number: the parts one after the other."""
    tensors = prefixed("numbers", kept.numbers)
    for number, part in enumerate(kept.parts):
        vectors = {name: tensor_of(array) for name, array in part.vectors.get().items()}
        vectors |= {name: vectors[other] for name, other in kept.aliases.items()}
        cores = [[index, core.top, core.left, core.bottom, core.right] for index, core in part.shard.cores.items()]
        tensors |= prefixed(f"part.{number}", vectors) | {f"cores.{number}": torch.tensor(cores)}
    return Snapshot(scale, kept.step, tensors, {})


def kept_in(snapshot: Snapshot, share: Callable[[Any], Shared]) -> Kept:
    """What `snapshot_of` has made a snapshot of."""
    parts: list[Part] = []
    aliases: dict[str, str] = {}
    for number in range(len(snapshot.under("cores"))):
        cores = {index: Rect(*rect) for index, *rect in snapshot.tensors[f"cores.{number}"].tolist()}
        vectors, aliases = distinct(snapshot.under(f"part.{number}"))
        parts.append(Part(Shard(cores), share({name: value.numpy() for name, value in vectors.items()})))
    return Kept(snapshot.step, parts, snapshot.under("numbers"), aliases)


def tensor_of(array: np.ndarray) -> Tensor:
    """The same memory, to be read: that of other processes cannot be written, of which PyTorch would warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)
