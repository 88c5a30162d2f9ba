"""Generators at work: what is prepared computes the same, and what is cut into tiles to fit a memory is not changed."""

from pathlib import Path

import pytest
import torch
from torch import nn

from parallel_nst.networks.convolutions import Conv2d
from parallel_nst.networks.generators.cyclegan import DnCNN, ResNetGenerator
from parallel_nst.networks.generators.files import read_generator
from parallel_nst.networks.generators.microast import MicroAST
from parallel_nst.networks.generators.transformer import FORMS, TransformerNet, VGGDecoder
from parallel_nst.networks.moments import moments_of, rescaled, worst_gap
from parallel_nst.painting.generators import runs as generator_runs
from parallel_nst.painting.generators.runs import (
    ENOUGH,
    GeneratorTiling,
    chosen_dtype,
    chosen_tiling,
    costs_of,
    peak_bytes,
    photograph,
    prepare,
    stylise,
)
from parallel_nst.painting.generators.tiles import generate_watched, plan_pieces, thumbnail_statistics
from parallel_nst.painting.planning.profile import LiveBytes

CHECKPOINTS = Path(__file__).parents[3] / "shared" / "data" / "checkpoints"
GIB = 1 << 30
ROUNDING = 1e-10
NARROW = {
    **{form: lambda form=form: TransformerNet(form, (4, 5, 6), 1) for form in FORMS},
    "batched": lambda: TransformerNet("transformer-net", (4, 5, 6), 1, "batch"),
    "batched-aonet": lambda: TransformerNet("aonet", (4, 5, 6), 1, "batch"),
    "cyclegan-resnet": lambda: ResNetGenerator(4, 2),
    "batched-resnet": lambda: ResNetGenerator(4, 2, "batch"),
    "dncnn": lambda: DnCNN(2, 5),
    "vgg-decoder": lambda: VGGDecoder((4, 0, 6, 0, 8, -1, 8, -1)),
    "microast": lambda: MicroAST((4, 8, 16)),
}
OF_PIECES = ("transformer-net", "fast-style-transfer", "cyclegan-resnet", "vgg-decoder", "microast")


def narrow(name):
    """A small generator with drawn weights and, where it has any, drawn running statistics."""
    torch.manual_seed(0)
    generator = NARROW[name]().eval().requires_grad_(False)
    for module in generator.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.uniform_(0.5, 2)
            module.bias.normal_()
    return generator


def exactly(name):
    """One that is prepared, in double precision: nothing in stylising depends on which."""
    return prepare(narrow(name)).double()


def picture(height, width, count=1, dtype=torch.float64):
    torch.manual_seed(1)
    coarse = torch.rand(count, 3, 3, 3, dtype=dtype)
    smooth = nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    return 0.8 * smooth + 0.2 * torch.rand(count, 3, height, width, dtype=dtype)


def style_for(generator, dtype=torch.float64):
    return generator.encode_style(picture(48, 40, dtype=dtype)) if generator.takes_style else None


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 70), (41, 38)])
def test_a_prepared_generator_makes_the_same_pictures(name, height, width):
    generator, content = narrow(name).double(), picture(height, width, 2)
    style, ready = style_for(generator), exactly(name)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in ready.modules())
    plain = generator(content, style)  # while gradients may be recorded, nothing is done in strips or in place
    made, same = stylise(ready, content, style, memory=GIB).output, narrow(name).double()
    with torch.no_grad():
        again = same(content, style)
    assert made.shape == plain.shape and made.isfinite().all()
    if height > 1:  # what a flat picture is normalised by is rounding alone
        assert (made - plain).abs().max() < 1e-6  # of merging in float32
        assert (again - plain).abs().max() < ROUNDING


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("rows", [1, 40, 90])
def test_a_convolution_in_strips_is_the_convolution(kernel, padding, rows, monkeypatch):
    monkeypatch.setattr("parallel_nst.networks.convolutions.STRIP", 100)
    for outputs in (3, 6):
        conv = Conv2d(5, outputs, kernel, padding=padding, bias=outputs == 3).double().requires_grad_(False)
        x = torch.rand(2, 5, rows + kernel, 11, dtype=torch.float64)
        plain = conv(x)
        for layout in (torch.contiguous_format, torch.channels_last):
            conv = conv.to(memory_format=layout)
            conv.gives = torch.float64
            with torch.no_grad():
                assert torch.allclose(conv(x.contiguous(memory_format=layout)), plain)
                conv.gives = torch.float32
                narrowed = conv(x.contiguous(memory_format=layout))
        assert narrowed.dtype == torch.float32 and torch.allclose(narrowed.double(), plain, atol=1e-5)


