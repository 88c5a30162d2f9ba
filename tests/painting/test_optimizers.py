"""Optimisers: they find minima, they survive what breaks others, and they fit into the memory they promise."""

import math
import weakref
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save
from torch.nn.functional import interpolate
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from parallel_nst.painting.gatys import half_precision as vectors
from parallel_nst.painting.gatys.half_precision import rms, stored, wide
from parallel_nst.painting.gatys.optimizers import lbfgs as module
from parallel_nst.painting.gatys.optimizers.adam import adam
from parallel_nst.painting.gatys.optimizers.averaging import average_of, averaging
from parallel_nst.painting.gatys.optimizers.choice import make_optimizer
from parallel_nst.painting.gatys.optimizers.lbfgs import LARGEST_STEP, lbfgs
from parallel_nst.painting.gatys.optimizers.states import carry_state, pack, resize_state, unpack
from parallel_nst.painting.gatys.preconditioner import broadened
from parallel_nst.recipe import Recipe

CENTRE = torch.linspace(0.2, 0.8, 60, dtype=torch.float64).view(1, 3, 4, 5)
CURVATURE = torch.logspace(-2, 2, 60, dtype=torch.float64).view(1, 3, 4, 5)
GREY = torch.full_like(CENTRE, 0.5)


def quadratic(x):
    curvature, centre = CURVATURE.to(x.dtype), CENTRE.to(x.dtype)
    return float((curvature * (x - centre) ** 2).sum()) / 2, curvature * (x - centre)


def run(optimizer, function, image, steps, state=None):
    """Losses along the way, the last image and the state."""
    state, losses = state or optimizer.init(image), []
    for _ in range(steps):
        loss, gradient = function(image)
        losses.append(loss)
        image, state = optimizer.step(state, image, loss, gradient)
    return losses, image, state


def two_loops(pairs, gradient):
    """The recursion as the book has it, on whole vectors."""
    q, weights = gradient.clone(), []
    for s, y in reversed(pairs):
        weights.append((s * q).sum() / (s * y).sum())
        q -= weights[-1] * y
    s, y = pairs[-1]
    q *= (s * y).sum() / (y * y).sum()
    for (s, y), weight in zip(pairs, reversed(weights), strict=True):
        q += (weight - (y * q).sum() / (s * y).sum()) * s
    return q


def textbook(function, image, steps, history):
    """The images that L-BFGS with capped steps goes through on a function without jumps."""
    pairs, before, images = [], None, []
    for _ in range(steps):
        _, gradient = function(image)
        if before is None:
            move = -gradient * 0.02 / rms(gradient)
        else:
            pairs = [*pairs, (image - before[0], gradient - before[1])][-history:]
            move = -two_loops(pairs, gradient)
        before = image, gradient
        image = image + move * min(1, LARGEST_STEP / rms(move))
        images.append(image)
    return images


def test_lbfgs_minimises_an_ill_conditioned_quadratic():
    losses, *_ = run(lbfgs(10), quadratic, GREY, 150)
    assert losses[-1] < 1e-5 * losses[0]


@pytest.mark.parametrize("half", [True, False])
def test_lbfgs_minimises_in_float32(half):
    losses, *_ = run(lbfgs(6, half=half), quadratic, GREY.float(), 150)
    assert losses[-1] < 1e-4 * losses[0]


def test_lbfgs_beats_gradient_descent_by_using_curvature():
    with_pairs, *_ = run(lbfgs(10), quadratic, GREY, 60)
    image, losses = GREY, []
    for _ in range(60):
        loss, gradient = quadratic(image)
        losses.append(loss)
        image = image - gradient / CURVATURE.max()
    assert min(with_pairs) < 0.2 * min(losses)


def convex(x):
    """Smooth, without jumps, and not quadratic."""
    return float((CURVATURE * ((x - CENTRE).cosh() - 1)).sum()), CURVATURE * (x - CENTRE).sinh()


def test_lbfgs_is_the_textbooks(monkeypatch):
    monkeypatch.setattr(vectors, "CHUNK", 7)  # chunks that do not divide the image
    image, optimizer = GREY, lbfgs(4)
    state = optimizer.init(image)
    for expected in textbook(convex, image, 8, 4):
        image, state = optimizer.step(state, image, *convex(image))
        torch.testing.assert_close(image, expected, rtol=0, atol=1e-8)


def test_half_precision_pairs_hardly_change_the_way():
    ends = [run(lbfgs(5, half=half), quadratic, GREY.float(), 6)[1] for half in (True, False)]
    assert 0 < rms(ends[0] - ends[1]) < 0.01 * rms(ends[1] - GREY.float())


