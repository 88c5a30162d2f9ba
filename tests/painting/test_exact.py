"""One objective in tiles: value, gradient and picture are those of the picture in one piece, however it is cut and
whoever has the tiles."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from ranks import on_ranks
from tiny_networks import LAYERS, tiny_state

from parallel_nst.errors import WorkerLost
from parallel_nst.files.size import Size
from parallel_nst.networks.backbones import registry as checkpoints
from parallel_nst.networks.backbones.base import Layer
from parallel_nst.networks.backbones.caffe import conv_places
from parallel_nst.networks.backbones.loading import build_backbone, load_weights
from parallel_nst.networks.backbones.registry import BackboneEntry
from parallel_nst.networks.backbones.resnet import ResNet
from parallel_nst.networks.backbones.squeezenet import SqueezeNet
from parallel_nst.networks.backbones.vgg import VGG, VGG16_WIDTHS, VGG19_WIDTHS
from parallel_nst.painting.exact.mode import Exact
from parallel_nst.painting.exact.objective import Measure, RankObjective
from parallel_nst.painting.gatys.features import FeatureReader
from parallel_nst.painting.gatys.minimise import Iteration, finish, minimise
from parallel_nst.painting.gatys.objective import LocalObjective
from parallel_nst.painting.gatys.optimizers.choice import make_optimizer
from parallel_nst.painting.gatys.style import measure_style
from parallel_nst.painting.mode import Due
from parallel_nst.painting.planning.scales import FRAME, Framed, Scale, enlarged
from parallel_nst.painting.resolved import resolve
from parallel_nst.painting.tiles.geometry import gather, plan_tiles, whole_tile
from parallel_nst.painting.tiles.ownership import deal
from parallel_nst.recipe import LayerWeights, Recipe
from parallel_nst.workers.crew import Crew
from parallel_nst.workers.pool import HandedLost, SerialPool
from parallel_nst.workers.threads import ThreadPool
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
        backbone = build_backbone(name, spec.weights[name], recipe.pooling).double()
        self.spec, self.resolved = spec, resolve(replace(recipe, backbone=name, layers=layers), backbone)
        self.reader = FeatureReader(backbone, self.resolved.layers, torch.float64)
        self.layer = self.resolved.deepest
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

    def tiled(self, grid, ranks=1, kept=1, dtype=torch.float64, **cut):
        return Tiled(self, self.scale(grid, kept, **cut), ranks, dtype)

    def painted(self, grid, ranks=1, kept=1, start=None, due=None, seen=None):
        """After the scale's steps, in tiles. start: makes the first state; seen: gets all states."""
        pool = SerialPool(self.spec) if ranks == 1 else ThreadPool(self.spec, Crew(ranks, 1, None), 1)
        mode = Exact(self.scale(grid, kept), self.resolved, pool)
        begun = start(mode) if start else mode.start(self.image[0].numpy())
        try:
            (*states, end) = mode.states(begun, unheard, due or Due())
            if seen is not None:
                seen += [*states, end]
            return mode.result(end)
        finally:
            pool.close()

    def painted_whole(self):
        optimizer, local = make_optimizer(self.resolved.recipe), self.local()
        (*_, end) = minimise(local, Iteration.start(self.image, optimizer.init(self.image)), optimizer, 3)
        return finish(local, end)


