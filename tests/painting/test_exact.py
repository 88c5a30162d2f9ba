"""One objective in tiles: value, gradient and picture are those of the picture in one piece, however it is cut and
whatever becomes of the workers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scattered import Scattered
from tiny_networks import LAYERS, tiny_state

from parallel_nst.networks.backbones import registry as checkpoints
from parallel_nst.networks.backbones.base import Layer
from parallel_nst.networks.backbones.loading import build_backbone
from parallel_nst.networks.backbones.registry import BackboneEntry
from parallel_nst.networks.backbones.resnet import ResNet
from parallel_nst.networks.backbones.squeezenet import SqueezeNet
from parallel_nst.networks.backbones.vgg import VGG
from parallel_nst.painting.exact.hub import TiledObjective, kept_tiles
from parallel_nst.painting.exact.mode import Exact
from parallel_nst.painting.gatys.features import FeatureReader
from parallel_nst.painting.gatys.minimise import Iteration, finish, minimise
from parallel_nst.painting.gatys.objective import LocalObjective
from parallel_nst.painting.gatys.optimizers import make_optimizer
from parallel_nst.painting.gatys.style import measure_style
from parallel_nst.painting.planning.scales import FRAME, Framed, Scale
from parallel_nst.painting.resolved import resolve
from parallel_nst.painting.tiles.geometry import plan_tiles, whole_tile
from parallel_nst.recipe import LayerWeights, Recipe
from parallel_nst.workers.pool import SerialPool
from parallel_nst.workers.worker import WorkerSpec

SPEC = WorkerSpec("cpu", "float64", 1, {"embedded": tiny_state()})
RECIPE = Recipe(tv_weight=0.3, content_weight=0.1, style_loss="gram")
SIZES = [(1, 1), (3, 40), (17, 31), (48, 33), (40, 64)]  # of the content, height and width
GRIDS = [(1, 1), (1, 2), (2, 2), (3, 2), (4, 5)]


def unheard(index, progress):
    """A report to nobody."""


def pixels_of(seed, height, width):
    return np.random.default_rng(seed).random((height, width, 3))


class Setting:
    """A picture, a style and a network, in one piece or cut."""

    def __init__(self, size, name="embedded", layers=LAYERS, spec=SPEC, recipe=RECIPE):
        backbone = build_backbone(name, spec.weights[name]).double()
        self.spec, self.resolved = spec, resolve(replace(recipe, backbone=name, layers=layers), backbone)
        self.reader, self.layer = FeatureReader(backbone, layers, torch.float64), self.resolved.deepest
        self.content = Framed(pixels_of(0, *size))
        style = torch.from_numpy(Framed(pixels_of(1, 30, 34)).whole)[None]
        self.style = measure_style(self.reader, style, whole_tile(62, 66)).targets
        self.image = torch.from_numpy(Framed(pixels_of(2, *size)).whole)[None]

    def local(self):
        """The objective in one piece."""
        content = torch.from_numpy(self.content.whole)[None]
        features = self.reader.read_content(content)
        return LocalObjective(self.reader, self.resolved, self.style, features, whole_tile(*self.content.size))

    def scale(self, grid, kept=1, *, less_halo=0, align=None):
        tiles = plan_tiles(
            *self.content.size, grid, halo=self.layer.margin - less_halo, align=align or self.layer.stride
        )
        return Scale(self.content, self.style, 3, tiles, kept)

    def tiled(self, grid, pool=None, kept=1, **cut):
        return TiledObjective(self.scale(grid, kept, **cut), self.resolved, pool or SerialPool(self.spec))

    def painted(self, grid, pool=None, kept=1):
        """After the scale's steps, in tiles."""
        mode = self.mode(grid, pool, kept)
        (*_, end) = mode.states(mode.start(self.image[0].numpy().copy()), unheard)
        return mode.result(end)

    def mode(self, grid, pool=None, kept=1):
        return Exact(self.scale(grid, kept), self.resolved, pool or SerialPool(self.spec))

    def painted_whole(self):
        optimizer, local = make_optimizer(self.resolved.recipe), self.local()
        (*_, end) = minimise(local, Iteration.start(self.image, optimizer.init(self.image)), optimizer, 3)
        return finish(local, end)


def distance(found, expected):
    """Relative, in the Euclidean norm."""
    return float((found - expected).norm() / expected.norm())


def assert_equal(tiled, setting, tolerance=1e-12):
    loss, gradient = tiled.value_and_gradient(setting.image)
    whole, expected = setting.local().value_and_gradient(setting.image)
    assert loss == pytest.approx(whole, rel=tolerance)
    assert distance(gradient, expected) < tolerance


# The equality


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("grid", GRIDS)
def test_value_and_gradient_are_those_of_the_picture_in_one_piece(size, grid):
    setting = Setting(size)
    tiled = setting.tiled(grid)
    assert_equal(tiled, setting)
    assert tiled.value(setting.image) == pytest.approx(setting.local().value(setting.image), rel=1e-12)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("grid", [(2, 2), (4, 5)])