@pytest.mark.parametrize("scale", [1e-20, 1e-9, 1.0, 1e9])
def test_half_precision_keeps_three_digits_over_eight_decades(scale):
    values = scale * torch.logspace(-8, 0, 99).view(1, 3, 3, 11)
    torch.testing.assert_close(stored(values.clone(), torch.float16).real(), values, rtol=2**-11, atol=0)


def test_products_are_those_of_the_stored_pairs(monkeypatch):
    monkeypatch.setattr(vectors, "CHUNK", 7)
    _, _, state = run(lbfgs(3), quadratic, GREY.float(), 9)
    rows = torch.stack([v.real().double().reshape(-1) for pair in state.pairs for v in pair])
    assert len(rows) == 6
    torch.testing.assert_close(state.products, rows @ rows.T, rtol=1e-5, atol=1e-12)


def test_the_first_move_is_visible_and_no_move_is_too_long():
    for scale in (1e-12, 1.0, 1e12):
        after, _ = lbfgs(5).step(lbfgs(5).init(GREY), GREY, 1.0, scale * torch.ones_like(GREY))
        assert 0.001 < rms(after - GREY) <= LARGEST_STEP * (1 + 1e-9)
    image, state = GREY, lbfgs(5).init(GREY)
    for _ in range(4):  # the curvature asks for moves a thousand times too long
        before = image
        image, state = lbfgs(5).step(state, image, 1.0, 1 + 1e-3 * (image - 0.5))
    assert rms(image - before) == pytest.approx(LARGEST_STEP)


class Watched(vectors.Undivided):
    """What is agreed on is another process' tensor, which may only be read."""

    def __init__(self):
        self.handed = []

    def agreed(self, values):
        self.handed.append((values, values.clone()))
        return values


def test_a_move_that_is_shortened_leaves_what_was_agreed_on_as_it_is():
    """Ranks that are threads share it: each would shorten the others' move once more."""
    spread, image = Watched(), GREY
    optimizer = lbfgs(5, spread=spread)
    state = optimizer.init(image)
    for _ in range(4):
        before = image
        image, state = optimizer.step(state, image, 1.0, 1 + 1e-3 * (image - 0.5))
    assert rms(image - before) == pytest.approx(LARGEST_STEP)
    assert len(spread.handed) == 4
    assert all(torch.equal(values, was) or values.isnan().any() for values, was in spread.handed)


@pytest.mark.parametrize("bad", [math.inf, math.nan, 1e6])
def test_a_failed_move_is_taken_back_and_shortened(bad):
    optimizer = lbfgs(5)
    first, state = optimizer.step(optimizer.init(GREY), GREY, *quadratic(GREY))
    second, state = optimizer.step(state, first, bad, torch.full_like(GREY, bad))
    assert rms(second - GREY) == pytest.approx(rms(first - GREY) / 4)
    third, state = optimizer.step(state, second, bad, torch.full_like(GREY, bad))
    assert rms(third - GREY) == pytest.approx(rms(first - GREY) / 16)
    assert torch.isfinite(third).all()


def test_a_gradient_that_is_not_finite_is_a_failed_move():
    optimizer = lbfgs(5)
    first, state = optimizer.step(optimizer.init(GREY), GREY, *quadratic(GREY))
    spoilt = torch.zeros_like(GREY).index_fill_(3, torch.tensor(2), math.nan)
    second, _ = optimizer.step(state, first, 0.0, spoilt)
    assert rms(second - GREY) == pytest.approx(rms(first - GREY) / 4)


def test_after_repeated_failures_it_goes_down_the_gradient_without_pairs():
    optimizer = lbfgs(5)
    _, image, state = run(optimizer, quadratic, GREY, 5)
    accepted = state.accepted.image
    for _ in range(module.FORGET):
        image, state = optimizer.step(state, image, math.nan, torch.zeros_like(GREY))
    _, gradient = quadratic(accepted)
    assert state.pairs == () and torch.equal(state.accepted.image, accepted)
    torch.testing.assert_close(image - accepted, -gradient * rms(image - accepted) / rms(gradient))


def test_it_goes_on_after_failures():
    fails = iter([True, False, False, True, True, True, True] + [False] * 300)

    def function(x):
        loss, gradient = quadratic(x)
        return (math.nan, gradient * math.nan) if next(fails) else (loss, gradient)

    losses, *_ = run(lbfgs(10), function, GREY, 200)
    assert losses[-1] < 1e-4 * losses[1]


