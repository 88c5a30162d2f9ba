"""What networks are and cost: the figures that papers and reports count, and those that windows give."""

import pytest

from parallel_nst.errors import BadInput
from parallel_nst.jobs import profile as module
from parallel_nst.jobs.profile import (
    forward_flops,
    generator_of,
    kind_of,
    markdown,
    patch_of,
    profiles,
    receptive_field,
)
from parallel_nst.jobs.requests.profile import ProfileJob
from parallel_nst.networks.discriminators import patchgan
from parallel_nst.painting.planning.forecast import untrained


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameters_are_those_that_the_reports_count():
    assert round(count(untrained("vgg19")) / 1e6, 3) == 20.024
    assert count(generator_of("cyclegan-resnet")) == 11_378_179
    assert count(patchgan()) == 2_764_737


def test_vgg16_takes_its_known_arithmetic():
    backbone = untrained("vgg16")
    assert round(forward_flops(backbone, ["relu5_3"], 224, 224) / 2e9, 1) == 15.3


@pytest.mark.parametrize(("layer", "field"), [("relu1_1", 3), ("relu2_1", 10), ("relu3_1", 24), ("relu4_1", 68)])
def test_receptive_fields_of_vgg19_are_those_known(layer, field):
    assert receptive_field(untrained("vgg19").blocks, layer) == field


def test_a_score_of_the_patchgan_is_of_70_px():
    assert patch_of(list(patchgan().model)) == 70


def test_profiles_of_every_kind(monkeypatch):
    monkeypatch.setattr(module, "RUNS", 1)
    rows = profiles(ProfileJob(("embedded", "patchgan", "dncnn", "microast"), size=64))
    assert [row.kind for row in rows] == ["backbone", "discriminator", "generator", "generator"]
    for row in rows:
        assert row.checkpoint == 4 * row.parameters > 0 and row.multiply_adds > 1e6
        assert row.activations > 64 * 64 * 12 and row.seconds > 0 and row.receptive_field > 1
    small = profiles(ProfileJob(("dncnn",), size=32))[0]
    dncnn = rows[2]
    assert dncnn.multiply_adds == pytest.approx(4 * small.multiply_adds, rel=1e-3)
    assert dncnn.multiply_adds == pytest.approx(64 * 64 * (dncnn.parameters - biases("dncnn")), rel=1e-3)
    assert 3.5 < dncnn.activations / small.activations < 4.5
    text = markdown(rows, 64)
    assert len(text.splitlines()) == 6 and "multiply-adds at 64 px" in text


def biases(name):
    """Parameters that are no factors of a convolution."""
    return sum(value.numel() for value in generator_of(name).parameters() if value.dim() == 1)


def test_what_is_no_network_is_one_line():
    assert kind_of("nothing") == "generator"
    for name, words in (("nothing", "no model or file 'nothing'"), ("vgg-decoder", "give a file")):
        with pytest.raises(BadInput, match=words):
            profiles(ProfileJob((name,)))
    with pytest.raises(BadInput, match="size is 5"):
        ProfileJob(("embedded",), size=5)
