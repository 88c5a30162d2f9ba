"""Tensors by name: on another device, in memory of their own, under a prefix."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors in memory of their own: an optimiser works in place, and a task can be run again."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


def on_device(
    tensors: Mapping[str, Tensor], device: torch.device | str, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """The same tensors on another device, in another precision."""
    return {name: tensor.to(device, dtype) for name, tensor in tensors.items()}


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under `prefix.`: the inverse of `Snapshot.under`."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}
