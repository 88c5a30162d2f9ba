"""How a cluster is: its machines, and what on them would make a run fail."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from parallel_nst.jobs.requests.cluster import StatusJob

if TYPE_CHECKING:  # Ray is loaded only where it is used
    from parallel_nst.workers.ray.nodes import Node, Software

LEAST_STORE = 75 << 20  # bytes; less than that Ray does not start with


@dataclass(frozen=True)
class Versions:
    """Of what must be the same on all machines; of Python the minor version."""

    python: str
    ray: str | None
    torch: str | None
    pnst: str | None


@dataclass(frozen=True)
class ClusterStatus:
    """The machines, and a line for each thing that would make a run fail."""

    nodes: Sequence[Node]
    faults: Sequence[str]


def status(job: StatusJob) -> ClusterStatus:
    """Join a cluster, ask all its machines, and leave it. BadInput or ClusterUnavailable, in one line, where that does
    not go."""
    from parallel_nst.workers.ray.cluster import RayCluster
    from parallel_nst.workers.ray.nodes import nodes_of

    cluster = RayCluster(job.address, 0)
    try:
        nodes = nodes_of(cluster)
    finally:
        cluster.close()
    return ClusterStatus(nodes, list(faults_of(nodes, versions_here())))


def versions_here() -> Versions:
    """Of the machine that a run would be started on."""
    return Versions(minor(platform.python_version()), version("ray"), version("torch"), version("parallel-nst"))


def versions_of(software: Software) -> Versions:
    return Versions(minor(software.python), software.ray, software.torch, software.pnst)


def minor(text: str) -> str:
    """'3.12.4' -> '3.12'."""
    return ".".join(text.split(".")[:2])


def faults_of(nodes: Sequence[Node], here: Versions) -> Iterator[str]:
    """A line for each: which machine, what, and what to do."""
    for node in nodes:
        place = f"{node.address} ({node.name})"
        yield from (f"{place}: {fault}" for fault in faults_of_node(node, here))
    loopback = [node for node in nodes if node.address.startswith("127.")]
    if 0 < len(loopback) < len({node.address for node in nodes}):
        yield (
            f"{loopback[0].address} ({loopback[0].name}): the other machines cannot reach this address; give "
            "--node-ip-address to ray start there"
        )
    if not any(node.cpus or node.gpus for node in nodes):
        yield "no machine has a CPU or a GPU for workers; add one"


def faults_of_node(node: Node, here: Versions) -> Iterator[str]:
    """What is wrong with one machine."""
    if node.software is None:
        yield f"does not answer: {node.silence}"
    else:
        yield from faults_of_software(node.software, here)
    yield from faults_of_resources(node)


def faults_of_software(software: Software, here: Versions) -> Iterator[str]:
    """Versions other than here; a worker with them would fail, or compute something else."""
    there = versions_of(software)
    for name, ours, theirs in (
        ("Python", here.python, there.python),
        ("Ray", here.ray, there.ray),
        ("PyTorch", here.torch, there.torch),
        ("pnst", here.pnst, there.pnst),
    ):
        if theirs is None:
            yield f"{name} is not installed; install {name} {ours} there"
        elif theirs != ours:
            yield f"has {name} {theirs}, this machine {ours}; install the same there"
    if software.usable == 0:
        yield "Ray counts GPUs, but PyTorch can use none; look at the driver and at PyTorch's build"


def faults_of_resources(node: Node) -> Iterator[str]:
    """What a machine cannot work without."""
    if node.store < LEAST_STORE:
        yield "has no memory for objects; start Ray there with --object-store-memory"
    if node.software and node.software.devices and not node.gpus:
        yield f"has {node.software.devices} GPUs that Ray does not see; start Ray there with --num-gpus"
