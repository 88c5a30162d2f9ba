"""The machines of a cluster, and what is installed on each."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from parallel_nst.workers.ray.cluster import RayCluster, first_line

ASK_SECONDS = 60.0  # within which a machine must have answered: its first worker has to start


@dataclass(frozen=True)
class Software:
    """What a machine runs: versions, None for what is not there. devices: GPUs that its system has; usable: those that
    PyTorch can use, None where nobody asked."""

    python: str
    ray: str | None
    torch: str | None
    pnst: str | None
    devices: int
    usable: int | None


@dataclass(frozen=True)
class Node:
    """A living machine. memory, store: bytes that Ray gives to workers, and to objects. software: None where it did
    not answer, for the reason in `silence`."""

    address: str
    name: str
    cpus: int
    gpus: float
    memory: int
    store: int
    software: Software | None
    silence: str = ""


def nodes_of(cluster: RayCluster) -> list[Node]:
    """Every living machine of a cluster, asked what it runs."""
    cluster.wait()
    there = [node for node in ray.nodes() if node["Alive"]]
    asked = [ask(node) for node in there]
    end = time.monotonic() + ASK_SECONDS
    return [node_of(node, answer, max(0.1, end - time.monotonic())) for node, answer in zip(there, asked, strict=True)]


def ask(node: Mapping[str, Any]) -> Any:
    """Have a machine look at itself; the reference of its answer."""
    where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    remote: Any = ray.remote(looking())
    return remote.options(num_cpus=0, max_retries=0, scheduling_strategy=where).remote(
        gpus=node["Resources"].get("GPU", 0) > 0
    )


def looking() -> Callable[..., Mapping[str, Any]]:
    """What a machine runs to look at itself. A function within a function travels whole, so that it also runs where
    this package is not installed, or is another version."""

    def look(*, gpus: bool) -> Mapping[str, Any]:
        import platform
        from importlib.metadata import PackageNotFoundError, version
        from pathlib import Path

        def installed(name: str) -> str | None:
            try:
                return version(name)
            except PackageNotFoundError:
                return None

        usable = None
        if gpus and installed("torch"):
            import torch

            usable = torch.cuda.device_count()
        return {
            "python": platform.python_version(),
            "ray": installed("ray"),
            "torch": installed("torch"),
            "pnst": installed("parallel-nst"),
            "devices": len(list(Path("/dev").glob("nvidia[0-9]*"))),
            "usable": usable,
        }

    return look


def node_of(node: Mapping[str, Any], answer: Any, seconds: float) -> Node:
    """What is known of a machine once it has answered, or has had so many seconds to."""
    software, silence = None, ""
    try:
        software = Software(**ray.get(answer, timeout=seconds))
    except GetTimeoutError:
        silence = f"no answer within {ASK_SECONDS:.0f} s"
    except RayError as error:
        silence = first_line(error)
    has = node["Resources"]
    return Node(
        address=node["NodeManagerAddress"],
        name=node["NodeManagerHostname"],
        cpus=int(has.get("CPU", 0)),
        gpus=has.get("GPU", 0),
        memory=int(has.get("memory", 0)),
        store=int(has.get("object_store_memory", 0)),
        software=software,
        silence=silence,
    )
