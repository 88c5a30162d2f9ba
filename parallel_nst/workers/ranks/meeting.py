"""How ranks on several machines find each other: by a store that all must reach, and by ports of their own that the
others must reach. What is in the way is found before the first step, within a bounded time."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from parallel_nst.workers.ranks.communicator import PeerLost
from parallel_nst.workers.ranks.stations import Station, some

MEET_SECONDS = 60.0  # within which all ranks must have come to the store, and have told it something
CONNECT_SECONDS = 20.0  # within which a machine must answer another one
AT_ONCE = 32  # machines that are tried

Door = tuple[str, int]  # address and port


class Unreachable(PeerLost):
    """A machine cannot connect to another one's port: the network is in the way, unless the rank there has died."""


def reached_store(place: Door, station: Station) -> TCPStore:
    """The store that another rank has opened there; `Unreachable` where nothing answers in time."""
    if not answers(place):  # which TCPStore would find out in twice the time, with pages of C++ on the way
        raise Unreachable(unreachable_line([(station.machine, *place)]))
    with lost_peers():
        return TCPStore(*place, is_master=False)


def meet(store: Store, rank: int, size: int, station: Station) -> None:
    """Wait until all ranks are here, and see that each machine reaches a port on every other one. `Unreachable`, on all
    ranks, in one line that names those that cannot."""
    family = socket.AF_INET6 if ":" in station.address else socket.AF_INET
    with socket.create_server(("", 0), family=family, backlog=size) as own:
        here = station.machine, station.address, own.getsockname()[1]
        doors = {address: (machine, port) for machine, address, port in told(store, "door", rank, size, here)}
        del doors[station.address]  # ranks of one machine do not need the network
        shut = told(store, "shut", rank, size, [[station.machine, *doors[one]] for one in unanswered(doors)])
    found = sorted({tuple(pair) for pairs in shut for pair in pairs})
    if found:
        raise Unreachable(unreachable_line(found))


def told(store: Store, key: str, rank: int, size: int, value: Any) -> list[Any]:
    """What each rank tells the others under this key, in the order of ranks."""
    keys = [f"{key}/{peer}" for peer in range(size)]
    with lost_peers():
        store.set(keys[rank], json.dumps(value))
        store.wait(keys, timedelta(seconds=MEET_SECONDS))
        return [json.loads(answer) for answer in store.multi_get(keys)]


def unanswered(doors: Mapping[str, tuple[str, int]]) -> list[str]:
    """The addresses where nothing answers. doors: a machine's name and port, by address."""
    places = [(address, port) for address, (_, port) in doors.items()]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        found = threads.map(answers, places)
        return [address for (address, _), answered in zip(places, found, strict=True) if not answered]


def answers(place: Door) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection(place, timeout=CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def unreachable_line(found: Sequence[tuple[str, str, int]]) -> str:
    """What is said of machines, by name, that do not reach others, by name and port."""
    pairs = some([f"{one} cannot reach {other} at port {port}" for one, other, port in found])
    return f"workers cannot talk to each other: {pairs}; let these machines connect to one another at any TCP port"


@contextmanager
def lost_peers() -> Iterator[None]:
    """PeerLost for what `torch.distributed` raises when a peer is gone or silent, in one line."""
    try:
        yield
    except RuntimeError as error:
        raise PeerLost(str(error).strip().splitlines()[0]) from None
