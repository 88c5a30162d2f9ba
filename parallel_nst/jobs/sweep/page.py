"""A sweep as one HTML page that holds all it shows: any two axes as rows and columns."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
from jinja2 import Environment, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from parallel_nst.files.images import shrunk
from parallel_nst.jobs.requests.sweep import SweepJob
from parallel_nst.jobs.sweep.axes import Axis

TEMPLATE = "sweep.html"
QUALITY = 88


@dataclass(frozen=True, eq=False)
class ShownCell:
    """A cell. texts: its value on each axis; text: what is said of it; file: its name, empty without a picture."""

    texts: tuple[str, ...]
    text: str
    file: str
    pixels: NDArray[np.float32] | None


def page(job: SweepJob, axes: Sequence[Axis], cells: Sequence[ShownCell]) -> str:
    """The page, with every name escaped; pictures at most `job.thumbnail` px long."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = resources.files("parallel_nst.jobs.sweep").joinpath(TEMPLATE).read_text(encoding="utf-8")
    data = {
        "axes": [{"name": axis.name, "values": axis.texts} for axis in axes],
        "cells": [
            {"values": cell.texts, "text": cell.text, "file": cell.file, "data": address(cell.pixels, job.thumbnail)}
            for cell in cells
        ],
    }
    text = json.dumps(data).replace("<", "\\u003c")  # nothing in it can end the script
    return environment.from_string(source).render(content=job.content.name, side=job.thumbnail, data=text)


def address(pixels: NDArray[np.float32] | None, side: int) -> str:
    """A picture as an address that holds it."""
    if pixels is None:
        return ""
    small = (shrunk(pixels, side) * 255).round().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).save(file, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
