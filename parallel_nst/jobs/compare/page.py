"""A comparison as one HTML page that holds all it shows."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment, StrictUndefined
from PIL import Image

from parallel_nst.jobs.compare.records import AMPLIFIED, Comparison, Thumbnail
from parallel_nst.jobs.compare.tables import MEANINGS, SCREEN, headline, in_bytes, remarks, screen_row

TEMPLATE = "compare.html"
QUALITY = 90  # of the thumbnails


@dataclass(frozen=True)
class Row:
    cells: tuple[str, ...]
    best: bool


@dataclass(frozen=True)
class ShownPicture:
    """A picture of the page. data: its address, which holds the file itself."""

    data: str
    caption: str


def page(comparison: Comparison, plot: bytes | None) -> str:
    """The page, with every name escaped. plot: a PNG file."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = resources.files("parallel_nst.jobs.compare").joinpath(TEMPLATE).read_text(encoding="utf-8")
    job, measurements = comparison.job, comparison.measurements
    return environment.from_string(source).render(
        content=job.content.name,
        style=job.style.name,
        headline=headline(comparison),
        headings=SCREEN,
        rows=[Row(screen_row(comparison, m), m is comparison.baseline) for m in measurements],
        remarks=remarks(comparison),
        plot=address(plot, "png") if plot else "",
        sources=shown(
            [(comparison.content, f"content: {job.content.name}"), (comparison.style, f"style: {job.style.name}")]
        ),
        results=shown((m.picture, f"{m.setting.name}: loss {m.loss:.4f}") for m in measurements),
        differences=shown(
            (m.difference, f"{m.setting.name}: mean {m.mean_difference:.2f}, at most {m.max_difference:.0f} of 255")
            for m in measurements[1:]
        ),
        reference=measurements[0].setting.name,
        amplified=AMPLIFIED,
        thumbnail=max(comparison.content.shape),
        meanings=MEANINGS,
        facts=facts(comparison),
        recipe=job.recipe.to_toml(),
    )


def facts(comparison: Comparison) -> dict[str, str]:
    """Machine, versions, and who ran each setting."""
    machine = comparison.machine
    return {
        "machine": f"{machine.processor}, {machine.cores} usable cores, {in_bytes(machine.memory)}, {machine.system}",
        "versions": ", ".join(f"{name} {version}" for name, version in machine.versions.items()),
        "networks": f"on {comparison.device} in {comparison.dtype}",
        **{
            m.setting.name: f"{m.workers} worker{'s' * (m.workers != 1)} of {m.threads} thread{'s' * (m.threads != 1)}"
            for m in comparison.measurements
        },
    }


def shown(pictures: Iterable[tuple[Thumbnail, str]]) -> list[ShownPicture]:
    """Thumbnails with their captions."""
    return [ShownPicture(address(jpeg(pixels), "jpeg"), caption) for pixels, caption in pictures]


def jpeg(pixels: Thumbnail) -> bytes:
    """(h, w, 3) -> a JPEG file without chroma subsampling."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()


def address(file: bytes, kind: str) -> str:
    """A data address of an image file."""
    return f"data:image/{kind};base64,{base64.b64encode(file).decode()}"
