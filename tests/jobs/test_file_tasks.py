"""Pictures from file to file in a worker: what is together, what goes wrong, what is done already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from parallel_nst.files.digests import file_digest
from parallel_nst.files.images import Picture, read_image, write_image
from parallel_nst.jobs.batch.stamps import stamp_of
from parallel_nst.jobs.batch.stylizers import Painted, PaintPictures
from parallel_nst.jobs.batch.tasks import FileOutcome, FileWork, PaintFiles, Writing, paint_files
from parallel_nst.workers.pool import SerialPool, only
from parallel_nst.workers.worker import Worker, WorkerSpec

WRITING = Writing("recipe", {"model": "inverse"}, quality=95, max_pixels=None)
SPEC = WorkerSpec("cpu", "float32", 1, {})


class Inverse:
    """Inverts pictures and remembers which it was given together."""

    def __init__(self, most: int = 100) -> None:
        self.most = most
        self.calls: list[list[tuple[int, int]]] = []

    def __call__(self, pictures: Sequence[Picture]) -> list[Painted]:
        self.calls.append([picture.size for picture in pictures])
        if len(pictures) > self.most:
            raise RuntimeError("out of memory")
        return [Painted(replace(picture, pixels=1 - picture.pixels), ("inverted",)) for picture in pictures]


def files(folder: Path, *sizes: tuple[int, int]) -> list[FileWork]:
    """Pictures of these sizes (width, height), each of one grey, and where they are to go."""
    works = []
    for number, (width, height) in enumerate(sizes):
        source = folder / f"in{number}.png"
        write_image(source, Picture(np.full((height, width, 3), number / 255, np.float32)))
        works.append(FileWork(source, folder / "out" / "deep" / f"{number}.png"))
    return works


def run(
    works: Sequence[FileWork], paint: PaintPictures, together: int = 1000, writing: Writing = WRITING
) -> list[FileOutcome]:
    found = dict(paint_files(works, together, paint, writing))
    assert sorted(found) == list(range(len(works)))
    return [found[number] for number in range(len(works))]


def test_pictures_are_painted_written_and_stamped(tmp_path: Path) -> None:
    works = files(tmp_path, (4, 3), (5, 3))
    for number, (work, outcome) in enumerate(zip(works, run(works, Inverse()), strict=True)):
        assert outcome.error is None and outcome.notes == ("inverted",)
        assert (outcome.width, outcome.height) == (4 + number, 3)
        assert outcome.digest == file_digest(work.source)
        assert stamp_of(work.output) == (outcome.digest, "recipe")
        np.testing.assert_allclose(read_image(work.output).pixels, 1 - number / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("together", "calls"),
    [(0, [1, 1, 1, 1, 1]), (12, [1, 1, 1, 1, 1]), (24, [2, 1, 2]), (36, [3, 2]), (1000, [3, 2])],
)
def test_pictures_of_one_size_go_together_as_far_as_they_may(tmp_path: Path, together: int, calls: list[int]) -> None:
    paint = Inverse()
    run(files(tmp_path, (4, 3), (3, 4), (4, 3), (3, 4), (4, 3)), paint, together)
    assert sorted(map(len, paint.calls)) == sorted(calls)
    assert all(len(set(call)) == 1 for call in paint.calls)


def test_a_pass_that_fails_together_is_tried_picture_by_picture(tmp_path: Path) -> None:
    paint = Inverse(most=1)
    works = files(tmp_path, (4, 3), (4, 3), (4, 3))
    assert all(outcome.error is None for outcome in run(works, paint))
    assert [len(call) for call in paint.calls] == [3, 1, 1, 1]


def test_a_bad_picture_is_its_own_outcome(tmp_path: Path) -> None:
    works = files(tmp_path, (4, 3), (4, 3), (4, 3), (4, 3))
    works[0].source.write_bytes(works[0].source.read_bytes()[:40])
    works[1].source.unlink()
    works[2] = replace(works[2], output=tmp_path / "in0.png" / "x.png")  # a folder that cannot be made
    good, outcomes = works[3], run(works, Inverse())
    assert [bool(outcome.error) for outcome in outcomes] == [True, True, True, False]
    assert all("\n" not in (outcome.error or "") for outcome in outcomes)
    assert str(works[0].source) in (outcomes[0].error or "")
    assert good.output.exists() and not works[0].output.exists()


def test_painting_that_fails_leaves_no_file(tmp_path: Path) -> None:
    (work,) = files(tmp_path, (4, 3))
    (outcome,) = run([work], Inverse(most=0))
    assert outcome.error == "out of memory" and outcome.digest
    assert list((tmp_path).rglob("*.png")) == [work.source]


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    works = files(tmp_path, (4, 3), (4, 3))
    first = run(works[:1], Inverse())
    paint = Inverse()
    again = run(works, paint)
    assert len(paint.calls) == 1 and paint.calls[0] == [(3, 4)]
    assert again[0].digest == first[0].digest and again[0].error is None
    assert (again[0].width, again[0].height) == (4, 3)


@pytest.mark.parametrize("changed", ["input", "settings", "output"])
def test_what_has_changed_is_done_again(tmp_path: Path, changed: str) -> None:
    (work,) = files(tmp_path, (4, 3))
    run([work], Inverse())
    writing = WRITING
    if changed == "input":
        write_image(work.source, Picture(np.full((3, 4, 3), 0.5, np.float32)))
    elif changed == "settings":
        writing = replace(WRITING, recipe="another")
    else:
        work.output.write_bytes(b"no picture")
    paint = Inverse()
    (outcome,) = run([work], paint, writing=writing)
    assert len(paint.calls) == 1 and outcome.error is None
    assert stamp_of(work.output) == (outcome.digest, writing.recipe)


class Counting:
    """A stylizer that counts how often it is made ready."""

    dtype, at_once, together = "float32", 8, 1000

    def __init__(self) -> None:
        self.ready_calls = 0

    def ready(self, worker: Worker) -> PaintPictures:
        self.ready_calls += 1
        return Inverse()


def test_a_worker_makes_its_stylizer_ready_once_for_a_batch(tmp_path: Path) -> None:
    pool, stylizer = SerialPool(SPEC), Counting()
    works = files(tmp_path, (4, 3), (4, 3), (4, 3))
    shared = pool.share(stylizer)
    for work in works:
        (outcome,) = only(pool.map([PaintFiles([work], shared, WRITING, "one")]))
        assert outcome.error is None
    assert stylizer.ready_calls == 1
    only(pool.map([PaintFiles(works, shared, WRITING, "two")]))
    assert stylizer.ready_calls == 2


def test_exif_icc_and_alpha_come_through(tmp_path: Path) -> None:
    alpha = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    source, output = tmp_path / "in.png", tmp_path / "out.png"
    write_image(source, Picture(np.full((3, 4, 3), 0.25, np.float32), alpha=alpha, dpi=(300.0, 300.0)))
    run([FileWork(source, output)], Inverse())
    before, after = read_image(source), read_image(output)
    assert after.alpha is not None and before.alpha is not None
    np.testing.assert_array_equal(after.alpha, before.alpha)
    assert after.dpi == pytest.approx(before.dpi)
