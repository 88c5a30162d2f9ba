"""`pnst cluster status`: the machines of a cluster, and a line for each thing that would make a run fail."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from parallel_nst.jobs.cluster.status import Versions, faults_of, versions_here
from parallel_nst.workers.ray import nodes as ray_nodes
from parallel_nst.workers.ray.nodes import Node, Software, looking, node_of

HERE = Versions("3.12", "2.60.0", "2.13.0", "0.1.0")
SAME = Software("3.12.4", "2.60.0", "2.13.0", "0.1.0", 0, None)
GOOD = Node("10.0.0.2", "two", 4, 0, 8 << 30, 1 << 30, SAME)
GPU = replace(GOOD, gpus=2, software=replace(SAME, devices=2, usable=2))

NODES: dict[str, tuple[list[Node], list[str]]] = {
    "good": ([GOOD, replace(GOOD, address="10.0.0.3")], []),
    "GPUs": ([GPU], []),
    "another Python": (
        [replace(GOOD, software=replace(SAME, python="3.11.9"))],
        ["two.*has Python 3.11, this .*3.12"],
    ),
    "another patch of Python": ([replace(GOOD, software=replace(SAME, python="3.12.9"))], []),
    "another pnst": ([replace(GOOD, software=replace(SAME, pnst="0.0.9"))], ["two.*has pnst 0.0.9, this .* 0.1.0"]),
    "another torch": ([replace(GOOD, software=replace(SAME, torch="2.6.0"))], ["two.*has PyTorch 2.6.0, this"]),
    "no pnst": (
        [GOOD, replace(GOOD, software=replace(SAME, pnst=None))],
        ["two.*pnst is not installed; inst"],
    ),
    "no objects": ([replace(GOOD, store=0)], ["10.0.0.2 .two.: has no memory for objects"]),
    "GPUs that Ray does not see": (
        [replace(GOOD, software=replace(SAME, devices=2))],
        [r"10.0.0.2 \(two\): has 2 GPUs that Ray does not see"],
    ),
    "GPUs that PyTorch cannot use": (
        [replace(GPU, software=replace(SAME, devices=2, usable=0))],
        ["two.*can use none"],
    ),
    "silent": ([replace(GOOD, software=None, silence="it died")], ["10.0.0.2 .two.: does not answer: it died"]),
    "loopback": ([replace(GOOD, address="127.0.0.1"), GOOD], ["127.0.0.1 .two.: the other machines cannot reach"]),
    "nothing to work with": ([replace(GOOD, cpus=0)], ["no machine has a CPU or a GPU"]),
}


@pytest.mark.parametrize("case", NODES)
def test_each_fault_of_a_cluster_is_a_line(case: str) -> None:
    nodes, expected = NODES[case]
    found = list(faults_of(nodes, HERE))
    assert len(found) == len(expected), found
    for line, pattern in zip(found, expected, strict=True):
        assert re.match(f".*{pattern}", line) and "\n" not in line


def test_a_machine_looks_at_itself() -> None:
    seen = Software(**looking()(gpus=False))
    assert (seen.python, seen.usable) == (platform.python_version(), None)
    assert (seen.ray, seen.torch, seen.pnst) == tuple(version(name) for name in ("ray", "torch", "parallel-nst"))
    assert Software(**looking()(gpus=True)).usable is not None
    assert versions_here().pnst == seen.pnst


def test_what_looks_travels_whole() -> None:
    """It runs where nothing of this package is."""
    bare = "import sys, pickle; sys.modules['parallel_nst'] = None; look = pickle.load(sys.stdin.buffer)\n"
    run = [sys.executable, "-c", bare + "import json; print(json.dumps(look(gpus=False)))"]
    done = subprocess.run(run, input=ray.cloudpickle.dumps(looking()), capture_output=True, check=True)
    assert json.loads(done.stdout)["pnst"] == version("parallel-nst")


@pytest.mark.parametrize(
    ("error", "says"),
    [(ray.exceptions.GetTimeoutError(), "no answer within 60 s"), (ray.exceptions.RayActorError(), "The actor ")],
)
def test_a_machine_that_does_not_answer_is_silent(monkeypatch: pytest.MonkeyPatch, error: Exception, says: str) -> None:
    def fail(answer: Any, timeout: float) -> None:
        raise error

    monkeypatch.setattr(ray_nodes, "ray", SimpleNamespace(get=fail))
    told = {"NodeManagerAddress": "10.0.0.2", "NodeManagerHostname": "two", "Resources": {"CPU": 3.0}}
    node = node_of(told, None, 0)
    assert (node.cpus, node.software) == (3, None) and node.silence.startswith(says)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two machines, one of them with a GPU that nobody has."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        common: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 100 << 20}
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **common})
        made.add_node(num_cpus=2, num_gpus=1, **common)
        made.wait_for_nodes()
        yield made
        made.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Ray neither waits for its processes nor closes its files
def test_the_command_joins_asks_and_leaves(cluster: Any, tmp_path: Path) -> None:
    call = [sys.executable, "-m", "parallel_nst", "cluster", "status", "--address", cluster.address]
    told = subprocess.run(call, capture_output=True, text=True, timeout=240)
    assert (told.returncode, told.stderr) == (1, "")
    *_, last = told.stdout.splitlines()
    assert re.match(r"\S+ \(.+\): Ray counts GPUs, but PyTorch can use none", last)
    assert told.stdout.count(version("parallel-nst")) >= 2
    as_json = json.loads(subprocess.run([*call, "--json"], capture_output=True, text=True, timeout=240).stdout)
    assert sorted((node["cpus"], node["gpus"]) for node in as_json["nodes"]) == [(1, 0), (2, 1)]
    assert {node["software"]["python"] for node in as_json["nodes"]} == {platform.python_version()}
    assert min(node["memory"] for node in as_json["nodes"]) > 0 and len(as_json["faults"]) == 1
