"""Pictures side by side with a line of text over each, in pictures of bounded size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from parallel_nst.files.images import shrunk

LABEL = 20  # px of a line of text
GAP = 6  # px between two pictures
LARGEST = 50_000_000  # px of a sheet; beyond it there are several
INK, PAPER = 0, 255


@dataclass(frozen=True, eq=False)
class Labelled:
    """pixels: (H, W, 3) in [0, 1]; None: there is no picture, which the text explains."""

    text: str
    pixels: NDArray[np.float32] | None


def sheets(cells: Sequence[Labelled], columns: int, side: int, largest: int = LARGEST) -> list[NDArray[np.float32]]:
    """The cells row by row, each in a square of `side` px, on as many pictures (H, W, 3) as it takes for none to have
    more than `largest` px (but for one row, which is never cut)."""
    columns = max(1, min(columns, len(cells)))
    width, height = columns * (side + GAP) + GAP, side + LABEL + GAP
    rows = max(1, (largest // width - GAP) // height)
    count = rows * columns
    return [sheet(cells[first : first + count], columns, side) for first in range(0, len(cells), count)]


def sheet(cells: Sequence[Labelled], columns: int, side: int) -> NDArray[np.float32]:
    """One sheet (H, W, 3)."""
    rows = -(-len(cells) // columns)
    size = columns * (side + GAP) + GAP, rows * (side + LABEL + GAP) + GAP
    made = Image.new("RGB", size, (PAPER,) * 3)
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        place_cell(made, cell, (GAP + column * (side + GAP), GAP + row * (side + LABEL + GAP)), side)
    pixels: NDArray[np.float32] = np.asarray(made, np.float32) / np.float32(255)
    return pixels


def place_cell(made: Image.Image, cell: Labelled, corner: tuple[int, int], side: int) -> None:
    """A cell, with its upper left corner there: the text, shortened to fit, and the picture under it."""
    left, top = corner
    draw, font = ImageDraw.Draw(made), ImageFont.load_default(size=12)
    text = cell.text
    while draw.textlength(text, font=font) > side and len(text) > 1:
        text = text[:-2] + "…"
    draw.text((left, top + 2), text, fill=(INK,) * 3, font=font)
    if cell.pixels is not None:
        made.paste(Image.fromarray((shrunk(cell.pixels, side) * 255).round().astype(np.uint8)), (left, top + LABEL))
