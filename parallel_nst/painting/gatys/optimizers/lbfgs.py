"""L-BFGS in the memory of a few half-precision pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from parallel_nst.painting.gatys.half_precision import (
    UNDIVIDED,
    Spread,
    Vector,
    chunks,
    combine,
    difference,
    extended,
    halved,
    peak,
    rms,
    rounded,
    wide,
)
from parallel_nst.painting.gatys.optimizers.base import Optimizer
from parallel_nst.painting.gatys.preconditioner import Filter, unchanged

FIRST_STEP = 0.02  # root mean square of the first move, in units of the pixel range
LARGEST_STEP = 0.1  # root mean square above which a move is shortened
JUMP = 0.2  # relative growth of the loss that counts as a failed move
SHORTEN = -2  # a failed move is tried again at this power of two of its length
FORGET = 3  # failures in a row after which the curvature pairs are dropped


class Point(NamedTuple):
    """An image that has been evaluated; the gradient is that of z."""

    image: Tensor
    gradient: Tensor
    loss: float


@dataclass(frozen=True, eq=False)
class LBFGSState:
    """The last accepted point and the move from there that is to be judged (none at first), and the curvature pairs
    (s, y), oldest first.

    products: inner products of s0, y0, s1, y1, ..., as stored, (2 pairs, 2 pairs) float64.

    Memory: 2.5 P, and 1 P for each pair (3 P and 2 P in full precision). With the image and the gradient that the
    caller gives, `step` needs pairs + 4.5 P at most (5 P), and what the filter takes; of these the accepted image is
    usually the caller's best.
    """

    accepted: Point | None = None
    move: Vector | None = None
    failures: int = 0
    pairs: tuple[tuple[Vector, Vector], ...] = ()
    products: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))

    @property
    def vectors(self) -> list[Vector]:
        """s0, y0, s1, y1, ..."""
        return [vector for pair in self.pairs for vector in pair]


def lbfgs(history: int, *, half: bool = True, spread: Spread = UNDIVIDED, through: Filter = unchanged) -> Optimizer:
    """L-BFGS (Liu and Nocedal 1989) without line search, vector-free (Chen, Wang and Zhou, Large-scale L-BFGS using
    MapReduce, 2014): the two-loop recursion runs on coefficients, from inner products alone.

    half: keep the vectors of a float32 image in half precision; those of a float64 image keep all their digits.

    Four safeguards take the place of the search. The first move has the size of a visible change, where 1 / |g|_1
    would take many evaluations to reach one. A pair whose curvature is not clearly positive is left out. A move is
    never longer than LARGEST_STEP. When the loss jumps, or it or the gradient is not finite, the step goes back and
    tries a shorter move.
    """

    def step(state: LBFGSState, image: Tensor, loss: float, gradient: Tensor) -> tuple[Tensor, LBFGSState]:
        gradient, last = gradient.contiguous(), state.accepted
        finite = math.isfinite(loss) and math.isfinite(peak(gradient, spread))
        if last is None or state.move is None:
            return begin(state, Point(image.contiguous(), gradient, loss)) if finite else (image, state)
        if not (finite and loss <= last.loss + JUMP * abs(last.loss)):
            return retreat(state, last, state.move, gradient, through, spread)
        point = Point(image.contiguous(), through(gradient), loss)
        state, spare = learn(state, last, state.move, point, history, spread)
        return advance(state, point, last.gradient, spare, through, spread)

    def begin(state: LBFGSState, point: Point) -> tuple[Tensor, LBFGSState]:
        """From the first point that is evaluated."""
        precision = halved(point.image.dtype) if half else point.image.dtype
        buffer, spare = (torch.empty_like(point.image, dtype=dtype) for dtype in (None, precision))
        return advance(state, point._replace(gradient=through(point.gradient)), buffer, spare, through, spread)

    return Optimizer(init=lambda image: LBFGSState(), step=step)


def learn(
    state: LBFGSState, last: Point, move: Vector, point: Point, history: int, spread: Spread
) -> tuple[LBFGSState, Tensor]:
    """Add the pair of a move and what the gradient has changed by, if it is curved; with a full history, in the memory
    of the oldest. Also returns memory for the next move."""
    products, steepest = survey(move, last.gradient, point.gradient, spread)
    if not curved(products):
        return state, move.values
    if len(state.pairs) < history:
        spare, y = (torch.empty_like(move.values) for _ in range(2))
    else:
        spare, y = (vector.values for vector in state.pairs[0])
        state = replace(state, pairs=state.pairs[1:], products=state.products[2:, 2:])
    pair = move, difference(point.gradient, last.gradient, steepest, y)
    return replace(state, pairs=(*state.pairs, pair)), spare


def advance(
    state: LBFGSState, point: Point, buffer: Tensor, spare: Tensor, through: Filter, spread: Spread
) -> tuple[Tensor, LBFGSState]:
    """Accept a point and leave it, along the inverse Hessian if there are pairs, no further than LARGEST_STEP.

    buffer, spare: memory for the next image, and for the move.
    """
    gradient, elements = Vector(point.gradient), spread.elements(point.image.numel())
    state, products = with_curvature(state, extended(state.products, [*state.vectors, gradient], spread))
    ways = spread.agreed(-inverse_hessian(products))
    if not products[-1] @ ways < 0:  # no pairs, pairs that do not lead down, or NaN
        state, products = replace(state, pairs=()), products[-1:, -1:]
        square = float(products) / elements
        ways = torch.tensor([-FIRST_STEP / math.sqrt(square) if square > 0 else 0.0], dtype=torch.float64)
    size = math.sqrt(float(ways @ products @ ways) / elements)
    ways = ways * min(1.0, LARGEST_STEP / max(size, 1e-30))  # a new tensor: what is agreed on may be another rank's own
    move = rounded(combine([*state.vectors, gradient], ways.tolist(), buffer), spare, spread)
    following = LBFGSState(point, move, 0, state.pairs, products[:-1, :-1].clone())
    return moved(point.image, move, buffer, through), following


def retreat(
    state: LBFGSState, last: Point, move: Vector, buffer: Tensor, through: Filter, spread: Spread
) -> tuple[Tensor, LBFGSState]:
    """Back to the accepted point, and a shorter move from there; steepest descent once the pairs have failed.

    buffer: memory for the next image.
    """
    move, failures = Vector(move.values, move.exponent + SHORTEN), state.failures + 1
    if failures == FORGET:
        share = rms(move.values, spread) * 2.0**move.exponent / max(rms(last.gradient, spread), 1e-30)
        move = rounded(combine([Vector(last.gradient)], [-share], buffer), move.values, spread)
        state = LBFGSState(last)
    return moved(last.image, move, buffer, through), replace(state, move=move, failures=failures)


def moved(image: Tensor, move: Vector, buffer: Tensor, through: Filter) -> Tensor:
    """The image where z has moved, in the memory of `buffer` or of what the filter gives."""
    return through(combine([move], [1.0], buffer)).add_(image)


def inverse_hessian(products: Tensor) -> Tensor:
    """The two-loop recursion on coefficients (Nocedal and Wright, Numerical Optimization, algorithm 7.4).

    products: inner products of s0, y0, s1, y1, ..., gradient. Returns the coefficients of these vectors in the
    approximate inverse Hessian times gradient; NaN without pairs.
    """
    q = torch.zeros(len(products), dtype=torch.float64)
    q[-1] = math.nan if len(products) == 1 else 1
    steps, weights = range(0, len(products) - 1, 2), {}
    for s in reversed(steps):
        weights[s] = products[s] @ q / products[s, s + 1]
        q[s + 1] -= weights[s]
    for s in steps[-1:]:
        q *= products[s, s + 1] / products[s + 1, s + 1]
    for s in steps:
        q[s] += weights[s] - products[s + 1] @ q / products[s, s + 1]
    return q


def curved(products: Tensor) -> bool:
    """Whether the gradient has grown along the move, beyond what rounding could feign, by the products of s and y."""
    (ss, sy), (_, yy) = products.tolist()
    return bool(sy > 1e-6 * math.sqrt(ss * yy))


def with_curvature(state: LBFGSState, products: Tensor) -> tuple[LBFGSState, Tensor]:
    """Leave out the pairs that rounding or resizing has robbed of their curvature.

    products: of all vectors and, in the last row and column, perhaps the gradient.
    """
    count = len(state.pairs)
    kept = [i for i in range(count) if curved(products[2 * i : 2 * i + 2, 2 * i : 2 * i + 2])]
    rows = [row for i in kept for row in (2 * i, 2 * i + 1)] + [*range(2 * count, len(products))]
    return replace(state, pairs=tuple(state.pairs[i] for i in kept)), products[rows][:, rows]


def survey(move: Vector, earlier: Tensor, later: Tensor, spread: Spread) -> tuple[Tensor, float]:
    """Inner products (2, 2) of a move and of what the gradient has changed by, before that is rounded, and the largest
    magnitude of the latter."""
    flat = [tensor.view(-1) for tensor in (move.values, earlier, later)]
    steepest = torch.zeros((), dtype=later.dtype, device=later.device)

    def products(piece: slice) -> Tensor:
        found = torch.zeros(2, 2, dtype=torch.float64, device=later.device)
        for s, before, after in chunks(*(values[piece] for values in flat)):
            rows = torch.stack([wide(s), after - before])
            found += rows @ rows.T
            torch.maximum(steepest, rows[1].abs().max(), out=steepest)
        return found.view(-1)

    total = spread.total(products(piece) for piece in spread.pieces(later.numel())).view(2, 2).cpu()
    powers = torch.tensor([2.0**move.exponent, 1], dtype=torch.float64)
    return total * powers[:, None] * powers, float(spread.largest(steepest))
