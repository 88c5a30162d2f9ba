"""What several jobs are asked: what is read beside the pictures, who works, how pictures are written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from parallel_nst.errors import BadInput
from parallel_nst.files.bundled import STYLES, bundled_style
from parallel_nst.recipe.knobs import knob

QUALITY = 95
LOSSLESS = (".png", ".tif", ".tiff", ".bmp")
STYLE_HELP = f"picture to paint it like, or a bundled one: {', '.join(STYLES)}"


def painting_of(text: str) -> Path:
    """The style picture that a text means: a file before a bundled painting of that name."""
    return bundled_style(text) if text in STYLES and not Path(text).is_file() else Path(text)


@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """What is read beside the pictures. weights: None takes the registry's. max_pixels: None keeps Pillow's limit
    against decompression bombs."""

    weights: Path | None = knob(None, "file with the backbone's weights")
    max_pixels: int | None = knob(None, "accept input pictures up to so many px", "Pictures", least=1)


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """Who works: see `workers.opening.open_workers`. workers_per_gpu: that share a GPU, so that it has something to do
    while one of them reads or writes. memory: what the run may take, such as 4GiB; on a cluster, each worker; None:
    what there is."""

    workers: int | None = knob(
        None, "workers at most", "Workers", least=1, shown="one for each core or GPU", common=True
    )
    address: str | None = knob(
        None,
        "Ray cluster, auto or host:port; RAY_ADDRESS in the environment does the same",
        "Workers",
        shown="a local Ray for this run",
        variable="RAY_ADDRESS",
        yields_to=("in_process",),
    )
    in_process: bool = knob(
        False,
        "workers are threads of this process: sooner there than Ray's, but none can be replaced",
        "Workers",
    )
    workers_per_gpu: int = knob(
        1, "workers that share each GPU; several keep it busy while one reads or writes", "Workers", least=1, most=100
    )
    memory: str | None = knob(
        None, "memory to stay within, such as 4GiB; on a cluster, of each worker", "Workers", shown="what is free"
    )


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """How pictures are written. quality: None where it is not asked for."""

    quality: int | None = knob(None, "of JPEG and WebP", "Output", least=1, most=100, shown=str(QUALITY))

    @property
    def written_quality(self) -> int:
        return self.quality or QUALITY


def check_quality(quality: int | None, suffix: str) -> None:
    """BadInput for a quality that pictures of this suffix do not have."""
    if quality is not None and suffix.lower() in LOSSLESS:
        raise BadInput(f"quality has no effect on {suffix} files; give it with .jpg or .webp, or leave it out")