def test_moments_of_blocks_are_those_of_the_whole(monkeypatch):
    x = picture(50, 30, 2) * 3 + 100
    whole = moments_of(x)
    monkeypatch.setattr("parallel_nst.networks.moments.IN_CACHE", 7 * 2 * 3 * 30)
    with torch.no_grad():
        assert worst_gap([whole], [moments_of(x)]) < ROUNDING
        assert worst_gap([whole], [moments_of(x.contiguous(memory_format=torch.channels_last))]) < ROUNDING
        gain, shift = torch.rand(2, 2, 3, dtype=torch.float64)
        wanted = x * gain[..., None, None] + shift[..., None, None]
        half = rescaled(x.bfloat16(), gain, shift)
        assert half.dtype == torch.bfloat16 and torch.allclose(half.double(), wanted, rtol=1e-2, atol=0.1)
        assert torch.allclose(rescaled(x, gain, shift), wanted)


@pytest.mark.parametrize("name", NARROW)
def test_between_the_first_and_the_last_convolution_all_is_in_bfloat16(name):
    generator, seen = prepare(narrow(name), dtype="bfloat16"), []
    chain = list(generator_runs.leaves(generator.layers()))
    for layer in chain:
        layer.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    run = generator.start(generator.extend(picture(20, 20, dtype=torch.float32)), style_for(generator, torch.float32))
    while run.waiting is not None:
        moments = moments_of(run.waiting)
        assert moments.mean.dtype == torch.float32
        run.advance(moments)
    assert run.result.dtype == torch.float32
    first = next(n for n, pair in enumerate(seen) if pair == (torch.float32, torch.bfloat16))
    last = next(n for n, pair in enumerate(seen) if pair == (torch.bfloat16, torch.float32))
    assert all(pair == (torch.bfloat16, torch.bfloat16) for pair in seen[first + 1 : last])
    assert last - first > 2 and last >= len(seen) - 4


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layout_is_kept_all_the_way(name, dtype):
    generator = prepare(narrow(name), dtype=dtype)
    outputs = []
    for layer in generator_runs.leaves(generator.layers()):
        layer.register_forward_hook(lambda _, __, output: outputs.append(output))
    with torch.no_grad():
        generator(picture(40, 40, dtype=torch.float32), style_for(generator, torch.float32))
    wide = [output for output in outputs if output.shape[1] > 3]
    assert wide and all(output.is_contiguous(memory_format=torch.channels_last) for output in wide)


def test_preparing_leaves_the_generator_alone_and_can_be_undone():
    generator, content = narrow("batched"), picture(20, 20, dtype=torch.float32)
    before = generator(content)
    rough = prepare(generator, dtype="bfloat16")
    assert torch.equal(generator(content), before)
    assert prepare(rough)(content).dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in prepare(rough).parameters())
    with pytest.raises(ValueError, match="dtype float16 is not one that generators run in"):
        prepare(generator, dtype="float16")


@pytest.mark.parametrize("path", ["la_muse.npz", "rain_princess.npz", "udnie.npz", "wave.npz"])
def test_bfloat16_is_within_a_grey_level_for_real_weights(path):
    if not (CHECKPOINTS / path).exists():
        pytest.skip("public checkpoints are not here")
    generator, _ = read_generator(CHECKPOINTS / path)
    content = photograph()[..., 64:192, 64:192]
    with torch.no_grad():
        exact, rough = (prepare(generator, dtype=dtype)(content) for dtype in ("float32", "bfloat16"))
    assert 0 < (exact - rough).abs().mean() <= ENOUGH


@pytest.mark.parametrize(("path", "dtype"), [("udnie.npz", "bfloat16"), ("rain_princess.npz", "float32")])
def test_real_weights_that_bfloat16_changes_in_a_sky_stay_in_float32(path, dtype):
    if not (CHECKPOINTS / path).exists():
        pytest.skip("public checkpoints are not here")
    generator, _ = read_generator(CHECKPOINTS / path)
    assert chosen_dtype(generator, native=True) == dtype


def test_a_generator_that_bfloat16_changes_visibly_stays_in_float32():
    """MicroAST multiplies its features by the style's deviations and so their rounding too: two to four levels."""
    if not (CHECKPOINTS / "microast").exists():
        pytest.skip("public checkpoints are not here")
    generator, _ = read_generator(CHECKPOINTS / "microast")
    assert chosen_dtype(generator, True, generator.encode_style(photograph().flip(-1))) == "float32"


def test_bfloat16_is_chosen_only_where_it_is_native_and_near(monkeypatch):
    generator = narrow("dncnn")
    assert chosen_dtype(generator, native=False) == "float32"
    assert chosen_dtype(generator, native=True) == "bfloat16"
    microast = narrow("microast")
    assert chosen_dtype(microast, True, style_for(microast, torch.float32)) in ("float32", "bfloat16")
    monkeypatch.setattr(generator_runs, "ENOUGH", 0.0)
    assert chosen_dtype(generator, native=True) == "float32"


