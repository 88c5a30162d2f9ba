"""Published files of weights: fetched on first use, verified, and kept. Without PyTorch."""

from __future__ import annotations

import http.client
import os
import shutil
import urllib.request
from pathlib import Path

from parallel_nst.errors import BadWeights
from parallel_nst.files.digests import file_digest
from parallel_nst.files.whole_files import replacing


def cache_folder() -> Path:
    """Where downloads are kept: $PNST_CACHE, else parallel_nst under $XDG_CACHE_HOME, else under ~/.cache."""
    if chosen := os.environ.get("PNST_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "parallel_nst"


def fetched(name: str, address: str, path: Path, digits: str, advice: str) -> Path:
    """`path`, downloaded from `address` if it is not there. BadWeights when the file's SHA-256 does not begin with
    `digits`, and, with the `name` of whose weights these are and `advice`, where there is no network."""
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        download(address, path, digits)
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        reason = " ".join(str(getattr(error, "reason", None) or error).split())
        raise BadWeights(f"no weights of {name} here and {address} cannot be downloaded ({reason}); {advice}") from None
    return path


def download(address: str, path: Path, digits: str) -> None:
    """Fetch `address` to `path`, whole or not at all; BadWeights when its SHA-256 does not begin with `digits`."""
    with replacing(path) as aside:
        with aside.open("xb") as file, urllib.request.urlopen(address, timeout=30) as response:
            shutil.copyfileobj(response, file)
        if not (digest := file_digest(aside)).startswith(digits):
            raise BadWeights(f"{address} has SHA-256 {digest}, which does not begin with {digits}; try again")
