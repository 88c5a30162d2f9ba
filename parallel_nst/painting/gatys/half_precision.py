"""Vectors as large as an image, in half precision and a chunk at a time: what the optimisers compute with.

A chunk of several vectors fits into a core's cache, and nothing as large as the image is made on the way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

CHUNK = 2**17  # elements worked on at a time, whatever the size of the image: some of them fit into a core's cache


@dataclass(frozen=True, eq=False)
class Vector:
    """`values` times 2^exponent: the largest lies in [2^14, 2^15), so that half precision, which ends at 65504, rounds
    by at most 2^-12 of a value all the way down to 2^-29 of the largest."""

    values: Tensor
    exponent: int = 0

    def real(self) -> Tensor:
        """As an image-shaped tensor: float32 where the values are in half precision."""
        return wide(self.values) * 2.0**self.exponent


class Spread(Protocol):
    """How a vector is spread: pieces of it lie in this process, the others elsewhere. All that concerns the whole
    vector is asked here; the processes that share it ask the same things in the same order."""

    def pieces(self, own: int) -> Sequence[slice]:
        """Where the pieces lie among the `own` elements that this process has."""
        ...

    def elements(self, own: int) -> int:
        """How many elements the whole vector has."""
        ...

    def total(self, parts: Iterable[Tensor]) -> Tensor:
        """Sum in float64 over all pieces, here and elsewhere, of tensors (n,), one for each piece that is here."""
        ...

    def largest(self, values: Tensor) -> Tensor:
        """The largest over all processes, element by element; NaN where one is."""
        ...

    def agreed(self, values: Tensor) -> Tensor:
        """What one process, the same for all, has computed, where rounding could differ."""
        ...


class Undivided:
    """A vector in one piece, here."""

    def pieces(self, own: int) -> Sequence[slice]:
        return [slice(0, own)]

    def elements(self, own: int) -> int:
        return own

    def total(self, parts: Iterable[Tensor]) -> Tensor:
        (only,) = parts
        return only.double()

    def largest(self, values: Tensor) -> Tensor:
        return values

    def agreed(self, values: Tensor) -> Tensor:
        return values


UNDIVIDED = Undivided()


def chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of the same few elements of contiguous tensors of one shape, one chunk after another."""
    flat = [tensor.view(-1) for tensor in tensors]
    size = CHUNK if flat[0].device.type == "cpu" else 32 * CHUNK  # a GPU wants fewer and larger launches
    for start in range(0, flat[0].numel(), size):
        yield tuple(tensor[start : start + size] for tensor in flat)


def wide(values: Tensor) -> Tensor:
    """In at least float32."""
    return values.float() if values.dtype == torch.float16 else values


def peak(values: Tensor, spread: Spread = UNDIVIDED) -> float:
    """Largest magnitude; NaN or infinite if a value is."""
    ends = [torch.stack(torch.aminmax(part)).abs().max() for (part,) in chunks(values)]
    return float(spread.largest(torch.stack(ends).max()))


def exponent(largest: float) -> int:
    """The power of two that brings this magnitude into [2^14, 2^15), as far as float32 can hold its inverse."""
    return max(-100, math.frexp(largest)[1] - 15) if largest > 0 else 0


def stored(values: Tensor, precision: torch.dtype, spread: Spread = UNDIVIDED) -> Vector:
    """A contiguous tensor as a vector, in its memory or in half of it."""
    power = exponent(peak(values, spread))
    return Vector(values.mul_(2.0**-power).to(precision), power)


def rounded(values: Tensor, buffer: Tensor, spread: Spread = UNDIVIDED) -> Vector:
    """A contiguous tensor as a vector, in the precision and the memory of `buffer`."""
    power = exponent(peak(values, spread))
    for part, out in chunks(values, buffer):
        out.copy_(part * 2.0**-power)
    return Vector(buffer, power)


def difference(later: Tensor, earlier: Tensor, largest: float, buffer: Tensor) -> Vector:
    """later - earlier, whose largest magnitude is known, in the memory of `buffer`."""
    power = exponent(largest)
    for a, b, out in chunks(later, earlier, buffer):
        out.copy_((a - b).mul_(2.0**-power))
    return Vector(buffer, power)


def extended(known: Tensor, basis: Sequence[Vector], spread: Spread = UNDIVIDED) -> Tensor:
    """Inner products (n, n) of n vectors, float64, those of the first few being known already."""
    new = basis[len(known) :]
    if not new:
        return known
    values = [vector.values.view(-1) for vector in basis]

    def products(piece: slice) -> Tensor:
        rows = torch.zeros(len(basis), len(new), dtype=torch.float64, device=values[0].device)
        for parts in chunks(*(value[piece] for value in values)):
            others = torch.stack([wide(part) for part in parts[len(known) :]])
            for row, part in zip(rows, parts, strict=True):
                row += others @ wide(part)
        return rows.view(-1)

    rows = spread.total(products(piece) for piece in spread.pieces(values[0].numel())).view(len(basis), len(new))
    powers = torch.tensor([2.0**vector.exponent for vector in basis], dtype=torch.float64)
    right = rows.cpu() * powers[:, None] * powers[len(known) :]
    return torch.cat([torch.cat([known, right[: len(known)].T]), right], dim=1)


def combine(basis: Sequence[Vector], coefficients: Sequence[float], buffer: Tensor) -> Tensor:
    """The sum of coefficients times vectors, in the memory of `buffer`, which may be that of one of them."""
    factors = [c * 2.0**vector.exponent for c, vector in zip(coefficients, basis, strict=True)]
    for out, *parts in chunks(buffer, *(vector.values for vector in basis)):
        total = torch.zeros_like(out)
        for part, factor in zip(parts, factors, strict=True):
            total.add_(part, alpha=factor)
        out.copy_(total)
    return buffer


def rms(values: Tensor, spread: Spread = UNDIVIDED) -> float:
    """Root mean square over all elements."""
    flat = values.view(-1)

    def square(piece: slice) -> Tensor:
        norms = [torch.linalg.vector_norm(part, dtype=torch.float64) for (part,) in chunks(flat[piece])]
        return torch.stack(norms).square().sum()[None]

    total = spread.total(square(piece) for piece in spread.pieces(flat.numel()))
    return math.sqrt(float(total) / spread.elements(flat.numel()))


def halved(precision: torch.dtype) -> torch.dtype:
    """What vectors are kept in beside an image of this precision."""
    return torch.float16 if precision == torch.float32 else precision
