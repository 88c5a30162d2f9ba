"""The package's public names, and a picture in one call."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import parallel_nst
from parallel_nst import BadInput, Picture, PnstError, Recipe, TilingSpec, open_pool, stylize
from parallel_nst.files.images import write_image
from parallel_nst.jobs import picture as jobs
from parallel_nst.workers import opening
from parallel_nst.workers.pool import Pool

RECIPE = Recipe(size=48, scales=1, steps=2, device="cpu", dtype="float32", tiling=TilingSpec(whole=0))


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    monkeypatch.setattr(opening, "usable_cores", lambda: 1)
    yield
    torch.set_num_threads(threads)


def picture(seed: int) -> Picture:
    return Picture(np.random.default_rng(seed).random((40, 48, 3), np.float32))


def test_every_public_name_is_there() -> None:
    for name in parallel_nst.__all__:
        assert getattr(parallel_nst, name).__name__ == name
    with pytest.raises(AttributeError, match=r"^module 'parallel_nst' has no attribute 'stylise'$"):
        _ = parallel_nst.stylise


def test_one_call_paints_what_a_pool_paints(monkeypatch: pytest.MonkeyPatch) -> None:
    """And opens a pool of its own only where none is given, and closes it."""
    with open_pool(RECIPE, workers=1) as pool:
        expected = stylize(picture(0), picture(1), RECIPE, pool)
    closed: list[Pool] = []
    opened = jobs.open_pool

    def watched(*args, **options):  # type: ignore[no-untyped-def]
        own = opened(*args, **options)
        own.close = lambda: closed.append(own)  # type: ignore[method-assign]
        return own

    monkeypatch.setattr(jobs, "open_pool", watched)
    seen: list[int] = []
    found = stylize(picture(0), picture(1), RECIPE, on_status=lambda status: seen.append(status.step))
    assert np.array_equal(found.picture.pixels, expected.picture.pixels) and found.loss == expected.loss
    assert seen == [1, 2]
    assert len(closed) == 1


def test_a_file_to_begin_with_is_read(tmp_path: Path) -> None:
    write_image(tmp_path / "begin.png", picture(5))
    begun = stylize(picture(0), picture(1), replace(RECIPE, init=str(tmp_path / "begin.png")))
    plain = stylize(picture(0), picture(1), RECIPE)
    assert not np.array_equal(begun.picture.pixels, plain.picture.pixels)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        stylize(picture(0), picture(1), replace(RECIPE, init="nowhere.png"))


def test_what_is_wrong_is_of_one_family() -> None:
    for wanted in ({"workers": 0}, {"workers": -3}):
        with pytest.raises(PnstError, match=r"^workers is -?\d; give at least 1$") as caught:
            stylize(picture(0), picture(1), RECIPE, **wanted)
        assert isinstance(caught.value, BadInput)