def test_so_they_are_with_means_and_covariances(size, grid):
    """Roots of small eigenvalues make more of rounding."""
    setting = Setting(size, recipe=replace(RECIPE, style_loss="w2"))
    assert_equal(setting.tiled(grid), setting, tolerance=1e-10)


def test_means_and_covariances_paint_the_picture_of_one_piece():
    setting = Setting((33, 50), recipe=replace(RECIPE, style_loss="w2"))
    result, whole = setting.painted((2, 3)), setting.painted_whole()
    np.testing.assert_allclose(result.pixels, whole.image[0].numpy(), rtol=0, atol=1e-8)
    assert result.loss < setting.local().value(setting.image)


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
@pytest.mark.parametrize(("size", "grid"), [((1, 1), (2, 2)), ((17, 31), (2, 3)), ((48, 33), (3, 2))])
def test_three_steps_paint_the_picture_of_one_piece(size, grid, optimizer):
    setting = Setting(size, recipe=replace(RECIPE, optimizer=optimizer))
    result, whole = setting.painted(grid), setting.painted_whole()
    np.testing.assert_allclose(result.pixels, whole.image[0].numpy(), rtol=0, atol=1e-8)
    assert result.loss == pytest.approx(whole.loss, rel=1e-9)
    assert np.abs(result.pixels - setting.image[0].numpy()).max() > 0.01


@pytest.mark.parametrize(
    "layers",
    [
        LayerWeights({"relu1_1": 1.0}, {"relu1_1": 1.0}),
        LayerWeights({"relu1_2": 1.0}, {"relu3_1": 1.0}),
        LayerWeights({"pool2": 1.0, "conv2_1": 0.5, "relu3_1": 0.0}, {"pool1": 2.0, "relu1_1": 1.0}),
    ],
)
def test_whatever_layers_are_chosen(layers):
    setting = Setting((33, 50), layers=layers)
    assert_equal(setting.tiled((2, 3)), setting)


@pytest.mark.parametrize(
    "weights",
    [{"tv_weight": 0.0}, {"style_weight": 0.0}, {"content_weight": 0.0}, {"tv_weight": 1e3}],
)
def test_whatever_the_losses_weigh(weights):
    setting = Setting((33, 50), recipe=replace(RECIPE, **weights))
    assert_equal(setting.tiled((2, 3)), setting)


def drawn(network):
    """The weights of a network, drawn so that features keep their size."""
    generator = torch.Generator().manual_seed(3)
    for key, value in network.state_dict().items():
        if value.dim() == 4:
            value.copy_(torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5)
        elif value.is_floating_point():
            noise = torch.rand(value.shape, generator=generator)
            value.copy_(noise + 0.5 if key.endswith(("running_var", "bn1.weight")) else noise * 0.2)
    return network


GEOMETRIES = {
    "vgg": (lambda: VGG(((4, 4), (4,), (6, 6), (6,))), "relu1_1 relu2_1 relu4_1", "relu3_2"),
    "vgg-average": (lambda: VGG(((4,), (4,), (4,), (4,), (6,)), pool="average"), "relu1_1 relu5_1", "relu4_1"),
    "squeezenet": (SqueezeNet, "relu1 fire3 fire5 fire9", "fire5"),
    "resnet": (lambda: ResNet(4, (1, 2, 1, 1)), "relu1 pool1 conv2_block1 conv4_block1 conv5_block1", "conv3_block2"),
    "resnet-folded": (lambda: ResNet(4, (1, 1)).fold(), "conv1 conv3_block1", "relu1"),
}


@pytest.fixture(params=GEOMETRIES)
def geometry(request, monkeypatch):
    """A network of this kind in the registry: its name, its layers and workers that know it."""
    build, style, content = GEOMETRIES[request.param]
    network = drawn(build())
    layers = LayerWeights(dict.fromkeys(style.split(), 1.0), {content: 1.0})
    monkeypatch.setitem(checkpoints.BACKBONES, "this", BackboneEntry(lambda state: network, layers))
    return {"name": "this", "layers": layers, "spec": replace(SPEC, weights={"this": {}})}


@pytest.mark.parametrize(("size", "grid"), [((5, 9), (1, 2)), ((70, 131), (2, 3))])
def test_every_backbones_geometry(geometry, size, grid):
    setting = Setting(size, **geometry)
    assert_equal(setting.tiled(grid), setting, 1e-11)


def test_a_halo_one_stride_too_small_is_found_out():
    """The halo is no larger than it must be, and this file would notice if it were smaller."""
    setting = Setting((48, 64))
    _, expected = setting.local().value_and_gradient(setting.image)
    _, gradient = setting.tiled((2, 2), less_halo=setting.layer.stride).value_and_gradient(setting.image)
    assert distance(gradient, expected) > 1e-6


