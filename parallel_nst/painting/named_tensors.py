"""Tensors by name: on another device, in memory of their own, under a prefix."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def on_device(tensors: Mapping[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
    """The same tensors on another device; those that are there already as they are."""
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def copied(tensors: Mapping[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
    """The same tensors on a device, in memory of their own: an optimiser works in place, and a task can be run
    again."""
    return {name: tensor.to(device, copy=True) for name, tensor in tensors.items()}


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under `prefix.`: the inverse of `Snapshot.under`."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}
