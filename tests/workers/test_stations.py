"""Ranks that cannot work together find out before the first step, and say on which machines and why."""

import platform
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

from parallel_nst.errors import ClusterUnavailable
from parallel_nst.workers.ranks import meeting
from parallel_nst.workers.ranks.communicator import PeerLost
from parallel_nst.workers.ranks.meeting import Unreachable, meet, reached_store
from parallel_nst.workers.ranks.place import CPU
from parallel_nst.workers.ranks.stations import Station, check_alike, station_here

HERE = Station("one", "127.0.0.1", "cpu", "1.0", "2.13.0", "3.11")
THERE = replace(HERE, name="two", address="127.0.0.2")


def test_ranks_that_run_the_same_may_work_together():
    check_alike([HERE])
    check_alike([HERE, THERE, HERE])


@pytest.mark.parametrize(
    ("differs", "says"),
    [
        ({"pnst": "1.1"}, "pnst is 1.0 on one (127.0.0.1), 1.1 on two (127.0.0.2)"),
        ({"torch": "2.12.1"}, "PyTorch is 2.13.0 on one (127.0.0.1), 2.12.1 on two (127.0.0.2)"),
        ({"python": "3.13"}, "Python is 3.11 on one (127.0.0.1), 3.13 on two (127.0.0.2)"),
        ({"device": "cuda"}, "device is cpu on one (127.0.0.1), cuda on two (127.0.0.2)"),
    ],
)
def test_what_differs_is_said_in_one_line_that_names_the_machines(differs, says):
    with pytest.raises(ClusterUnavailable) as error:
        check_alike([HERE, replace(THERE, **differs), HERE])
    assert str(error.value).startswith(f"workers cannot work together: {says}; make these machines alike")
    assert "\n" not in str(error.value)


def test_all_that_differs_is_said_and_of_many_machines_a_few_are_named():
    others = [replace(HERE, name=f"n{n}", address=f"10.0.0.{n}", torch="2.12.1", python="3.13") for n in range(5)]
    with pytest.raises(ClusterUnavailable) as error:
        check_alike([HERE, *others, *others])
    others_named = "n0 (10.0.0.0), n1 (10.0.0.1), n2 (10.0.0.2) and 2 more"
    assert f"PyTorch is 2.13.0 on one (127.0.0.1), 2.12.1 on {others_named}; Python is 3.11 on" in str(error.value)


def test_a_station_is_this_process():
    station = station_here("10.0.0.1", CPU)
    assert (station.name, station.address, station.device) == (socket.gethostname(), "10.0.0.1", "cpu")
    assert platform.python_version().startswith(f"{station.python}.")
    assert torch.__version__.startswith(station.torch) and "+" not in station.torch


def met(stations):
    """What comes of a meeting of ranks at these stations, by rank: an error or None."""
    store = dist.HashStore()
    with ThreadPoolExecutor(len(stations)) as threads:
        futures = [threads.submit(meet, store, rank, len(stations), one) for rank, one in enumerate(stations)]
        return [future.exception() for future in futures]


@pytest.mark.parametrize("stations", [[HERE], [HERE, HERE], [HERE, THERE], [HERE, THERE, replace(HERE, name="three")]])
def test_ranks_that_reach_each_other_meet(stations):
    assert met(stations) == [None] * len(stations)


def test_who_cannot_be_reached_is_named_on_all_ranks():
    away = replace(HERE, name="away", address="255.255.255.255")
    errors = met([HERE, THERE, away])
    assert all(isinstance(error, Unreachable) for error in errors)
    (line,) = {str(error) for error in errors}
    for machine in (HERE, THERE):
        assert f"{machine.machine} cannot reach {away.machine} at port " in line
    assert line.count("cannot reach") == 2 and "\n" not in line


def test_a_rank_that_never_comes_is_waited_for_within_bounds(monkeypatch):
    monkeypatch.setattr(meeting, "MEET_SECONDS", 0.2)
    with pytest.raises(PeerLost) as error:
        meet(dist.HashStore(), 0, 2, HERE)
    assert not isinstance(error.value, Unreachable)


def test_a_store_is_reached_or_its_place_is_named():
    master = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    reached_store(("127.0.0.1", master.port), HERE).set("here", "1")
    assert master.get("here") == b"1"
    with pytest.raises(Unreachable, match=r"one \(127\.0\.0\.1\) cannot reach 255\.255\.255\.255 at port 7;"):
        reached_store(("255.255.255.255", 7), HERE)