def test_pairs_without_positive_curvature_are_left_out():
    optimizer = lbfgs(5)
    first, state = optimizer.step(optimizer.init(GREY), GREY, 1.0, torch.ones_like(GREY))
    _, state = optimizer.step(state, first, 0.9, 2 * torch.ones_like(GREY))  # the gradient grew downhill: concave
    assert state.pairs == ()


def test_pairs_that_do_not_lead_down_are_dropped():
    _, image, state = run(lbfgs(5), quadratic, GREY, 6)
    s, y = state.pairs[-1]
    gradient = quadratic(image)[1]
    sg, yg, gg = ((a * gradient).sum() for a in (s.real(), y.real(), gradient))
    products = torch.tensor([[1, sg * yg / gg / 2], [sg * yg / gg / 2, 1e-12]], dtype=torch.float64)
    lying = replace(forgetful(state), pairs=((s, y),), products=products)
    after, told = lbfgs(5).step(lying, image, 1.0, gradient.clone())
    assert float(((after - image) * gradient).sum()) < 0
    assert told.pairs == ()


@pytest.mark.parametrize("half", [True, False])
def test_history_is_bounded(half):
    *_, state = run(lbfgs(3, half=half), quadratic, GREY.float(), 10)
    assert len(state.pairs) == 3
    assert {v.values.dtype for pair in state.pairs for v in pair} == {torch.float16 if half else torch.float32}


@pytest.mark.parametrize("optimizer", [lbfgs(3), adam(0.02), averaging(lbfgs(3), 0.9)])
def test_steps_repeat_and_leave_the_image_alone(optimizer):
    images = [[], []]
    for way in images:
        image, state = GREY.float(), optimizer.init(GREY.float())
        for _ in range(9):
            before = image.clone()
            following, state = optimizer.step(state, image, *quadratic(image))
            assert torch.equal(image, before)
            image = following
            way.append(image)
            assert image.is_contiguous()
    # each image is compared after all steps are done: one that the caller keeps is not overwritten by a later step
    assert all(torch.equal(*pair) for pair in zip(*[[i.clone() for i in way[-2:]] for way in images], strict=True))


@pytest.mark.parametrize("optimizer", [lbfgs(3), adam(0.02), averaging(lbfgs(3), 0.9)])
def test_the_order_of_strides_does_not_matter(optimizer):
    def strided(x):
        loss, gradient = quadratic(x)
        return loss, gradient.contiguous(memory_format=torch.channels_last)

    other = GREY.contiguous(memory_format=torch.channels_last)
    assert torch.equal(run(optimizer, quadratic, GREY, 6)[1], run(optimizer, strided, other, 6)[1])


