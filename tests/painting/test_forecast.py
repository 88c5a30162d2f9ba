"""What a run will need: held against plans, traffic that was counted, and the registry."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_networks import LAYERS, tiny_backbone, tiny_state

from parallel_nst.files.size import Size
from parallel_nst.networks.backbones.base import deepest
from parallel_nst.networks.backbones.loading import load_weights
from parallel_nst.networks.backbones.registry import BACKBONES
from parallel_nst.painting.exact.mode import Exact
from parallel_nst.painting.gatys.features import FeatureReader
from parallel_nst.painting.gatys.style import measure_style
from parallel_nst.painting.mode import Due
from parallel_nst.painting.planning.forecast import forecast, measured_speed, untrained
from parallel_nst.painting.planning.profile import profile
from parallel_nst.painting.planning.scales import FRAME, Scale, framed, plan_scales
from parallel_nst.painting.planning.tilings import Budget
from parallel_nst.painting.resolved import resolve
from parallel_nst.painting.tiles.geometry import whole_tile
from parallel_nst.recipe import Recipe, TilingSpec
from parallel_nst.workers.crew import Crew
from parallel_nst.workers.ranks import communicator
from parallel_nst.workers.ranks.threads import ThreadGroup
from parallel_nst.workers.threads import ThreadPool
from parallel_nst.workers.worker import WorkerSpec

RECIPE = Recipe(size=200, scales=2, steps=4, layers=LAYERS, tiling=TilingSpec(tiles="2x2", whole=150))
SPEED = 1e9


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone(torch.float32)


@pytest.fixture(scope="module")
def costs(backbone):
    return profile(backbone, LAYERS.style, LAYERS.content, torch.float32)


def reader_of(backbone, dtype=torch.float32):
    return FeatureReader(backbone, LAYERS, dtype)


def needs_of(recipe, backbone, costs, workers=2, memory=1 << 30, speed=SPEED):
    budget = Budget(workers, memory, costs)
    resolved = resolve(recipe, backbone)
    plans = plan_scales(Size(160, 200), Size(160, 200), resolved, budget)
    return plans, forecast(plans, resolved, budget, speed)


def test_scales_are_those_of_the_plan(backbone, costs):
    plans, needs = needs_of(RECIPE, backbone, costs)
    assert [(s.width, s.height, s.steps, s.tiles) for s in needs.scales] == [
        (plan.size.width, plan.size.height, plan.steps, len(plan.tiles)) for plan in plans
    ]
    assert needs.steps == sum(plan.steps for plan in plans)
    assert needs.halo == deepest(backbone, {**LAYERS.style, **LAYERS.content}).margin


def test_one_piece_costs_no_more_than_itself_and_moves_nothing(backbone, costs):
    _, needs = needs_of(RECIPE, backbone, costs)
    whole, tiled = needs.scales
    assert (whole.tiles, whole.moved) == (1, 0)
    assert whole.overhead == pytest.approx(1)
    assert whole.flops == pytest.approx(2 * costs.flops * (whole.width + 2 * FRAME) * (whole.height + 2 * FRAME))
    assert tiled.overhead > 1


def test_graphs_that_are_not_kept_cost_half_as_much_again(backbone, costs):
    plans, needs = needs_of(RECIPE, backbone, costs)
    poor = [replace(plan, kept=0) for plan in plans]
    other = forecast(poor, resolve(RECIPE, backbone), Budget(2, 1 << 30, costs), SPEED)
    assert other.scales[-1].flops == pytest.approx(1.5 * needs.scales[-1].flops)
    assert other.worker_bytes < needs.worker_bytes
    assert other.scales[-1].moved == needs.scales[-1].moved


def test_twice_the_workers_halve_the_arithmetic_of_the_slowest(backbone, costs):
    slow = 1e6  # FLOP/s, beside which the optimiser's time is nothing
    two, four = (needs_of(RECIPE, backbone, costs, workers, speed=slow)[1].scales[-1] for workers in (2, 4))
    assert two.seconds == pytest.approx(2 * four.seconds, rel=0.2)
    assert two.flops == four.flops


@pytest.mark.parametrize("workers", [2, 3])
def test_traffic_is_what_a_step_moves(backbone, costs, workers, monkeypatch):
    """Steps of a run, of which one more is taken: the difference is that of a step with its evaluation. Of one that is
    accepted: a step that goes back filters no gradient."""
    monkeypatch.setattr(communicator, "SMALL", 0)
    counted, put = [], ThreadGroup.put

    def counting(group, sender, receiver, values):
        counted.append(values.nbytes if sender != receiver else 0)
        put(group, sender, receiver, values)

    monkeypatch.setattr(ThreadGroup, "put", counting)
    monkeypatch.setitem(BACKBONES, "tiny", replace(BACKBONES["embedded"], layers=LAYERS))
    recipe = replace(RECIPE, backbone="tiny")
    resolved = resolve(recipe, backbone)
    plans, needs = needs_of(recipe, backbone, costs, workers)
    plan = plans[-1]
    pixels = np.random.default_rng(0).random((plan.size[1], plan.size[0], 3), np.float32)
    seeded = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    style = measure_style(reader_of(backbone), seeded, whole_tile(64, 64))
    spec = WorkerSpec("cpu", "float32", 1, {"tiny": tiny_state()})
    totals = []
    with ThreadPool(spec, Crew(workers, 1, None), 1) as pool:
        for steps in (5, 6):
            mode = Exact(Scale(framed(pixels, plan.size), style.targets, steps, plan.tiles, 4), resolved, pool)
            counted.clear()
            list(mode.states(mode.start(framed(pixels, plan.size).whole), lambda index, progress: None, Due()))
            totals.append(sum(counted))
    assert needs.scales[-1].moved == pytest.approx(totals[1] - totals[0], rel=0.03)


def test_totals_add_up(backbone, costs):
    _, needs = needs_of(RECIPE, backbone, costs)
    assert needs.flops == pytest.approx(sum(scale.steps * scale.flops for scale in needs.scales))
    assert needs.seconds == pytest.approx(sum((scale.steps + 1) * scale.seconds for scale in needs.scales))
    assert needs.seconds >= needs.flops / SPEED / 2


def test_independent_tiles_need_no_halo(backbone, costs):
    recipe = replace(RECIPE, tiling=replace(RECIPE.tiling, mode="independent", overlap=16))
    _, apart = needs_of(recipe, backbone, costs)
    _, exact = needs_of(RECIPE, backbone, costs)
    assert apart.halo == 0
    assert apart.scales[-1].moved > 0 and exact.scales[-1].moved > 0
    often = replace(recipe, tiling=replace(recipe.tiling, sync_every=1))
    assert needs_of(often, backbone, costs)[1].scales[-1].moved == pytest.approx(4 * apart.scales[-1].moved, rel=0.01)


def test_names_without_weights_have_a_shape():
    for name, entry in BACKBONES.items():
        backbone = untrained(name)
        backbone.check_layers((*entry.layers.style, *entry.layers.content))
        assert not any(parameter.requires_grad for parameter in backbone.parameters())
        if entry.file is None and entry.package is None:
            assert set(backbone.state_dict()) == set(load_weights(name))


def test_an_unknown_backbone_is_refused():
    with pytest.raises(ValueError, match="unknown backbone 'vgg20'"):
        untrained("vgg20")


@pytest.mark.parametrize(("dtype", "beside"), [(torch.float32, 1), (torch.bfloat16, 1), (torch.float32, 3)])
def test_speed_is_measured_and_threads_are_left_as_they_were(backbone, dtype, beside):
    before = torch.get_num_threads()
    assert measured_speed(reader_of(backbone, dtype), before + 1, beside=beside) > 1e6
    assert torch.get_num_threads() == before
