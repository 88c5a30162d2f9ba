"""What a backbone costs: hand-counted arithmetic, and bytes held against the real passes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from public_networks import NETWORKS, network_of
from tiny_networks import LAYERS, WIDTHS, tiny_backbone
from torch.utils.flop_counter import FlopCounterMode

from parallel_nst.painting.gatys.features import FeatureReader
from parallel_nst.painting.gatys.losses import gram_sums
from parallel_nst.painting.gatys.sums import measure_sums, pull_back
from parallel_nst.painting.planning.profile import (
    LiveBytes,
    Passes,
    Rates,
    UnfilledBytes,
    forward_flops,
    gram_flops,
    profile,
)
from parallel_nst.painting.tiles.geometry import plan_tiles

DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone(torch.float32).to(memory_format=torch.channels_last)


@pytest.fixture(scope="module", params=DTYPES, ids=str)
def costs(request, backbone):
    return request.param, profile(backbone, LAYERS.style, LAYERS.content, request.param)


def test_live_bytes_follows_what_lives():
    kept = torch.zeros(1000)
    with LiveBytes() as live:
        a = kept + 1
        assert (live.now, live.most) == (4000, 4000)
        b = torch.cat([a, a])
        assert live.now == 12000
        view = b[:10]
        del a, b
        assert live.now == 8000  # the view holds its storage
        assert view.view(2, 5).shape == (2, 5) and live.now == 8000
        del view
        assert (live.now, live.most) == (0, 12000)


def test_live_bytes_does_not_count_what_was_there():
    there = torch.zeros(1000)
    with LiveBytes() as live:
        assert there.t().shape == (1000,)
        there.add_(1)
    assert live.most == 0


def test_flops_are_those_of_the_convolutions_and_gram_products(costs, backbone):
    convolutions, products, stride, inputs = 0.0, 0.0, 1, 3
    for b, block in enumerate(WIDTHS, 1):
        for c, width in enumerate(block, 1):
            convolutions += 2 * 9 * inputs * width / stride**2
            products += 2 * width**2 / stride**2 if f"relu{b}_{c}" in LAYERS.style else 0
            inputs = width
        stride *= 2
    _, measured = costs
    assert measured.halo.flops == pytest.approx(convolutions, rel=1e-6)
    assert measured.flops == pytest.approx(convolutions + products, rel=0.01)
    assert measured.parameters == sum(parameter.numel() for parameter in backbone.parameters())


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize(("height", "width"), [(64, 96), (75, 98)])
def test_arithmetic_from_windows_is_what_a_counter_counts(kind, height, width):
    backbone, names = network_of(kind, torch.float32)
    for some in (names[:1], names[:3], names):
        with FlopCounterMode(display=False) as counter:
            features = backbone(torch.rand(1, 3, height, width), some)
        assert forward_flops(backbone, some, height, width) == counter.get_total_flops()
        with FlopCounterMode(display=False) as counter:
            for name in some:
                gram_sums(features[name])
        assert gram_flops(backbone, some, height, width) == counter.get_total_flops()
        for name in some:
            assert backbone.sizes(height, width)[name] == features[name].shape[-2:]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", NETWORKS)
def test_bytes_without_products_are_those_with_them(kind, dtype):
    backbone, names = network_of(kind, torch.float32)
    backbone.to(memory_format=torch.channels_last)
    real, unfilled = (Passes(backbone, names, names[1:2], dtype, live) for live in (LiveBytes, UnfilledBytes))
    for summed in (True, False):
        one, other = (passes.counted(96, summed=summed) for passes in (real, unfilled))
        assert other.graph == one.graph and other.content == one.content
        assert other.peak == pytest.approx(one.peak, rel=0.02)
        assert other.forward_peak == pytest.approx(one.forward_peak, rel=0.02)


def test_planning_loads_no_compiler():
    """PyTorch's takes a second to load."""
    code = (
        "import sys, torch, tiny_networks as t; from parallel_nst.painting.planning.profile import profile;"
        "profile(t.tiny_backbone(torch.float32), t.LAYERS.style, t.LAYERS.content, torch.float32);"
        "print(*{'torch._dynamo', 'sympy'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.strip()) == (0, ""), ran.stderr


def test_content_is_what_the_features_take(costs, backbone):
    dtype, measured = costs
    ((name, feature),) = FeatureReader(backbone, LAYERS, dtype).read_content(torch.rand(1, 3, 64, 64)).items()
    assert measured.content * 64 * 64 == feature.numel() * feature.element_size()
    assert name in LAYERS.content


def predicted(measured, name, tile):
    core, read = tile.core.area, tile.read.area
    return core * getattr(measured, name) + (read - core) * getattr(measured.halo, name)


@pytest.mark.parametrize(("grid", "least"), [((2, 2), 0.85), ((1, 1), 0.75)], ids=["tile", "whole picture"])
def test_bytes_agree_with_the_passes_of_a_run(costs, backbone, grid, least):
    """A picture in one piece takes less than is predicted for its core: nothing of it need be copied."""
    dtype, measured = costs
    size = 384, 384
    tile = plan_tiles(*size, grid, halo=40, align=4)[0]
    pixels = torch.rand(1, 3, tile.read.height, tile.read.width)
    reader = FeatureReader(backbone, LAYERS, dtype)
    content = reader.read_content(pixels)
    with torch.no_grad(), LiveBytes() as passed:
        measure_sums(reader, pixels, content, tile)
    pixels.requires_grad_()
    with LiveBytes() as live:
        sums = measure_sums(reader, pixels, content, tile)
        graph = live.now
        pull_back(sums, pixels, sums.holding([torch.ones_like(value) for value in sums.tensors]))
    for name, real in (("graph", graph), ("peak", live.most), ("forward_peak", passed.most)):
        assert least < real / predicted(measured, name, tile) < 1.05


def test_a_halo_is_never_dearer_than_a_core(costs):
    _, measured = costs
    for name in Rates.__dataclass_fields__:
        assert 0 < getattr(measured.halo, name) <= getattr(measured, name)
    assert measured.graph < measured.peak
    assert measured.forward_peak < measured.peak


def test_half_precision_takes_less(backbone):
    wide, half = (profile(backbone, LAYERS.style, LAYERS.content, dtype) for dtype in DTYPES)
    assert half.content == wide.content / 2
    assert half.halo.graph < wide.halo.graph
    assert half.flops == wide.flops


def test_an_unknown_layer_is_named(backbone):
    with pytest.raises(ValueError, match="relu9_9"):
        profile(backbone, ["relu9_9"], ["relu2_2"], torch.float32)
