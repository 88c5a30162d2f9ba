"""Optimisers over one image of any size, as pairs of functions: `init(image)` gives a state, `step(state, image, loss,
gradient)` gives the next image to evaluate and the next state. One evaluation a step.

Images and gradients are tensors of one shape and precision, usually (1, 3, H, W) in [0, 1], float32 or float64. The
unit of memory below is P, one copy of the image.

Like JAX's donated buffers, the gradient and the state given to `step` belong to it from then on: their memory becomes
that of the results, and neither may be used again. The image given is never changed.

Both work on z, where the image is T z and T a symmetric filter, `through` (see `preconditioner`): they see T times the
gradient, and where they move z, the image moves by T times that. All their vectors are those of z.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from parallel_nst.painting.gatys.half_precision import (
    UNDIVIDED,
    Spread,
    Vector,
    chunks,
    combine,
    difference,
    exponent,
    extended,
    peak,
    rms,
    rounded,
    stored,
    wide,
)
from parallel_nst.painting.gatys.preconditioner import Filter, broadened, unchanged
from parallel_nst.recipe import Recipe

FIRST_STEP = 0.02  # root mean square of the first move, in units of the pixel range
LARGEST_STEP = 0.1  # root mean square above which a move is shortened
JUMP = 0.2  # relative growth of the loss that counts as a failed move
SHORTEN = -2  # a failed move is tried again at this power of two of its length
FORGET = 3  # failures in a row after which the curvature pairs are dropped


class Optimizer(NamedTuple):
    """`init(image) -> state` and `step(state, image, loss, gradient) -> (next image, state)`."""

    init: Callable[[Tensor], Any]
    step: Callable[[Any, Tensor, float, Tensor], tuple[Tensor, Any]]


def make_optimizer(recipe: Recipe, spread: Spread = UNDIVIDED, through: Filter = broadened) -> Optimizer:
    """The optimiser that a recipe names, for an image that is spread like this. through: what its gradients and moves
    are filtered by."""
    if recipe.optimizer == "lbfgs":
        steps = lbfgs(recipe.history, spread=spread, through=through)
    else:
        steps = adam(recipe.learning_rate, fall=recipe.learning_rate_decay, spread=spread, through=through)
    return averaging(steps, recipe.average) if recipe.average else steps


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
    ways *= min(1.0, LARGEST_STEP / max(size, 1e-30))
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


@dataclass(frozen=True, eq=False)
class AdamState:
    """Running means of the gradient and of its square, and the number of steps behind them.

    Memory: 1.5 P (2 P in full precision). With the caller's image and gradient, 3.5 P at most.
    """

    mean: Vector
    square: Tensor
    steps: int = 0


def adam(
    learning_rate: float,
    decay: tuple[float, float] = (0.9, 0.99),
    *,
    fall: float = 1.0,
    spread: Spread = UNDIVIDED,
    through: Filter = unchanged,
) -> Optimizer:
    """Adam (Kingma and Ba 2015, algorithm 1) on pixels in [0, 1], to which each new image is clamped.

    learning_rate: step size in units of the pixel range. fall: factor that it has lost after 100 steps, a little with
    each. What is not finite in a gradient is left out.
    """

    def init(image: Tensor) -> AdamState:
        square = torch.zeros_like(image, memory_format=torch.contiguous_format)
        return AdamState(Vector(square.to(halved(square.dtype), copy=True)), square)

    def step(state: AdamState, image: Tensor, loss: float, gradient: Tensor) -> tuple[Tensor, AdamState]:
        image, gradient = image.contiguous(), gradient.contiguous()
        if not math.isfinite(peak(gradient, spread)):
            gradient.nan_to_num_(0, 0, 0)
        gradient = through(gradient)
        count, old = state.steps + 1, state.mean.exponent
        new = exponent(max(peak(gradient, spread), peak(state.mean.values, spread) * 2.0**old))
        rate = learning_rate * fall ** (state.steps / 100) / (1 - decay[0] ** count)
        for g, half, square in chunks(gradient, state.mean.values, state.square):
            mean = torch.lerp(wide(half) * 2.0**old, g, 1 - decay[0])
            square.lerp_(g * g, 1 - decay[1])
            scale = (square / (1 - decay[1] ** count)).sqrt_().add_(1e-8)
            half.copy_(mean * 2.0**-new)
            torch.div(mean, scale, out=g)
        following = through(gradient).mul_(-rate).add_(image).clamp_(0, 1)
        return following, AdamState(Vector(state.mean.values, new), state.square, count)

    return Optimizer(init=init, step=step)


def halved(precision: torch.dtype) -> torch.dtype:
    """What vectors are kept in beside an image of this precision."""
    return torch.float16 if precision == torch.float32 else precision


@dataclass(frozen=True, eq=False)
class AveragingState:
    """State of another optimiser, and the running mean of the images that it has come by: `total` over `weight`.

    Memory: 1 P more than the other's.
    """

    inner: State
    total: Tensor
    weight: float


def averaging(optimizer: Optimizer, decay: float) -> Optimizer:
    """The same steps, with an exponential mean of the images after them (Polyak averaging), whose bias towards zero is
    taken out by the weights' own sum, as in Adam and in the style transfer of Crowson. What steps leave of noise around
    the minimum is gone in the mean. A scale begins a mean of its own: what is carried to it is the other's state.
    """

    def step(state: State, image: Tensor, loss: float, gradient: Tensor) -> tuple[Tensor, AveragingState]:
        if not isinstance(state, AveragingState):
            state = AveragingState(state, torch.zeros_like(image, memory_format=torch.contiguous_format), 0.0)
        following, inner = optimizer.step(state.inner, image, loss, gradient)
        state.total.lerp_(following, 1 - decay)
        return following, AveragingState(inner, state.total, decay * state.weight + 1 - decay)

    return Optimizer(init=optimizer.init, step=step)


def average_of(state: Any) -> Tensor | None:
    """The mean image of a state that has one."""
    return state.total / state.weight if isinstance(state, AveragingState) else None


State = LBFGSState | AdamState | AveragingState
# What of a packed state is no vector; all else is image-shaped.
NUMBERS = {"kind", "steps", "exponents", "exponent", "failures", "loss", "products", "weight"}


def carry_state(state: State, loss: float) -> State:
    """The state for an image or an objective that has changed a little under the optimiser, at the same size.

    L-BFGS keeps its pairs, and the accepted point as the other end of the next one: without it, an exchange after
    every step would never let a pair be learnt. loss: what the next loss is held against, to see a jump. Adam keeps
    all.
    """
    if isinstance(state, AveragingState):
        return replace(state, inner=carry_state(state.inner, loss))
    if isinstance(state, AdamState) or state.accepted is None:
        return state
    return replace(state, accepted=state.accepted._replace(loss=loss), failures=0)


def resize_state(
    numbers: Mapping[str, Tensor],
    resized: Callable[[str], Tensor],
    ratio: float,
    spread: Spread = UNDIVIDED,
) -> State:
    """The state for another scale. L-BFGS forgets the accepted point: it moves on along the carried inverse Hessian.

    numbers: of the packed state. resized: one of its vectors, by name, as stored but for the size and the precision,
    which is the new image's; they become the state's own.
    ratio: old over new number of pixels; a gradient of means over pixels shrinks by it, and so do Adam's means and what
    L-BFGS has seen gradients change by.
    """

    def moved(name: str, exponent: int, factor: float = 1) -> Vector:
        values = resized(name)
        return stored(values.mul_(2.0**exponent * factor), halved(values.dtype), spread)

    exponents = numbers["exponents"].tolist()
    if int(numbers["kind"]) == 1:
        square = resized("square").clamp_(min=0).mul_(ratio**2)
        return AdamState(moved("mean", exponents[0], ratio), square, int(numbers["steps"]))
    pairs = enumerate(zip(exponents[::2], exponents[1::2], strict=True))
    larger = LBFGSState(pairs=tuple((moved(f"s{i}", s), moved(f"y{i}", y, ratio)) for i, (s, y) in pairs))
    larger, products = with_curvature(larger, extended(larger.products, larger.vectors, spread))
    return replace(larger, products=products)


def carried_names(packed: Mapping[str, Tensor]) -> list[str]:
    """The vectors of a packed state that `resize_state` asks for."""
    return [name for name in packed if name not in NUMBERS and name not in ("image", "gradient", "move", "average")]


def pack(state: State) -> dict[str, Tensor]:
    """The state as named tensors, which share its memory; `unpack` restores it to the bit."""
    if isinstance(state, AveragingState):
        return pack(state.inner) | {"average": state.total, "weight": torch.tensor(state.weight, dtype=torch.float64)}
    if isinstance(state, AdamState):
        numbers = {"steps": torch.tensor(state.steps), "exponents": torch.tensor([state.mean.exponent])}
        return {"kind": torch.tensor(1), **numbers, "mean": state.mean.values, "square": state.square}
    last = state.accepted
    point = last._asdict() | {"loss": torch.tensor(last.loss, dtype=torch.float64)} if last else {}
    exponents = torch.tensor([vector.exponent for vector in state.vectors], dtype=torch.int64)
    numbers = {"kind": torch.tensor(0), "failures": torch.tensor(state.failures), "exponents": exponents}
    if state.move is not None:
        point |= {"move": state.move.values, "exponent": torch.tensor(state.move.exponent)}
    return (
        numbers
        | point
        | {"products": state.products}
        | {f"{'sy'[i % 2]}{i // 2}": vector.values for i, vector in enumerate(state.vectors)}
    )


def unpack(tensors: Mapping[str, Tensor]) -> State:
    """The state that `pack` took apart, in the same memory. ValueError for anything else."""
    try:
        if "average" in tensors:
            inner = {name: value for name, value in tensors.items() if name != "average"}
            return AveragingState(unpack(inner), tensors["average"], float(tensors["weight"]))
        kind, exponents = int(tensors["kind"]), tensors["exponents"].tolist()
        if kind == 1:
            return AdamState(Vector(tensors["mean"], exponents[0]), tensors["square"], int(tensors["steps"]))
        vectors = [Vector(tensors[f"{'sy'[i % 2]}{i // 2}"], power) for i, power in enumerate(exponents)]
        pairs = tuple(zip(vectors[::2], vectors[1::2], strict=True))
        point = Point(tensors["image"], tensors["gradient"], float(tensors["loss"])) if "loss" in tensors else None
        move = Vector(tensors["move"], int(tensors["exponent"])) if point else None
        return LBFGSState(point, move, int(tensors["failures"]), pairs, tensors["products"].cpu())
    except KeyError as error:
        raise ValueError(f"no optimiser's state: {error} is missing; start afresh") from None


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
