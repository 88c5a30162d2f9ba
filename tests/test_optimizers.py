"""Optimisers: they find minima, and they survive what breaks others."""

import math

import pytest
import torch

from parallel_nst.optimizers import LARGEST_STEP, adam, lbfgs, make_optimizer, rms
from parallel_nst.recipe import Recipe

CENTRE = torch.linspace(0.2, 0.8, 60, dtype=torch.float64).view(1, 3, 4, 5)
CURVATURE = torch.logspace(-2, 2, 60, dtype=torch.float64).view(1, 3, 4, 5)


def quadratic(x):
    return float((CURVATURE * (x - CENTRE) ** 2).sum()) / 2, CURVATURE * (x - CENTRE)


def run(optimizer, function, image, steps):
    """Losses along the way and the last image."""
    state, losses = optimizer.init(image), []
    for _ in range(steps):
        loss, gradient = function(image)
        losses.append(loss)
        image, state = optimizer.step(state, image, loss, gradient)
    return losses, image


def test_lbfgs_minimises_an_ill_conditioned_quadratic():
    losses, _ = run(lbfgs(10), quadratic, torch.full_like(CENTRE, 0.5), 150)
    assert losses[-1] < 1e-5 * losses[0]


def test_lbfgs_beats_gradient_descent_by_using_curvature():
    with_pairs, _ = run(lbfgs(10), quadratic, torch.full_like(CENTRE, 0.5), 60)
    image, losses = torch.full_like(CENTRE, 0.5), []
    for _ in range(60):
        loss, gradient = quadratic(image)
        losses.append(loss)
        image = image - gradient / CURVATURE.max()
    assert min(with_pairs) < 0.2 * min(losses)


def test_the_first_move_is_visible_and_no_move_is_too_long():
    image = torch.full_like(CENTRE, 0.5)
    for scale in (1e-12, 1.0, 1e12):
        state = lbfgs(5).init(image)
        after, _ = lbfgs(5).step(state, image, 1.0, scale * torch.ones_like(image))
        assert 0.001 < rms(after - image) <= LARGEST_STEP * (1 + 1e-9)


@pytest.mark.parametrize("bad", [math.inf, math.nan, 1e6])
def test_a_failed_move_is_taken_back_and_shortened(bad):
    image = torch.full_like(CENTRE, 0.5)
    optimizer = lbfgs(5)
    first, state = optimizer.step(optimizer.init(image), image, *quadratic(image))
    second, state = optimizer.step(state, first, bad, torch.full_like(image, bad))
    assert rms(second - image) == pytest.approx(rms(first - image) / 4)
    third, state = optimizer.step(state, second, bad, torch.full_like(image, bad))
    assert rms(third - image) == pytest.approx(rms(first - image) / 16)
    assert torch.isfinite(third).all()


def test_it_goes_on_after_failures():
    fails = iter([False, False, True, True, True, True] + [False] * 300)

    def function(x):
        loss, gradient = quadratic(x)
        return (math.nan, gradient * math.nan) if next(fails) else (loss, gradient)

    losses, _ = run(lbfgs(10), function, torch.full_like(CENTRE, 0.5), 200)
    assert losses[-1] < 1e-4 * losses[0]


def test_pairs_without_positive_curvature_are_left_out():
    image = torch.full_like(CENTRE, 0.5)
    optimizer = lbfgs(5)
    first, state = optimizer.step(optimizer.init(image), image, 1.0, torch.ones_like(image))
    _, state = optimizer.step(state, first, 0.9, 2 * torch.ones_like(image))  # the gradient grew downhill: concave
    assert state.pairs == ()


def test_history_is_bounded():
    state, image = lbfgs(3).init(CENTRE), torch.full_like(CENTRE, 0.5)
    for _ in range(10):
        image, state = lbfgs(3).step(state, image, *quadratic(image))
    assert len(state.pairs) == 3


def test_steps_are_pure():
    image = torch.full_like(CENTRE, 0.5)
    for optimizer in (lbfgs(3), adam(0.02)):
        state = optimizer.init(image)
        loss, gradient = quadratic(image)
        before = image.clone(), gradient.clone()
        once, after = optimizer.step(state, image, loss, gradient)
        again, _ = optimizer.step(state, image, loss, gradient)
        optimizer.step(after, once, *quadratic(once))
        assert torch.equal(once, again)
        assert torch.equal(image, before[0]) and torch.equal(gradient, before[1])


def test_adam_minimises_and_stays_in_range():
    losses, image = run(adam(0.02), quadratic, torch.full_like(CENTRE, 0.5), 300)
    assert losses[-1] < 1e-3 * losses[0]
    _, image = run(adam(0.5), lambda x: (0.0, torch.ones_like(x)), torch.full_like(CENTRE, 0.5), 5)
    assert image.min() == 0


def test_adam_agrees_with_torch():
    ours = torch.full_like(CENTRE, 0.5)
    theirs = ours.clone().requires_grad_()
    reference = torch.optim.Adam([theirs], lr=0.01, betas=(0.9, 0.99))
    for _ in range(5):
        reference.zero_grad()
        theirs.grad = quadratic(theirs.detach())[1]
        reference.step()
    _, image = run(adam(0.01), quadratic, ours, 5)
    torch.testing.assert_close(image, theirs.detach(), rtol=1e-9, atol=1e-9)


def test_a_recipe_names_its_optimiser():
    image = torch.full_like(CENTRE, 0.5)
    assert hasattr(make_optimizer(Recipe(optimizer="lbfgs")).init(image), "pairs")
    assert hasattr(make_optimizer(Recipe(optimizer="adam")).init(image), "square")