class Peak(TorchDispatchMode):
    """The most bytes that were alive at once in the tensors given and in all that operations returned."""

    def __init__(self, tensors):
        super().__init__()
        self.seen, self.most = [weakref.ref(tensor) for tensor in tensors], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.seen += [weakref.ref(leaf) for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        alive = [tensor for tensor in (seen() for seen in self.seen) if tensor is not None]
        storages = {s.data_ptr(): s.nbytes() for s in (tensor.untyped_storage() for tensor in alive)}
        self.most = max(self.most, sum(storages.values()))
        self.seen = [weakref.ref(tensor) for tensor in alive]
        return result


def most_copies(optimizer, steps, bad=()):
    """The most copies of the image alive during steps, the caller's image and gradient with them."""
    image = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    weights, state, most, copy = torch.rand_like(image), optimizer.init(image), 0, image.nbytes
    for step in range(steps):
        loss, gradient = (math.nan, image - image) if step in bad else (step**-1.0 if step else 2.0, weights * image)
        alive = [t for t in (image, gradient, *pack(state).values()) if t.numel() > 100]
        with Peak(alive) as peak:
            image, state = optimizer.step(state, image, loss, gradient)
        del gradient, alive
        most = max(most, peak.most)
    return most / copy


@pytest.mark.parametrize(
    ("optimizer", "copies"),
    [
        (lbfgs(3), 3 + 4.5),
        (lbfgs(6), 6 + 4.5),
        (lbfgs(3, half=False), 6 + 5),
        (adam(0.02), 3.5),
        (lbfgs(3, through=broadened), 3 + 5),
        (adam(0.02, through=broadened), 4),
        (averaging(lbfgs(3), 0.9), 3 + 5.5),
    ],
)
def test_a_step_needs_no_more_memory_than_it_says(optimizer, copies, monkeypatch):
    monkeypatch.setattr(vectors, "CHUNK", 128)
    assert copies - 0.1 < most_copies(optimizer, 9) < copies + 0.25
    assert most_copies(optimizer, 9, bad=(2, 5, 6, 7)) < copies + 0.25


def doubled(x):
    return interpolate(x, scale_factor=2, mode="bicubic", align_corners=False)


def smooth(height, width, dtype=torch.float32):
    """A picture with low frequencies only, the same at every scale."""
    rows, columns = ((torch.arange(n, dtype=dtype) + 0.5) / n for n in (height, width))
    waves = [torch.outer((k * rows).sin(), (k * columns + k).cos()) for k in (1.0, 2.0, 3.0)]
    return 0.5 + 0.3 * torch.stack(waves)[None]


def mean_loss(x):
    """A mean over pixels whose curvature varies over the picture."""
    weights = 0.1 + smooth(*x.shape[-2:], x.dtype) ** 8 * 20
    away = x - smooth(*x.shape[-2:], x.dtype).flip(1)
    return float((weights * away**2).mean()) / 2, weights * away / x.numel()


def enlarged(state, resize=doubled):
    """The state for an image of twice the size."""
    packed = pack(state)
    return resize_state(packed, lambda name: resize(wide(packed[name])).contiguous(), 1 / 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lbfgs_carries_its_curvature_to_another_scale(dtype):
    """Where the function is the same at both scales, so is the next move."""
    _, image, state = run(lbfgs(5), mean_loss, torch.full((1, 3, 24, 32), 0.5, dtype=dtype), 8)
    larger = enlarged(state)
    assert larger.accepted is None and len(larger.pairs) == len(state.pairs)
    rows = torch.stack([v.real().double().reshape(-1) for pair in larger.pairs for v in pair])
    torch.testing.assert_close(larger.products, rows @ rows.T, rtol=1e-4, atol=1e-12)
    start = doubled(image)
    carried, _ = lbfgs(5).step(larger, start, *mean_loss(start))
    expected = doubled(lbfgs(5).step(forgetful(state), image, *mean_loss(image))[0])
    assert rms(carried - expected) < 0.1 * rms(carried - start)


def test_lbfgs_drops_pairs_that_resizing_breaks():
    *_, state = run(lbfgs(5), mean_loss, torch.full((1, 3, 24, 32), 0.5), 8)
    flipped = iter([1, -1] * 5)  # of each pair, s as it is and y the other way round
    broken = enlarged(state, lambda x: doubled(x) * next(flipped))
    assert len(broken.pairs) < len(state.pairs) and len(broken.products) == 2 * len(broken.pairs)
    start = torch.full((1, 3, 48, 64), 0.5)
    assert torch.isfinite(lbfgs(5).step(broken, start, *mean_loss(start))[0]).all()


def test_adam_carries_its_means_to_another_scale():
    """Where the function is the same at both scales, so is the next move."""
    _, image, state = run(adam(0.01), mean_loss, torch.full((1, 3, 24, 32), 0.5), 8)
    larger, start = enlarged(state), doubled(image)
    assert larger.steps == 8 and larger.square.min() >= 0
    carried, _ = adam(0.01).step(larger, start, *mean_loss(start))
    expected = doubled(adam(0.01).step(state, image, *mean_loss(image))[0])
    assert rms(carried - expected) < 0.2 * rms(carried - start)


def test_a_changed_objective_is_a_jump_only_beyond_what_it_is_held_against():
    """After `carry_state` the losses of the objective before do not count, and the pairs still serve."""
    _, image, state = run(lbfgs(5), quadratic, GREY, 4)
    loss, gradient = quadratic(image)
    for held, failures in ((1000 * loss, 0), (900 * loss, 0), (800 * loss, 1)):
        carried = carry_state(state, held)
        _, told = lbfgs(5).step(unpack(cloned(pack(carried))), image, 1000 * loss, gradient.clone())
        assert told.failures == failures and len(told.pairs) == len(state.pairs) + 1 - failures
        assert told.accepted.loss == (held if failures else 1000 * loss)
    adams = adam(0.1).init(GREY)
    assert carry_state(adams, 1.0) is adams


def cloned(tensors):
    return {name: value.clone() for name, value in tensors.items()}


def forgetful(state):
    """The same pairs, and no point that has been seen."""
    return replace(state, accepted=None, failures=0)


@pytest.mark.parametrize("optimizer", [lbfgs(3), adam(0.02), lbfgs(3, through=broadened), averaging(lbfgs(3), 0.9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_a_packed_state_goes_on_to_the_bit(optimizer, dtype, steps):
    _, image, state = run(optimizer, quadratic, GREY.to(dtype), steps)
    file = save(pack(state))
    again = unpack(load(file))
    assert save(pack(again)) == file
    ours, state = optimizer.step(state, image.clone(), *quadratic(image))
    theirs, again = optimizer.step(again, image.clone(), *quadratic(image))
    assert torch.equal(ours, theirs)
    assert save(pack(again)) == save(pack(state))


def test_what_is_no_state_is_refused():
    with pytest.raises(ValueError, match="'kind' is missing"):
        unpack({"image": GREY})
    *_, state = run(lbfgs(3), quadratic, GREY, 5)
    with pytest.raises(ValueError, match="'y0' is missing"):
        unpack({name: tensor for name, tensor in pack(state).items() if name != "y0"})


def test_adam_minimises_and_stays_in_range():
    losses, image, _ = run(adam(0.02), quadratic, GREY, 300)
    assert losses[-1] < 1e-3 * losses[0]
    _, image, _ = run(adam(0.5), lambda x: (0.0, torch.ones_like(x)), GREY, 5)
    assert image.min() == 0


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
def test_adam_agrees_with_torch(dtype, tolerance):
    ours = GREY.to(dtype)
    theirs = ours.clone().requires_grad_()
    reference = torch.optim.Adam([theirs], lr=0.01, betas=(0.9, 0.99))
    for _ in range(5):
        reference.zero_grad()
        theirs.grad = quadratic(theirs.detach())[1]
        reference.step()
    _, image, _ = run(adam(0.01), quadratic, ours, 5)
    torch.testing.assert_close(image, theirs.detach(), rtol=0, atol=tolerance)


def test_adam_survives_a_gradient_that_is_not_finite():
    fails = iter([False, False, True, True] + [False] * 300)

    def function(x):
        loss, gradient = quadratic(x)
        return (math.nan, gradient * math.inf) if next(fails) else (loss, gradient)

    losses, *_ = run(adam(0.02), function, GREY, 300)
    assert losses[-1] < 1e-3 * losses[0]


def test_a_recipe_names_its_optimiser():
    assert hasattr(make_optimizer(Recipe(optimizer="lbfgs")).init(GREY), "pairs")
    assert hasattr(make_optimizer(Recipe(optimizer="adam")).init(GREY), "square")


# The mean of the pictures on the way


def test_the_mean_is_that_of_the_images_after_each_step_without_bias():
    decay, image, weights, images = 0.8, GREY, [], []
    optimizer = averaging(adam(0.05), decay)
    state = optimizer.init(image)
    for _ in range(7):
        image, state = optimizer.step(state, image, *quadratic(image))
        weights = [weight * decay for weight in weights] + [1 - decay]
        images.append(image.clone())
        mean = sum(w * x for w, x in zip(weights, images, strict=True)) / sum(weights)
        torch.testing.assert_close(average_of(state), mean)
    plain, ours = run(adam(0.05), quadratic, GREY, 7)[1], image
    assert torch.equal(ours, plain)  # the steps themselves are the same


def test_the_mean_is_free_of_what_steps_swing_by():
    _, image, state = run(averaging(adam(0.1), 0.98), quadratic, GREY, 400)
    assert quadratic(average_of(state))[0] < quadratic(image)[0] or torch.equal(average_of(state), image)


def test_a_scale_begins_a_mean_of_its_own():
    *_, state = run(averaging(lbfgs(3), 0.9), mean_loss, torch.full((1, 3, 8, 8), 0.5), 5)
    carried = enlarged(state)
    assert average_of(carried) is None
    image = torch.full((1, 3, 16, 16), 0.5)
    following, after = averaging(lbfgs(3), 0.9).step(carried, image, *mean_loss(image))
    torch.testing.assert_close(average_of(after), following)


def test_an_exchange_keeps_the_mean():
    *_, state = run(averaging(lbfgs(3), 0.9), quadratic, GREY, 5)
    kept = carry_state(state, 3.0)
    assert kept.inner.accepted.loss == 3.0 and torch.equal(average_of(kept), average_of(state))


def test_the_step_size_of_adam_falls():
    plain, falling = adam(0.02), adam(0.02, fall=0.5)
    state = replace(plain.init(GREY), steps=200)
    moves = []
    for optimizer in (plain, falling):
        again = unpack(cloned(pack(state)))
        moves.append(optimizer.step(again, GREY, *quadratic(GREY))[0] - GREY)
    torch.testing.assert_close(moves[1], moves[0] / 4)
