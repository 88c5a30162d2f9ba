"""What a server is asked to be, as one record: the command line makes its options from these fields."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from parallel_nst.errors import BadInput
from parallel_nst.recipe import check_bounds, knob

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MEGA = 1_000_000


@dataclass(frozen=True)
class ServeSettings:
    """A server. An empty text stands for nothing given."""

    port: int = knob(8002, "port to listen at", least=0, most=65535)
    host: str = knob("127.0.0.1", "address to listen at; any but this machine's own wants --token")
    token: str = knob("", "secret that callers have to know; none is wanted on 127.0.0.1")
    allow_hosts: str = knob("", "names that the server is called by besides its address, with commas between")
    folder: Path = knob(Path("pnst-jobs"), "folder for jobs and their pictures")
    models: str = knob("", "folder of generators to offer besides the bundled ones")
    keep: float = knob(0.0, "days after which jobs that have ended are removed; 0: never", least=0)
    queue: int = knob(50, "jobs that may wait; more are refused for the time being", least=1, most=10_000)
    max_megabytes: int = knob(64, "size of a request with its pictures in MB, at most", least=1, most=4096)
    max_megapixels: int = knob(50, "size of a picture in megapixels, at most", least=1, most=1000)
    max_size: int = knob(4096, "longest side of a generated picture in px, at most", least=64, most=100_000)
    workers: int = knob(1, "workers that paint; one is this process with all its cores", least=1)
    in_process: bool = knob(False, "workers are threads of this process instead of Ray's processes")
    address: str = knob("", "Ray cluster to paint on (auto or HOST:PORT)")

    def __post_init__(self) -> None:
        check_bounds(self)
        if not is_loopback(self.host) and len(self.token) < 16:
            raise BadInput(
                f"host is {self.host}, which others can reach; give --token with at least 16 characters, or --host "
                "127.0.0.1"
            )
        if self.models and not Path(self.models).is_dir():
            raise BadInput(f"models is {self.models}, which is no folder; name one with generators in it")

    @property
    def max_bytes(self) -> int:
        return self.max_megabytes * MEGA

    @property
    def max_pixels(self) -> int:
        return self.max_megapixels * MEGA

    @property
    def names(self) -> frozenset[str]:
        """Host names, in lower case and without ports, that requests may be addressed to."""
        own = {self.host.lower()} if not self.anywhere else set()
        given = {name.strip().lower() for name in self.allow_hosts.split(",") if name.strip()}
        return frozenset({*LOOPBACK, *own, *given})

    @property
    def anywhere(self) -> bool:
        """Whether it listens at every address of this machine."""
        return self.host in ("0.0.0.0", "::")


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
