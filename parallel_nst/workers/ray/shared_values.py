"""Values on their way to and from workers: how large they are, and one copy of a value that many tasks carry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import ray
from ray.exceptions import ObjectLostError
from torch import Tensor

from parallel_nst.workers.pool import HandedLost, Made, made
from parallel_nst.workers.ray.cluster import first_line
from parallel_nst.workers.ray.lifeline import CONNECTION, in_use

KEPT = 256 << 20  # bytes up to which a shared value stays in this program, too


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
    this handle and all tasks that carry it are gone. Ray need not be up before that. What is not too large stays here,
    too, so that it can be put again where Ray has died; what is `Made` does not, and is made again."""

    def __init__(self, value: Any, on_put: Callable[[int], None]) -> None:
        """on_put: told the bytes of the value's arrays once it is put."""
        self._value = value
        self._on_put = on_put
        self._reference: Any = None
        self._connection = 0  # in which it was put

    def get(self) -> Any:
        """The value; its arrays are read-only once it was put and not kept."""
        if self._value is not None:
            return made(self._value)
        with in_use():
            self._check_there()
            return ray.get(self._reference)

    def __reduce__(self) -> tuple[Callable[[Any], Received], tuple[Any]]:
        if self._reference is None or (self._value is not None and self._connection != CONNECTION.number):
            self._put()
        self._check_there()
        return Received, (self._reference,)

    def _put(self) -> None:
        value = made(self._value)
        # An array in one piece goes there as it is, another one by way of two copies.
        value = np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value
        # In another thread: Ray notes the references inside the task that it is pickling in this one, and a `put` in
        # the midst of that would take them for its own.
        with ThreadPoolExecutor(1) as thread:
            self._reference = thread.submit(ray.put, value).result()
        self._connection = CONNECTION.number
        self._on_put(payload(value))
        if payload(value) > KEPT and not isinstance(self._value, Made):
            self._value = None

    def _check_there(self) -> None:
        """HandedLost when it has gone with a Ray that has died."""
        if self._reference is not None and self._connection != CONNECTION.number:
            raise HandedLost("a value that was shared is lost with the Ray that held it")


@dataclass(frozen=True)
class Received:
    """A shared value at the worker's end. Nothing is kept: arrays are views of the machine's one copy. connection: in
    which this program received it, that of a worker being its only one; None where it comes with a task."""

    reference: Any
    connection: int | None = None

    def get(self) -> Any:
        """The value, fetched from another machine if it has not come to this one before; its arrays are read-only.
        HandedLost when it is lost with the machine that held it."""
        with in_use():
            self._check_there()
            try:
                return ray.get(self.reference)
            except ObjectLostError as error:
                raise HandedLost(f"what workers had handed out is lost ({first_line(error)})") from None

    def __reduce__(self) -> tuple[type[Received], tuple[Any]]:
        self._check_there()
        return Received, (self.reference,)

    def _check_there(self) -> None:
        if self.connection not in (None, CONNECTION.number):
            raise HandedLost("what workers had handed out is lost with the Ray that held it")