class Tiled:
    """The objective in tiles, on ranks that are threads."""

    def __init__(self, setting, scale, ranks, dtype):
        self.setting, self.scale = setting, scale
        self.ownership = deal(scale.tiles, [1.0] * ranks)
        backbone = setting.reader.backbone
        backbone = backbone if dtype == torch.float64 else deepcopy(backbone).float()
        self.reader = FeatureReader(backbone, setting.reader.layers, dtype)

    def each(self, image, work):
        """Results of `work(objective, flat image)` of each rank, with the shard."""

        def on_rank(ranks):
            reader = self.reader
            content = {
                tile.index: reader.read_content(torch.tensor(self.scale.content.read(tile.read))[None].to(image.dtype))
                for tile in self.ownership.of(ranks.rank)
            }
            measure = Measure(reader, self.setting.resolved, self.setting.style, content)
            shard = self.ownership.shard(ranks.rank)
            flat = torch.zeros(shard.elements, dtype=image.dtype)
            for index, core in shard.cores.items():
                shard.core(flat, index).copy_(gather(image[0], core))
            return work(RankObjective(self.ownership, ranks, measure, self.scale.kept), flat), shard

        return on_ranks(self.ownership.ranks, on_rank)

    def value(self, image):
        values = [value for value, _ in self.each(image, lambda objective, flat: objective.value(flat))]
        assert len(set(values)) == 1
        return values[0]

    def value_and_gradient(self, image):
        results = self.each(image, lambda objective, flat: objective.value_and_gradient(flat))
        gradient = torch.full_like(image, torch.nan)
        for (loss, flat), shard in results:
            assert loss == results[0][0][0] and flat.dtype == image.dtype
            for index, core in shard.cores.items():
                gather(gradient[0], core).copy_(shard.core(flat, index))
        return results[0][0][0], gradient


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
@pytest.mark.parametrize("ranks", [1, 3, 8])
def test_value_and_gradient_are_those_of_the_picture_in_one_piece(size, grid, ranks):
    setting = Setting(size)
    tiled = setting.tiled(grid, ranks)
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
@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_three_steps_paint_the_picture_of_one_piece(size, grid, optimizer, ranks):
    setting = Setting(size, recipe=replace(RECIPE, optimizer=optimizer))
    result, whole = setting.painted(grid, ranks), setting.painted_whole()
    np.testing.assert_allclose(result.pixels, whole.image[0].numpy(), rtol=0, atol=5e-12)
    assert result.loss == pytest.approx(whole.loss, rel=1e-12)
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
    assert_equal(setting.tiled((2, 3), 2), setting)


@pytest.mark.parametrize(
    "weights",
    [{"tv_weight": 0.0}, {"style_weight": 0.0}, {"content_weight": 0.0}, {"tv_weight": 1e3}],
)
def test_whatever_the_losses_weigh(weights):
    setting = Setting((33, 50), recipe=replace(RECIPE, **weights))
    assert_equal(setting.tiled((2, 3), 2), setting)


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
    assert_equal(setting.tiled(grid, 2), setting, 1e-11)


def caffes(state):
    """VGG19's weights as its authors had them: under their names, for pixels of 0 to 255."""
    places = {place: block for block, place in conv_places(VGG19_WIDTHS).items()}
    named = {}
    for key, value in state.items():
        _, place, kind = key.split(".")
        block, number = places[int(place)]
        named[f"conv{block}_{number}.{kind}"] = value / 70 if key == "features.0.weight" else value
    return named


PUBLIC = {
    "vgg16": lambda: drawn(VGG(VGG16_WIDTHS)).state_dict(),
    "vgg19": lambda: drawn(VGG(VGG19_WIDTHS)).state_dict(),
    "vgg19-caffe": lambda: caffes(drawn(VGG(VGG19_WIDTHS)).state_dict()),
    "resnet50": lambda: drawn(ResNet()).state_dict(),
    "squeezenet": lambda: drawn(SqueezeNet()).state_dict(),
    "embedded": lambda: load_weights("embedded"),
}


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["max", "avg"])
@pytest.mark.parametrize("name", checkpoints.BACKBONES)
def test_every_backbone_as_it_is_built_for_a_run(name, pooling):
    """With all its channels, its own layers, its weights read as they are published, and either pooling."""
    recipe, spec = replace(RECIPE, pooling=pooling), replace(SPEC, weights={name: PUBLIC[name]()})
    setting = Setting((30, 150), name, LayerWeights(), spec, recipe)
    assert_equal(setting.tiled((1, 3), 2), setting, 1e-11)


