"""Named recipes of training: the numbers of their sources, and that they can be written down."""

import json
from dataclasses import asdict, replace

import pytest

from parallel_nst.networks.backbones.registry import BACKBONES
from parallel_nst.training.presets import CYCLEGAN, FEEDFORWARD
from parallel_nst.training.settings import CycleSettings, FeedforwardSettings

PRESETS = {**FEEDFORWARD, **CYCLEGAN}


def subset(record, **expected):
    return {name: asdict(record)[name] for name in expected} == expected


def test_johnson_is_that_of_the_pytorch_examples():
    johnson = PRESETS["johnson"]
    assert subset(johnson, batch=4, epochs=2, shuffle=False)
    assert subset(
        johnson.objective, formula="raw", content_weight=1e5, style_weight=1e10, learning_rate=1e-3, last_rate=1.0
    )
    assert list(johnson.objective.layers.style) == ["relu1_2", "relu2_2", "relu3_3", "relu4_3"]
    assert list(johnson.objective.layers.content) == ["relu2_2"]


def test_the_dash_app_has_its_weights():
    app = PRESETS["dash-app"]
    assert subset(app, batch=4, epochs=1) and (app.crop.size, app.crop.random) == (256, False)
    assert subset(app.objective, content_weight=17.0, style_weight=50.0, learning_rate=1e-3)


def test_the_dash_apps_second_generator_has_other_weights():
    app = PRESETS["dash-app-vgg16"].objective
    assert subset(app, architecture="vgg16-decoder", content_weight=1.0, style_weight=5.0)
    assert list(app.layers.content) == ["relu1_2"]


def test_cyclegan_is_the_official_one():
    official = PRESETS["official"]
    assert subset(official, batch=1, epochs=200) and subset(official.crop, size=256, load=286, flip=True)
    assert subset(official.objective, learning_rate=2e-4, beta1=0.5, cycle_weight=10.0, identity_weight=0.5, pool=50)
    assert official.objective == CycleSettings()
    assert official.objective.constant_epochs + official.objective.decay_epochs == official.epochs


@pytest.mark.parametrize(("name", "rate", "batch", "factor"), [("ece285", 2e-3, 16, 0.99), ("ece285-slow", 1e-3, 2, 1)])
def test_ece285_has_its_two_runs(name, rate, batch, factor):
    course = PRESETS[name]
    assert subset(course, batch=batch, epochs=200)
    assert subset(course.objective, learning_rate=rate, decay_factor=factor, decay_every=2, generator="dncnn", depth=6)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_plain_json_and_says_whose_it_is(name):
    chosen = PRESETS[name]
    assert json.loads(chosen.to_json()) == chosen.readable()
    assert chosen.source


@pytest.mark.parametrize("name", FEEDFORWARD)
def test_a_preset_names_layers_that_its_backbone_and_the_embedded_one_have(name):
    settings = PRESETS[name].objective
    assert isinstance(settings, FeedforwardSettings) and settings.backbone in BACKBONES
    embedded = replace(settings, backbone="embedded").layers_used
    known = {f"relu{b}_{c}" for b, count in enumerate((2, 2, 3, 3, 2), 1) for c in range(1, count + 1)}
    assert {*embedded.style, *embedded.content} <= known


def test_no_two_presets_are_the_same():
    texts = {chosen.to_json() for chosen in PRESETS.values()}
    assert len(texts) == len(PRESETS) == len(FEEDFORWARD) + len(CYCLEGAN)


def test_a_length_is_in_epochs_or_in_steps():
    assert PRESETS["johnson"].length(20_000) == 40_000
    assert PRESETS["default"].length(7) == PRESETS["default"].steps
    with pytest.raises(ValueError, match="exactly one"):
        replace(PRESETS["default"], epochs=2)
