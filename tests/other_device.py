"""A device that is not the CPU, on a machine that has no other: tensors that live on `meta` and yet have values.

Inside `other_device()` whatever is made or moved there computes on the CPU but says that it is on `meta`, and an
operation that is given tensors of both devices is an error, as on a GPU; so are `numpy()` and pickling.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
CPU = torch.device("cpu")
aten = torch.ops.aten
MOVES = {aten._to_copy.default, aten.copy_.default}


class There(Tensor):
    """A tensor of the other device. inner: its values, on the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> There:
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.inner = inner
        return made

    def __repr__(self, **options: Any) -> str:  # type: ignore[override]
        return f"There({self.inner})"

    def tolist(self) -> Any:
        """As on a GPU, whose tensors may be asked for their numbers."""
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(function, args, kwargs or {})


class OtherDevice(TorchDispatchMode):
    """Sees every operation, also those that make tensors."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(function, args, kwargs or {})


def computed(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The result on the device where the operands are, or where it is asked for."""
    operands = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    there = [isinstance(value, There) for value in operands]
    if function not in MOVES and any(there):
        strangers = [v for v, on in zip(operands, there, strict=True) if not on and v.dim() and function is not None]
        if strangers:
            raise RuntimeError(f"{function}: expected all tensors on one device, {len(strangers)} are on the CPU")
    wanted = kwargs.get("device")
    target = torch.device(wanted) if wanted is not None else DEVICE if any(there) else CPU
    if function is aten.copy_.default:
        target = DEVICE if there[0] else CPU
    inner = {**kwargs, "device": CPU} if wanted is not None else kwargs
    result = function(*tree_map(unwrapped, args), **tree_map(unwrapped, inner))
    if not any(there) and target == CPU:
        return result
    known = {id(value.inner): value for value in operands if isinstance(value, There)}  # what works in place
    return tree_map(lambda value: known.get(id(value), wrapped(value, target)) if is_tensor(value) else value, result)


def is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def unwrapped(value: Any) -> Any:
    return value.inner if isinstance(value, There) else value


def wrapped(value: Tensor, target: torch.device) -> Tensor:
    return There(value) if target.type == "meta" else value


@contextmanager
def other_device() -> Iterator[torch.device]:
    """The device, while it is there. Parameters of modules move to it as new tensors."""
    before, autocast = torch.__future__.get_overwrite_module_params_on_conversion(), torch.autocast
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch.autocast = lambda kind, *args, **kwargs: autocast("cpu", *args, **kwargs)  # type: ignore[misc, assignment]
    try:
        with OtherDevice():
            yield DEVICE
    finally:
        torch.autocast = autocast  # type: ignore[misc]
        torch.__future__.set_overwrite_module_params_on_conversion(before)
