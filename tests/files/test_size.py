"""How large a picture is."""

import numpy as np
import pytest

from parallel_nst.files.images import shrunk
from parallel_nst.files.size import Size


def test_a_size_is_in_the_order_of_arrays_and_written_as_people_do() -> None:
    size = Size(*np.zeros((30, 40, 3)).shape[:2])
    assert (size.height, size.width, size.area, str(size), f"{size} px") == (30, 40, 1200, "40x30", "40x30 px")
    assert size == (30, 40)


@pytest.mark.parametrize(
    ("size", "expected"), [((30, 60), (10, 20)), ((60, 30), (20, 10)), ((9, 20), (9, 20)), ((1, 1), (1, 1))]
)
def test_shrunk_pictures_are_never_larger_than_they_were(size: tuple[int, int], expected: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).random((*size, 3), np.float32)
    small = shrunk(pixels, 20)
    assert small.shape == (*expected, 3) and small.mean() == pytest.approx(pixels.mean(), abs=0.02)
    assert not np.shares_memory(small, pixels)
