"""What a server is asked to be, as one record: the command line makes its options from these fields."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from parallel_nst.errors import BadInput
from parallel_nst.jobs.requests.common import WorkerOptions
from parallel_nst.recipe.knobs import check_bounds, knob

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MEGA = 1_000_000
LEAST_TOKEN = 16  # characters


@dataclass(frozen=True, kw_only=True)
class PictureSettings:
    """What holds wherever pictures are taken from callers. token: empty where none is wanted."""

    models: Path | None = knob(None, "folder of generators to offer besides the bundled ones", "Server", common=True)
    token: str = knob(
        "",
        "secret that callers have to know; better in PNST_TOKEN, for others see command lines",
        "Server",
        variable="PNST_TOKEN",
    )
    allow_hosts: str = knob("", "names that it is called by besides its address, with commas between", "Server")
    max_megabytes: int = knob(64, "size of a request with its pictures in MB, at most", "Server", least=1, most=4096)
    max_megapixels: int = knob(50, "size of a picture in megapixels, at most", "Server", least=1, most=1000)
    max_size: int = knob(4096, "longest side of a generated picture in px, at most", "Server", least=64, most=100_000)

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.models and not self.models.is_dir():
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
        given = {name.strip().lower() for name in self.allow_hosts.split(",") if name.strip()}
        return frozenset({*LOOPBACK, *given})

    @property
    def anywhere(self) -> bool:
        """Whether it listens at every address of its machine."""
        return True


@dataclass(frozen=True, kw_only=True)
class ServeSettings(PictureSettings, WorkerOptions):
    """A server on this machine."""

    port: int = knob(8002, "port to listen at; 0: any that is free", "Server", least=0, most=65535, common=True)
    host: str = knob(
        "127.0.0.1", "address to listen at; any but this machine's own wants --token", "Server", common=True
    )
    folder: Path = knob(Path("pnst-jobs"), "folder for jobs and their pictures", "Server", common=True)
    keep: float | None = knob(
        None, "days after which jobs that have ended are removed", "Server", above=0, shown="for ever"
    )
    queue: int = knob(50, "jobs that may wait; more are put off", "Server", least=1, most=10_000)
    workers: int | None = knob(
        1, "workers at most; one is this process with all its cores", "Workers", least=1, common=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_loopback(self.host) and len(self.token) < LEAST_TOKEN:
            raise BadInput(
                f"host is {self.host}, which others can reach; give --token with at least {LEAST_TOKEN} characters, or "
                "--host 127.0.0.1"
            )

    @property
    def names(self) -> frozenset[str]:
        return super().names | {self.host.lower()}

    @property
    def anywhere(self) -> bool:
        return self.host in ("0.0.0.0", "::")


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
