"""What optimisers have learnt, from scale to scale and into files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from parallel_nst.errors import BadInput
from parallel_nst.painting.gatys.half_precision import (
    UNDIVIDED,
    Spread,
    Vector,
    extended,
    halved,
    stored,
)
from parallel_nst.painting.gatys.optimizers.adam import AdamState
from parallel_nst.painting.gatys.optimizers.averaging import AveragingState
from parallel_nst.painting.gatys.optimizers.lbfgs import LBFGSState, Point, with_curvature

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
        raise BadInput(f"no optimiser's state: {error} is missing; start afresh") from None
