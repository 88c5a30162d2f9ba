"""Recipes of papers and other tools: each is whole, names layers that there are, and weighs as its source does."""

from dataclasses import replace

import pytest
import torch
from tiny_networks import LAYERS, tiny_backbone
from torch.nn.functional import mse_loss

from parallel_nst.errors import BadInput
from parallel_nst.painting.gatys.features import FeatureReader
from parallel_nst.painting.gatys.objective import LocalObjective
from parallel_nst.painting.gatys.style import measure_style
from parallel_nst.painting.planning.forecast import untrained
from parallel_nst.painting.presets import PRESETS, preset_recipe, preset_text
from parallel_nst.painting.resolved import resolve
from parallel_nst.painting.tiles.geometry import whole_tile
from parallel_nst.recipe import Recipe

DTYPE = torch.float64
SQUARES = {"gatys2016": 1e3, "pytorch-tutorial": 1e6, "neural-style-pt": 1e2, "comparison-study": 1e6}  # over C^2
FOURTHS = {"dash-app": 1e7 * 255**2}  # over C^4
PLAIN = {"ece285": 0.05, "polito": 0.05, "parallel-nst": 0.25}  # 1 / (4 N^2 M^2) times a layer's weight


def picture(seed, size):
    return torch.rand(1, 3, *size, dtype=DTYPE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_recipe_of_its_backbone(name):
    recipe = preset_recipe(name)
    resolved = resolve(recipe, untrained(recipe.backbone, recipe.pooling))
    assert resolved.layers == recipe.layers and recipe.layers.style and recipe.layers.content
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert preset_text(name).startswith("# ")


@pytest.mark.parametrize(
    ("presets", "power"), [(SQUARES, 2), (FOURTHS, 4), (PLAIN, 0)], ids=["squares", "fourths", "plain"]
)
def test_style_weighs_by_channels_as_the_source_says(presets, power):
    for name, weight in presets.items():
        recipe = preset_recipe(name)
        channels = resolve(recipe, untrained(recipe.backbone)).channels
        for layer, own in recipe.layers.style.items():
            assert recipe.style_weight * own == pytest.approx(weight / channels[layer] ** power), (name, layer)


def test_a_preset_that_there_is_not():
    with pytest.raises(BadInput, match="'monet'; known: gatys2016, "):
        preset_recipe("monet")


def losses(recipe, size=(24, 20)):
    """Of the objective, and the features of picture, content and style that it is made of."""
    backbone = tiny_backbone()
    reader = FeatureReader(backbone, LAYERS, DTYPE)
    image, content, style = picture(0, size), picture(1, size), picture(2, (30, 26))
    targets = measure_style(reader, style, whole_tile(30, 26)).targets
    resolved = resolve(replace(recipe, layers=LAYERS), backbone)
    ours = LocalObjective(reader, resolved, targets, reader.read_content(content), whole_tile(*size)).value(image)
    return ours, [reader.read(x) for x in (image, content, style)]


def outer(features):
    flat = features[0].flatten(1)
    return flat @ flat.T / flat.shape[1]


def test_absolute_units_are_mean_squares_summed_over_layers():
    recipe = Recipe(style_loss="gram", loss_units="absolute", style_weight=3.0, content_weight=0.5)
    ours, (image, content, style) = losses(recipe)
    expected = 3 * sum(mse_loss(outer(image[name]), outer(style[name])) for name in LAYERS.style)
    expected += 0.5 * sum(mse_loss(image[name], content[name]) for name in LAYERS.content)
    assert ours == pytest.approx(float(expected), rel=1e-10)


def root(matrix):
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T


def test_w2_in_absolute_units_is_that_of_crowson():
    """Mean over channels of the squared means' difference and of the diagonal of C + C' - 2 (C^1/2 C' C^1/2)^1/2. What
    is added to the covariances is in units of the style's features here, 1e-4 there."""
    ours, (image, _, style) = losses(Recipe(style_loss="w2", loss_units="absolute", content_weight=0.0))
    expected = 0.0
    for name in LAYERS.style:
        (mean, spread), (theirs, target) = (
            (f[0].flatten(1).mean(1), torch.cov(f[0].flatten(1), correction=0)) for f in (image[name], style[name])
        )
        floor = 1e-4 * style[name].square().mean() * torch.eye(len(target), dtype=DTYPE)
        spread, target = spread + floor, target + floor
        overlap = root(root(target) @ spread @ root(target))
        expected += mse_loss(mean, theirs) + (spread + target - 2 * overlap).diagonal().mean()
    assert ours == pytest.approx(float(expected), rel=1e-8)
