"""Values on their way to and from workers: how large they are, and one copy of a value that many tasks carry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import ray
from torch import Tensor


def payload(value: Any) -> int:
    """Bytes of the arrays and tensors in a value: in its dataclasses, mappings, sequences and sets, however deep."""
    if isinstance(value, np.ndarray | Tensor):
        return int(value.nbytes)
    if is_dataclass(value) and not isinstance(value, type):
        return sum(payload(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, Mapping):
        return sum(payload(part) for part in value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return sum(payload(part) for part in value)
    return 0


class RayShared:
    """`workers.Shared` in Ray's object store: put there when the first task that carries it is sent, and freed when
    this handle and all tasks that carry it are gone. Ray need not be up before that."""

    def __init__(self, value: Any, on_put: Callable[[int], None]) -> None:
        """on_put: told the bytes of the value's arrays once it is put."""
        self._value = value
        self._on_put = on_put
        self._reference: Any = None

    def get(self) -> Any:
        """The value; its arrays are read-only once it was put."""
        return self._value if self._reference is None else ray.get(self._reference)

    def __reduce__(self) -> tuple[Callable[[Any], Received], tuple[Any]]:
        if self._reference is None:
            self._put()
        return Received, (self._reference,)

    def _put(self) -> None:
        # In another thread: Ray notes the references inside the task that it is pickling in this one, and a `put` in
        # the midst of that would take them for its own.
        with ThreadPoolExecutor(1) as thread:
            self._reference = thread.submit(ray.put, self._value).result()
        self._on_put(payload(self._value))
        self._value = None


@dataclass(frozen=True)
class Received:
    """A shared value at the worker's end. Nothing is kept: arrays are views of the machine's one copy."""

    reference: Any

    def get(self) -> Any:
        """The value, fetched from another machine if it has not come to this one before; its arrays are read-only."""
        return ray.get(self.reference)
