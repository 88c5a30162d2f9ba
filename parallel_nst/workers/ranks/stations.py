"""Where ranks are and what they run there, and what all of them must have in common.

Nothing depends on clocks: ranks wait for one another, and times are only ever compared within one process.
"""

from __future__ import annotations

import platform
import socket
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch

from parallel_nst.errors import ClusterUnavailable

SHARED = {"pnst": "pnst", "torch": "PyTorch", "python": "Python", "device": "device"}  # by field, how it is called
NAMED = 3  # machines, or pairs of them, that a line names


@dataclass(frozen=True)
class Station:
    """What a rank runs, and on which machine. pnst, torch, python: versions, as far as they matter for working
    together. device: cpu or cuda."""

    name: str
    address: str
    device: str
    pnst: str
    torch: str
    python: str

    @property
    def machine(self) -> str:
        return f"{self.name} ({self.address})"


def station_here(address: str, device: torch.device) -> Station:
    """This process's. address: of this machine, as the others know it."""
    try:
        own = version("parallel-nst")
    except PackageNotFoundError:  # it runs from a folder
        own = "of no known version"
    built = str(torch.__version__).split("+")[0]  # whatever it was built for: cpu, cu128
    python = ".".join(platform.python_version_tuple()[:2])
    return Station(socket.gethostname(), address, device.type, own, built, python)


def check_alike(stations: Sequence[Station]) -> None:
    """ClusterUnavailable, in one line that names the machines, where ranks run what does not go together."""
    found = [differing(name, machines_by(stations, field)) for field, name in SHARED.items()]
    if any(found):
        differences = "; ".join(filter(None, found))
        raise ClusterUnavailable(f"workers cannot work together: {differences}; make these machines alike")


def machines_by(stations: Sequence[Station], field: str) -> dict[str, list[str]]:
    """The machines that have each value of this field."""
    machines: dict[str, dict[str, None]] = defaultdict(dict)
    for station in stations:
        machines[getattr(station, field)][station.machine] = None
    return {value: list(names) for value, names in machines.items()}


def differing(name: str, machines: Mapping[str, Sequence[str]]) -> str:
    """Who has what; nothing where all have the same."""
    if len(machines) == 1:
        return ""
    return f"{name} is " + ", ".join(f"{value} on {some(names)}" for value, names in machines.items())


def some(names: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
