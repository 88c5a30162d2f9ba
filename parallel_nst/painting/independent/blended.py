"""Independent tiles put together."""

from __future__ import annotations

import time
from collections.abc import Sequence

from parallel_nst.painting.independent.targets import shares
from parallel_nst.painting.independent.tasks import OptimisedTile
from parallel_nst.painting.planning.scales import InOnePiece, Scale, ScaleResult
from parallel_nst.painting.tiles.blend import Blend


def blended(scale: Scale, overlap: int, results: Sequence[OptimisedTile]) -> ScaleResult:
    """The picture from the results of all tiles, in the tiles' order, whichever was done first; its loss is their mean,
    weighted by area."""
    began = time.perf_counter()
    blend = Blend((3, *scale.content.size), overlap)
    for tile, result in zip(scale.tiles, results, strict=True):
        blend.add(tile, result.pixels)
    loss = sum(share * result.loss for share, result in zip(shares(scale.tiles), results, strict=True))
    setbacks = [result.setback for result in results if result.setback]
    seconds = time.perf_counter() - began
    return ScaleResult(InOnePiece(blend.result()), loss, blend_seconds=seconds, setbacks=setbacks)
