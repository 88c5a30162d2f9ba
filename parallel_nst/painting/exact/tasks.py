"""The two halves of an exact step, as tasks."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from parallel_nst.painting.gatys.features import reader_on
from parallel_nst.painting.gatys.sums import FeatureSums, measure_sums, pull_back
from parallel_nst.painting.resolved import ResolvedRecipe
from parallel_nst.painting.tiles.geometry import Tile
from parallel_nst.workers.pool import Shared
from parallel_nst.workers.worker import Progress, Worker


@dataclass(frozen=True)
class Piece:
    """A tile of a picture that is optimised as one.

    run: of which run and scale; what a worker has kept of another is dropped.
    pixels, content: the tile's `read` rectangle of the image and of the content image (3, h, w). None: the worker has
    met it before; one that has not, because it took the place of one that died, gives None for a result.
    """

    run: str
    tile: Tile
    resolved: ResolvedRecipe
    pixels: np.ndarray | None
    content: np.ndarray | None


@dataclass(frozen=True)
class GramSums:
    """First half of a step: the sums over a tile's core -> FeatureSums on the CPU, or None (see `Piece`).

    keep: keep the graph for `ImageGradient`.
    """

    piece: Piece
    keep: bool

    def run(self, worker: Worker) -> Generator[Progress, None, FeatureSums | None]:
        with torch.set_grad_enabled(self.keep):
            measured = measure_piece(worker, self.piece)
        if measured is None:
            return None
        if self.keep:
            worker.left_by(self.piece.run)["graph", self.piece.tile.index] = measured
        return measured[1].to("cpu")
        yield


@dataclass(frozen=True)
class ImageGradient:
    """Second half: the gradient over a tile's `read` rectangle -> (3, h, w) float32, or None (see `Piece`).

    by: derivative of the loss by the whole picture's sums. Takes the graph that `GramSums` kept, else makes it again.
    """

    piece: Piece
    by: Shared

    def run(self, worker: Worker) -> Generator[Progress, None, np.ndarray | None]:
        left = worker.left_by(self.piece.run)
        measured = left.pop(("graph", self.piece.tile.index), None) or measure_piece(worker, self.piece)
        if measured is None:
            return None
        image, sums = measured
        gradient = pull_back(sums, image, self.by.get().to(worker.device, image.dtype))
        return gradient[0].cpu().numpy()
        yield


def measure_piece(worker: Worker, piece: Piece) -> tuple[Tensor, FeatureSums] | None:
    """A tile's image and its sums; None when the worker lacks its pixels or its content."""
    left = worker.left_by(piece.run)
    left.pop(("graph", piece.tile.index), None)
    content, reader = left.get(("content", piece.tile.index)), reader_on(worker, piece.resolved)
    if content is None and piece.content is not None:
        content = reader.read_content(worker.image(piece.content))
        left["content", piece.tile.index] = content
    if content is None or piece.pixels is None:
        return None
    image = worker.image(piece.pixels).requires_grad_()
    return image, measure_sums(reader, image, content, piece.tile)
