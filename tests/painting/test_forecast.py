"""What a run will need: held against plans, traffic that was counted, and the registry."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_networks import LAYERS, tiny_backbone, tiny_state

from parallel_nst.networks.backbones.base import deepest
from parallel_nst.networks.backbones.loading import load_weights
from parallel_nst.networks.backbones.registry import BACKBONES
from parallel_nst.painting.gatys.features import FeatureReader
from parallel_nst.painting.gatys.style import measure_style
from parallel_nst.painting.planning.forecast import forecast, measured_speed, untrained
from parallel_nst.painting.planning.profile import profile
from parallel_nst.painting.planning.scales import FRAME, Scale, framed, plan_scales
from parallel_nst.painting.planning.tilings import Budget
from parallel_nst.painting.resolved import resolve
from parallel_nst.painting.tiles.geometry import whole_tile
from parallel_nst.recipe import Recipe, TilingSpec
from parallel_nst.workers.pool import SerialPool
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
    plans = plan_scales((200, 160), (200, 160), resolved, budget)
    return plans, forecast(plans, resolved, budget, speed)


def test_scales_are_those_of_the_plan(backbone, costs):
    plans, needs = needs_of(RECIPE, backbone, costs)
    assert [(s.width, s.height, s.steps, s.tiles) for s in needs.scales] == [
        (*plan.size, plan.steps, len(plan.tiles)) for plan in plans
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
    assert other.scales[-1].moved > needs.scales[-1].moved


def test_twice_the_workers_halve_the_arithmetic_of_the_slowest(backbone, costs):
    slow = 1e6  # FLOP/s, beside which the optimiser's time is nothing
    two, four = (needs_of(RECIPE, backbone, costs, workers, speed=slow)[1].scales[-1] for workers in (2, 4))
    assert two.seconds == pytest.approx(2 * four.seconds, rel=0.2)
    assert two.flops == four.flops


class CountingPool(SerialPool):
    """Counts the bytes of all that goes to the worker and comes back."""

    counted = 0

    def map_pinned(self, tasks, on_progress=None):
        for position, result in super().map_pinned(tasks, on_progress):
            task = tasks[position].task
            self.counted += task.piece.pixels.nbytes if task.piece.pixels is not None else 0
            tensors = [] if isinstance(result, np.ndarray) else result.tensors
            self.counted += sum(value.nbytes for value in tensors) or result.nbytes
            yield position, result

    def share(self, value):
        self.counted += sum(tensor.nbytes for tensor in value.tensors)
        return super().share(value)


@pytest.mark.parametrize("kept", [0, 1, 4])
def test_traffic_is_what_a_step_moves(backbone, costs, kept, monkeypatch):
    monkeypatch.setitem(BACKBONES, "tiny", replace(BACKBONES["embedded"], layers=LAYERS))
    recipe = replace(RECIPE, backbone="tiny")
    resolved = resolve(recipe, backbone)
    plans, _ = needs_of(recipe, backbone, costs, workers=1)
    plan = replace(plans[-1], kept=kept)
    needs = forecast([plan], resolved, Budget(1, 1 << 30, costs), SPEED)
    pool = CountingPool(WorkerSpec("cpu", "float32", 1, {"tiny": tiny_state()}))
    pixels = np.random.default_rng(0).random((plan.size[1], plan.size[0], 3), np.float32)
    style = measure_style(reader_of(backbone), torch.rand(1, 3, 64, 64), whole_tile(64, 64))
    scale = Scale(framed(pixels, plan.size), style.targets, 1, plan.tiles, kept)
    TiledObjective(scale, resolved, pool).value_and_gradient(torch.from_numpy(scale.content.whole)[None])
    assert needs.scales[0].moved == pytest.approx(pool.counted, rel=1e-3)


def test_totals_add_up(backbone, costs):
    _, needs = needs_of(RECIPE, backbone, costs)
    assert needs.flops == pytest.approx(sum(scale.steps * scale.flops for scale in needs.scales))
    assert needs.seconds >= needs.flops / SPEED / 2


def test_independent_tiles_need_no_halo_and_a_small_driver(backbone, costs):
    recipe = replace(RECIPE, tiling=replace(RECIPE.tiling, mode="independent", overlap=16))
    _, apart = needs_of(recipe, backbone, costs)
    _, exact = needs_of(RECIPE, backbone, costs)
    assert apart.halo == 0
    assert apart.driver_bytes < exact.driver_bytes
    assert apart.scales[-1].moved < exact.scales[-1].moved
    often = replace(recipe, tiling=replace(recipe.tiling, sync_every=1))
    assert needs_of(often, backbone, costs)[1].scales[-1].moved == pytest.approx(4 * apart.scales[-1].moved, rel=0.01)


def test_names_without_weights_have_a_shape():
    for name, entry in BACKBONES.items():
        backbone = untrained(name)
        backbone.check_layers((*entry.layers.style, *entry.layers.content))
        assert not any(parameter.requires_grad for parameter in backbone.parameters())
        if entry.file is None:
            assert set(backbone.state_dict()) == set(load_weights(name))


def test_an_unknown_backbone_is_refused():
    with pytest.raises(ValueError, match="unknown backbone 'vgg20'"):
        untrained("vgg20")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_speed_is_measured_and_threads_are_left_as_they_were(backbone, dtype):
    before = torch.get_num_threads()
    assert measured_speed(reader_of(backbone, dtype), before + 1) > 1e6
    assert torch.get_num_threads() == before