@pytest.mark.parametrize("name", OF_PIECES)
@pytest.mark.parametrize("hold", [True, False])
def test_exact_tiles_equal_the_untiled_pictures(name, hold, monkeypatch):
    generator, content = exactly(name), picture(131, 101, 2)
    style = style_for(generator)
    tiling = GeneratorTiling(plan_pieces(generator, 131, 101, 44), 0, 1, hold)
    assert len(tiling.tiles) > 5
    monkeypatch.setattr(generator_runs, "chosen_tiling", lambda *_: tiling)
    made = stylise(generator, content, style, memory=0)
    assert (made.tiles, made.gap) == (len(tiling.tiles), None)
    assert (made.output - stylise(generator, content, style, memory=GIB).output).abs().max() < ROUNDING


@pytest.mark.parametrize("name", ["dncnn", "batched", "batched-resnet"])
@pytest.mark.parametrize("statistics", ["exact", "thumbnail"])
def test_without_statistics_to_measure_tiles_are_exact_in_one_pass(name, statistics, monkeypatch):
    generator, content = exactly(name), picture(131, 101)
    assert costs_of(generator).stops == 0
    monkeypatch.setattr(
        generator_runs, "chosen_tiling", lambda *_: GeneratorTiling(plan_pieces(generator, 131, 101, 44), 0, 1)
    )
    made = stylise(generator, content, memory=0, statistics=statistics)
    assert made.tiles > 5 and made.gap is None
    assert (made.output - stylise(generator, content, memory=GIB).output).abs().max() < ROUNDING


@pytest.mark.parametrize("name", OF_PIECES)
def test_the_gap_is_none_for_a_thumbnail_that_is_not_reduced(name):
    generator, content = exactly(name), picture(90, 101)
    style, tiles = style_for(generator), plan_pieces(generator, 90, 101, 44)
    for side, least, most in ((101, 0, ROUNDING), (30, 1e-3, 10)):
        given = thumbnail_statistics(generator, content, side, style)
        output, met = generate_watched(generator, content, tiles, given, style)
        assert least <= worst_gap(met, given) <= most
    assert output.shape == content.shape


def test_a_thumbnail_of_a_larger_picture_says_its_gap(monkeypatch):
    monkeypatch.setattr(generator_runs, "SPARE", 0)
    monkeypatch.setattr(generator_runs, "THUMBNAIL", 64)
    generator, content = exactly("transformer-net"), picture(300, 200)
    least = min(tiling.memory for tiling in generator_runs.tilings(generator, 300, 200, 1, "thumbnail"))
    made = stylise(generator, content, memory=least, statistics="thumbnail")
    whole = stylise(generator, content, memory=GIB, statistics="thumbnail")
    assert made.tiles > 1 and made.gap > 0 and (whole.tiles, whole.gap) == (1, None)
    assert 0 < (made.output - whole.output).abs().mean() < 0.1


def test_the_way_of_tiling_follows_from_the_memory(monkeypatch):
    monkeypatch.setattr(generator_runs, "SPARE", 0)
    generator = exactly("transformer-net")
    whole = peak_bytes(generator, 800, 600)
    least = min(tiling.memory for tiling in generator_runs.tilings(generator, 800, 600, 1, "exact"))
    budgets = [whole * 9 // 10, whole * 6 // 10, least]
    chosen = [chosen_tiling(generator, 800, 600, budget) for budget in budgets]
    assert all(tiling.memory <= budget for tiling, budget in zip(chosen, budgets, strict=True))
    assert chosen[0].hold and not chosen[-1].hold
    works = [tiling.work for tiling in chosen]
    assert works == sorted(works)
    with pytest.raises(ValueError, match=r"a picture of 800 x 9000 px needs \d+ MiB of memory in its smallest tiles"):
        chosen_tiling(generator, 9000, 800, 1 << 20)


@pytest.mark.parametrize("name", ["transformer-net", "fast-style-transfer", "dncnn", "vgg-decoder", "microast"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_is_counted_as_it_is_used(name, dtype, monkeypatch):
    """But for what does not grow with a picture: blocks, strips and spare."""
    for where in ("painting.generators.runs.SPARE", "networks.convolutions.STRIP", "networks.moments.IN_CACHE"):
        monkeypatch.setattr(f"parallel_nst.{where}", 1 << 13)
    generator = prepare(narrow(name), dtype=dtype)
    content = picture(331, 270, dtype=torch.float32)
    style = style_for(generator, torch.float32)
    with torch.no_grad(), LiveBytes() as live:
        generator(content, style)
    assert 0.9 < peak_bytes(generator, 331, 270) / live.most < 1.4
    assert peak_bytes(generator, 331, 270) == peak_bytes(narrow(name), 331, 270, dtype)


def test_memory_grows_with_the_picture_and_shrinks_with_precision():
    generator = TransformerNet()
    sizes = [peak_bytes(generator, side, side, "float32") for side in (1, 64, 65, 500, 4000)]
    assert sizes == sorted(sizes) and len(set(sizes)) > 3
    assert peak_bytes(generator, 1000, 1000, "bfloat16") < 0.7 * peak_bytes(generator, 1000, 1000, "float32")
    assert peak_bytes(generator, 500, 500, "float32", 4) == pytest.approx(peak_bytes(generator, 1000, 1000, "float32"))
