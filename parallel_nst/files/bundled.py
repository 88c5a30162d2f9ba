"""The pictures that come with the package: something to try it with."""

from __future__ import annotations

from importlib import resources, util
from pathlib import Path

STYLES = ("swirls", "embers", "garden")
"""Names of the paintings; the first is the default."""


def bundled_style(name: str = STYLES[0]) -> Path:
    """A painting of this package, one of `STYLES`."""
    return Path(str(resources.files("parallel_nst.files") / "bundled" / f"{name}.jpg"))


def bundled_content() -> Path:
    """A photograph from scikit-image's wheel, found without importing scikit-image."""
    spec = util.find_spec("skimage")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "data" / "coffee.png"