def test_a_halo_one_stride_too_small_is_found_out():
    """The halo is no larger than it must be, and this file would notice if it were smaller."""
    setting = Setting((48, 64))
    _, expected = setting.local().value_and_gradient(setting.image)
    _, gradient = setting.tiled((2, 2), less_halo=setting.layer.stride).value_and_gradient(setting.image)
    assert distance(gradient, expected) > 1e-6


def test_tiles_off_the_layers_grid_are_found_out():
    setting = Setting((56, 72))
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
    tiled = setting.tiled((2, 2), 2, dtype=getattr(torch, dtype))
    loss, gradient = tiled.value_and_gradient(setting.image.float())
    whole, expected = setting.local().value_and_gradient(setting.image)
    assert loss == pytest.approx(whole, rel=tolerance)
    assert gradient.dtype == torch.float32
    assert distance(gradient.double(), expected) < tolerance


# The bits


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_bits_depend_neither_on_the_ranks_nor_on_the_graphs_that_are_kept(dtype):
    setting = Setting((33, 50))
    image = setting.image if dtype == torch.float64 else setting.image.float()
    expected = setting.tiled((3, 3), dtype=dtype).value_and_gradient(image)
    for ranks, kept in [(1, 0), (1, 9), (2, 1), (3, 0), (4, 2), (9, 1)]:
        loss, gradient = setting.tiled((3, 3), ranks, kept, dtype).value_and_gradient(image)
        assert loss == expected[0] and torch.equal(gradient, expected[1])


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
@pytest.mark.parametrize("ranks", [2, 3, 6])
def test_the_picture_has_the_same_bits_on_any_number_of_ranks(optimizer, ranks):
    setting = Setting((33, 50), recipe=replace(RECIPE, optimizer=optimizer))
    expected, result = setting.painted((2, 3)), setting.painted((2, 3), ranks)
    assert np.array_equal(result.pixels, expected.pixels) and result.loss == expected.loss


# The run of a scale


