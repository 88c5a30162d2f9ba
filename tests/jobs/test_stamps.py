"""Stamps in the metadata of pictures are found again, and nothing else is taken for one."""

import os

import pytest
from odd_texts import ODD_TEXTS

from parallel_nst.jobs.batch.stamps import Stamp, stamp_in, stamp_text


def test_a_stamp_is_found_again_among_settings_of_any_kind():
    settings = {"model": "wave", "input": "x", "size": 0, "strength": 0.5, "tiled": True} | dict.fromkeys(
        ODD_TEXTS, "v"
    )
    for text in ("", *ODD_TEXTS):
        assert stamp_in(stamp_text(Stamp("ab" * 32, "r-95"), settings | {"style": text})) == Stamp("ab" * 32, "r-95")
    assert stamp_in(stamp_text(Stamp("i", "r"))) == Stamp("i", "r")
    stamp_text(Stamp("i", "r"), {"style": os.fsdecode(b"\xff")}).encode()


@pytest.mark.parametrize(
    "text",
    ["", "hello", "size = 3", "batch = 1", "[batch]", "[batch]\ninput = 'i'", "[batch]\ninput = 1\nrecipe = 'r'", "\0"],
)
def test_other_texts_are_no_stamp(text):
    assert stamp_in(text) is None