def test_tiles_off_the_layers_grid_are_found_out():
    setting = Setting((44, 60))
    _, expected = setting.local().value_and_gradient(setting.image)
    _, gradient = setting.tiled((2, 2), align=setting.layer.stride // 2).value_and_gradient(setting.image)
    assert distance(gradient, expected) > 1e-6


def test_a_halo_wider_than_the_picture():
    setting = Setting((20, 24))
    setting.layer = Layer(setting.layer.stride, 200, 1)
    assert_equal(setting.tiled((2, 2)), setting)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.1)])
def test_lower_precision_comes_near(dtype, tolerance):
    setting = Setting((33, 50))
    single = replace(SPEC, dtype=dtype)
    tiled = setting.tiled((2, 2), SerialPool(single))
    loss, gradient = tiled.value_and_gradient(setting.image.float())
    whole, expected = setting.local().value_and_gradient(setting.image)
    assert loss == pytest.approx(whole, rel=tolerance)
    assert gradient.dtype == torch.float32
    assert distance(gradient.double(), expected) < tolerance


# Graphs that are kept, workers that are lost


def test_the_first_tiles_of_each_worker_are_kept():
    assert kept_tiles(7, 3, 0) == frozenset()
    assert kept_tiles(7, 3, 1) == {0, 1, 2}
    assert kept_tiles(7, 3, 2) == {0, 1, 2, 3, 4, 5}
    assert kept_tiles(7, 3, 9) == set(range(7))


@pytest.mark.parametrize("size", [1, 3])
def test_a_graph_made_again_gives_the_same_bits(size):
    setting = Setting((33, 50))
    results = [
        setting.tiled((2, 3), Scattered(SPEC, size), kept=kept).value_and_gradient(setting.image) for kept in (0, 1, 6)
    ]
    for loss, gradient in results[1:]:
        assert loss == results[0][0] and torch.equal(gradient, results[0][1])


@pytest.mark.parametrize("kept", [0, 1, 6])
@pytest.mark.parametrize(("workers", "loss"), [(1, 0.0), (3, 0.0), (2, 0.4), (3, 0.8), (8, 1.0)])
def test_any_order_and_any_loss_of_workers_give_the_same_bits(kept, workers, loss):
    setting = Setting((33, 50))
    expected = setting.painted((2, 3))
    for seed in range(2):
        result = setting.painted((2, 3), Scattered(SPEC, workers, loss, seed), kept)
        assert np.array_equal(result.pixels, expected.pixels) and result.loss == expected.loss


def test_a_worker_is_sent_the_content_once_and_the_pixels_when_it_needs_them():
    setting, pool = Setting((33, 50)), Scattered(SPEC, 2)
    tiled = setting.tiled((2, 2), pool, kept=1)
    for number in range(2):
        tiled.value_and_gradient(setting.image)
        first, second = pool.tasks[:4], pool.tasks[4:]
        pool.tasks = []
        assert all((task.piece.content is None) == (number > 0) for task in first)
        assert all(task.piece.content is None for task in second)
        kept = {task.piece.tile.index for task in first if task.keep}
        assert {task.piece.tile.index for task in second if task.piece.pixels is None} == kept == {0, 1}


def test_only_a_tile_whose_worker_was_lost_is_given_all_again():
    setting, pool = Setting((33, 50)), Scattered(SPEC, 4)
    tiled = setting.tiled((2, 2), pool, kept=1)
    before = tiled.value_and_gradient(setting.image)
    pool._workers[2].left_by("lost")
    pool.tasks = []
    after = tiled.value_and_gradient(setting.image)
    assert [task.piece.tile.index for task in pool.tasks if task.piece.content is not None] == [2]
    assert len(pool.tasks) == 9 and after[0] == before[0] and torch.equal(after[1], before[1])


def test_two_objectives_on_one_pool_do_not_meet():
    setting, pool = Setting((33, 50)), Scattered(SPEC, 2)
    first, second = setting.tiled((2, 2), pool), setting.tiled((1, 3), pool)
    for _ in range(2):
        for tiled in (first, second):
            assert_equal(tiled, setting)


# The run of a scale


def test_every_step_is_reported():
    setting, seen = Setting((17, 31)), []
    mode = setting.mode((2, 2))
    start = mode.start(setting.image[0].numpy().copy())
    states = mode.states(start, lambda index, progress: seen.append((index, progress.step, progress.steps)))
    assert [(state.step, *state.done) for state in states] == [(step,) * 5 for step in (1, 2, 3)]
    assert seen == [(None, step, 3) for step in (1, 2, 3)]


def test_a_result_has_its_own_loss_and_stays_in_range():
    setting = Setting((17, 31))
    result = setting.painted((2, 2))
    assert result.pixels.shape == (3, 17 + 2 * FRAME, 31 + 2 * FRAME)
    assert result.pixels.min() >= 0 and result.pixels.max() <= 1
    assert result.loss == pytest.approx(setting.local().value(torch.from_numpy(result.pixels)[None]), rel=1e-12)


def test_a_state_that_is_carried_over_is_taken_up():
    setting = Setting((17, 31))
    first = setting.painted((2, 2))
    start = setting.mode((1, 2)).start(first.pixels, first.carried).iteration
    assert start.state is first.carried.state and start.step == 0 and start.best.loss == float("inf")
