"""Recipe: bounds, round trips, scales."""

from dataclasses import replace

import pytest

from parallel_nst.recipe import LayerWeights, Recipe, TilingSpec, scale_sizes, scale_steps
from parallel_nst.recipe.texts import parse_grid

EVERY_TABLE = Recipe(
    size=640,
    content_weight=0.1,
    style_weights=(0.7, 0.3),
    init="elsewhere/start.png",
    layers=LayerWeights(style={"relu1_1": 0.5}, content={"relu3_3": 1.0}),
    tiling=TilingSpec(tiles="2x3", overlap=32),
)


def test_toml_round_trip():
    assert Recipe.from_toml(EVERY_TABLE.to_toml()) == EVERY_TABLE
    assert Recipe.from_toml(EVERY_TABLE.to_toml()).digest() == EVERY_TABLE.digest()


def test_keys_left_out_keep_their_defaults():
    assert Recipe.from_toml("steps = 7") == replace(Recipe(), steps=7)


def test_every_setting_changes_the_digest():
    assert len({Recipe().digest(), replace(Recipe(), steps=7).digest(), EVERY_TABLE.digest()}) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stepz = 3", ["'stepz'", "steps"]),
        ("[tiling]\ntile = '4'", ["'tiling.tile'", "tiles"]),
        ("[layers]\nstile = 3", ["'layers.stile'", "style"]),
        ("layers = 3", ["layers", "[layers]"]),
        ("[layers]\nstyle = 3", ["layers.style", "[layers.style]"]),
        ("[layers.style]\nrelu1_1 = -1", ["relu1_1", "-1", "at least 0"]),
        ("[layers.style]\nrelu1_1 = 0", ["layers.style", "above 0"]),
        ("steps = 0", ["steps", "0", "at least 1"]),
        ("steps = 1.5", ["steps", "1.5", "whole"]),
        ("steps = true", ["steps", "True"]),
        ("steps = 'many'", ["steps", "'many'"]),
        ("style_weight = -1", ["style_weight", "-1", "at least 0"]),
        ("style_weight = nan", ["style_weight", "nan"]),
        ("learning_rate = 0", ["learning_rate", "above 0"]),
        ("style_weights = [0.5, -1]", ["style_weights", "-1", "at least 0"]),
        ("style_weights = [0, 0]", ["style_weights", "above 0"]),
        ("style_weights = 'half'", ["style_weights", "'half'"]),
        ("preserve_color = 'hue'", ["preserve_color", "'hue'", "luminance", "histogram"]),
        ("pooling = 'sum'", ["pooling", "'sum'", "max", "avg"]),
        ("loss_units = 'px'", ["loss_units", "'px'", "absolute"]),
        ("average = 1", ["average", "1", "0.9999"]),
        ("style_scale = 0", ["style_scale", "above 0"]),
        ("learning_rate_decay = 1.5", ["learning_rate_decay", "1.5", "at most 1"]),
        ("init = ''", ["init", "content", "file"]),
        ("optimizer = 'sgd'", ["'sgd'", "lbfgs", "adam"]),
        ("backbone = 3", ["backbone", "3"]),
        ("style_weight = 0\ncontent_weight = 0", ["style_weight", "content_weight"]),
        ("[tiling]\ntiles = '0'", ["'0'", "2x3"]),
        ("[tiling]\noverlap = -1", ["overlap", "-1"]),
        ("steps = ", ["TOML"]),
    ],
)
def test_refused_in_one_line_that_says_what_is_allowed(text, words):
    with pytest.raises(ValueError, match=r".") as refused:
        Recipe.from_toml(text)
    message = str(refused.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_an_error_in_a_file_names_the_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("stepz = 3")
    with pytest.raises(ValueError, match=r"mine\.toml"):
        Recipe.load(path)


def test_scales_are_the_square_root_of_two_apart_and_end_at_the_size():
    assert scale_sizes(512, 5) == [128, 181, 256, 362, 512]
    assert scale_sizes(512, 0) == scale_sizes(512, 5)
    assert scale_sizes(1024, 0)[0] == 128
    assert scale_sizes(100, 0) == [100]
    assert scale_sizes(1, 4)[-1] == 1


def test_coarser_scales_get_more_steps():
    assert scale_steps(20, 0.5, 5) == [60, 50, 40, 30, 20]
    assert scale_steps(20, 0.0, 2) == [20, 20]


@pytest.mark.parametrize(("text", "grid"), [("1", (1, None)), ("4", (4, None)), ("2x3", (2, 3)), ("2X3", (2, 3))])
def test_grids(text, grid):
    assert parse_grid(text) == grid


@pytest.mark.parametrize("text", ["0", "-1", "2x0", "x", "2x", "2x3x4", "four", "", "1.5", "²"])
def test_no_grids(text):
    with pytest.raises(ValueError, match="2x3"):
        parse_grid(text)
