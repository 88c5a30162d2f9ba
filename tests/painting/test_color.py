"""The photograph's colours kept: what a painting is given, and what is painted back."""

import numpy as np
import pytest

from parallel_nst.files.images import Picture
from parallel_nst.painting.color import LUMA, colours_of, recoloured, with_colours_of

YIQ = np.array([LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], np.float32)


def pixels(seed, height=20, width=30, low=0.3, high=0.7):
    return np.random.default_rng(seed).uniform(low, high, (height, width, 3)).astype(np.float32)


def test_a_recoloured_painting_has_the_photographs_mean_and_covariance():
    content = pixels(0) * np.float32([1, 0.5, 0.2])
    made = recoloured(Picture(pixels(1, 13, 9)), Picture(content)).pixels
    for found, wanted in zip(colours_of(made), colours_of(content), strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-3)  # what is beyond the range is clipped


@pytest.mark.parametrize("grey", ["content", "style", "both"])
def test_pictures_of_one_colour_can_be_recoloured(grey):
    one = np.full((5, 4, 3), 0.4, np.float32)
    content, style = one if grey != "style" else pixels(0), one if grey != "content" else pixels(1)
    made = recoloured(Picture(style), Picture(content)).pixels
    assert np.isfinite(made).all() and made.min() >= 0 and made.max() <= 1 and made.dtype == np.float32


def test_only_luminance_is_painted():
    content, painted = pixels(0, low=0.4, high=0.6), pixels(1, low=0.4, high=0.6)
    made = with_colours_of(content, painted)
    np.testing.assert_allclose(made @ LUMA, painted @ LUMA, atol=1e-6)
    np.testing.assert_allclose((made @ YIQ.T)[..., 1:], (content @ YIQ.T)[..., 1:], atol=2e-3)
    assert made.dtype == np.float32


def test_a_content_of_another_size_is_brought_to_it():
    assert with_colours_of(pixels(0, 40, 60), pixels(1)).shape == (20, 30, 3)