@pytest.mark.parametrize("ranks", [1, 3])
def test_every_step_is_reported(ranks):
    setting, seen = Setting((17, 31)), []
    pool = ThreadPool(SPEC, Crew(ranks, 1, None), 1)
    mode = Exact(setting.scale((2, 2)), setting.resolved, pool)
    start = mode.start(setting.image[0].numpy())
    states = mode.states(start, lambda index, progress: seen.append((index, progress.step, progress.steps)), Due())
    assert [(state.step, *state.done) for state in states] == [(step,) * 5 for step in (1, 2, 3)]
    assert seen == [(None, step, 3) for step in (1, 2, 3)]
    pool.close()


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_result_has_its_own_loss_and_stays_in_range(ranks):
    setting = Setting((17, 31))
    result = setting.painted((2, 2), ranks)
    assert result.pixels.shape == (3, 17 + 2 * FRAME, 31 + 2 * FRAME)
    assert result.pixels.min() >= 0 and result.pixels.max() <= 1
    assert result.loss == pytest.approx(setting.local().value(torch.from_numpy(result.pixels)[None]), rel=1e-12)


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
@pytest.mark.parametrize(("ranks", "grid"), [(1, (2, 2)), (3, (2, 2)), (2, (1, 3))])
def test_from_every_snapshot_a_scale_goes_on_whoever_has_the_tiles(optimizer, ranks, grid):
    setting, seen = Setting((17, 31), recipe=replace(RECIPE, optimizer=optimizer)), []
    expected = setting.painted((2, 2), 2, due=Due(snapshots=frozenset({1, 2, 3})), seen=seen)
    for state in seen:
        snapshot = state.snapshot(0)
        assert snapshot.step == state.step
        result = setting.painted(grid, ranks, start=lambda mode, snapshot=snapshot: mode.restored(snapshot))
        np.testing.assert_allclose(result.pixels, expected.pixels, rtol=0, atol=1e-10)
        if grid == (2, 2):
            assert np.array_equal(result.pixels, expected.pixels) and result.loss == expected.loss


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_what_was_learnt_is_carried_to_a_larger_scale_whoever_has_the_tiles(optimizer):
    recipe = replace(RECIPE, optimizer=optimizer)
    small, large = Setting((17, 31), recipe=recipe), Setting((24, 44), recipe=recipe)
    pictures = []
    for ranks, grid in [(1, (1, 1)), (1, (2, 2)), (3, (2, 2))]:
        for carried in (None, small.painted(grid, ranks).carried):
            start = lambda mode, carried=carried: mode.start(large.image[0].numpy(), carried)  # noqa: E731
            pictures.append(large.painted(grid, ranks, start=start).pixels)
    for number in (0, 1):
        np.testing.assert_allclose(pictures[2 + number], pictures[number], rtol=0, atol=1e-10)
        assert np.array_equal(pictures[4 + number], pictures[2 + number])
    assert np.abs(pictures[0] - pictures[1]).max() > 1e-3


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_a_scale_follows_from_the_enlarged_image_of_the_one_before_whoever_has_the_tiles(optimizer):
    recipe = replace(RECIPE, optimizer=optimizer)
    small, large = Setting((17, 31), recipe=recipe), Setting((24, 44), recipe=recipe)
    pictures = []
    for ranks, grid in [(1, (1, 1)), (1, (2, 2)), (3, (2, 2))]:
        before = small.painted(grid, ranks)
        pictures.append(large.painted(grid, ranks, start=lambda mode, before=before: mode.follow(before)).pixels)
    image = enlarged(before.pixels.clip(0, 1), Size(24, 44))  # by OpenCV, in single precision
    expected = large.painted((2, 2), 3, start=lambda mode: mode.start(image, before.carried)).pixels
    np.testing.assert_allclose(pictures[1], pictures[0], rtol=0, atol=1e-10)
    assert np.array_equal(pictures[2], pictures[1])
    np.testing.assert_allclose(pictures[2], expected, rtol=0, atol=1e-4)


class Losing(SerialPool):
    """Its first ranks lose all that was handed out before them."""

    lost = False

    def __init__(self):
        super().__init__(SPEC)
        self.mortal = True

    def together(self, works):
        if not self.lost:
            self.lost = True
            raise HandedLost("its machine is gone")
        return (yield from super().together(works))


def test_where_what_a_scale_follows_from_is_lost_it_begins_with_the_image_that_is_held_here():
    small, large = Setting((17, 31)), Setting((24, 44))
    before = small.painted((1, 2))
    mode = Exact(large.scale((2, 2)), large.resolved, Losing())
    (*_, end) = mode.states(mode.follow(before), unheard, Due())
    expected = large.painted((2, 2), start=lambda mode: mode.start(enlarged(before.pixels, Size(24, 44))))
    assert np.array_equal(mode.result(end).pixels, expected.pixels)


def test_a_run_that_goes_on_and_loses_its_picture_says_so():
    setting, seen = Setting((17, 31)), []
    setting.painted((2, 2), due=Due(snapshots=frozenset({1})), seen=seen)
    mode = Exact(setting.scale((2, 2)), setting.resolved, Losing())
    with pytest.raises(WorkerLost, match=r"gone, and with it the picture so far; --resume goes on"):
        list(mode.states(mode.restored(seen[0].snapshot(0)), unheard, Due()))


def test_previews_are_the_picture_of_their_step():
    setting, seen = Setting((17, 31)), []
    result = setting.painted((2, 2), 3, due=Due(previews=frozenset({1, 3})), seen=seen)
    first, last = seen[0].preview(), seen[2].preview()
    assert first.shape == last.shape == (17, 31, 3)
    end = result.pixels[:, FRAME:-FRAME, FRAME:-FRAME].transpose(1, 2, 0)
    assert np.abs(last - end).max() < np.abs(first - end).max()
