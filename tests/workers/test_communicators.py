"""Ranks hear each other in a fixed order, sums repeat to the bit, and nobody waits for ever: threads and processes."""

import os
import signal

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from ranks import on_ranks

from parallel_nst.workers.ranks.communicator import SMALL, Alone, PeerLost, added, sum_in_order
from parallel_nst.workers.ranks.place import CPU
from parallel_nst.workers.ranks.processes import ProcessCommunicator
from parallel_nst.workers.ranks.stations import station_here
from parallel_nst.workers.ranks.threads import ThreadGroup


def values_of(count, length, dtype=torch.float32):
    """Numbers of very different size, whose sum depends on the order."""
    generator = torch.Generator().manual_seed(length)
    return torch.randn(count, length, generator=generator, dtype=dtype) * 10.0 ** torch.arange(count)[:, None]


def summed(ranks, counts, length, dtype):
    """Each rank has the next so many of all parts."""
    parts, first = values_of(sum(counts), length, dtype), sum(counts[: ranks.rank])
    return sum_in_order(ranks, iter(parts[first : first + counts[ranks.rank]]), counts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", [1, 7, SMALL + 5])
@pytest.mark.parametrize("counts", [[6], [1, 5], [2, 2, 2], [3, 1, 1, 1], [1] * 6])
def test_a_sum_has_the_same_bits_whoever_has_which_part(counts, length, dtype):
    expected = added(values_of(6, length, dtype))
    assert expected.dtype == torch.float64
    for found in on_ranks(len(counts), lambda ranks: summed(ranks, counts, length, dtype)):
        assert torch.equal(found, expected)


def test_a_sum_leaves_its_parts_alone():
    part = torch.ones(3, dtype=torch.float64)
    assert sum_in_order(Alone(), [part, part], [2]).tolist() == [2.0] * 3
    assert part.tolist() == [1.0] * 3


def ring(ranks):
    """Everybody's number, and what a rank gets from the one before it when each sends to the next."""
    own = torch.full((2, 2), float(ranks.rank))
    everyone = [int(values[0, 0]) for values in ranks.gather(own)]
    received = torch.empty(2, 2)
    ranks.exchange({(ranks.rank + 1) % ranks.size: own}, {(ranks.rank - 1) % ranks.size: received})
    ranks.exchange({}, {})
    return everyone, received.tolist()


@pytest.mark.parametrize("size", [2, 3, 5])
def test_ranks_hear_each_other_in_order(size):
    for rank, (everyone, received) in enumerate(on_ranks(size, ring)):
        assert everyone == list(range(size))
        assert received == [[(rank - 1) % size] * 2] * 2


def test_messages_of_a_pair_keep_their_order():
    def many(ranks):
        peer, found = 1 - ranks.rank, []
        for number in range(50):
            received = torch.empty(1)
            ranks.exchange({peer: torch.tensor([float(number)])}, {peer: received})
            found.append(int(received))
        return found

    assert on_ranks(2, many) == [list(range(50))] * 2


def test_a_thread_that_says_nothing_is_lost():
    with pytest.raises(PeerLost, match=r"rank 1 has not answered within 0\.2 s"):
        on_ranks(2, lambda ranks: None if ranks.rank else ranks.gather(torch.zeros(1)), seconds=0.2)


def test_a_thread_that_fails_lets_nobody_wait():
    def failing(ranks):
        if ranks.rank == 1:
            raise KeyError("this")
        return ranks.gather(torch.zeros(1))

    with pytest.raises(KeyError, match="this"):
        on_ranks(3, failing, seconds=600)


def test_after_the_end_of_a_group_every_call_fails():
    group = ThreadGroup(2, 600)
    group.abort()
    for _ in range(2):
        with pytest.raises(PeerLost, match="given up"):
            group.communicators[0].gather(torch.zeros(1))
        with pytest.raises(PeerLost, match="given up"):
            group.communicators[0].exchange({}, {1: torch.zeros(1)})


# Processes


def in_process(rank, port, folder):
    """What each of three processes does: the same as the threads above; then the last one falls silent, and is heard
    in another group; then it dies."""
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, 3, is_master=False)

    def group(name, seconds):
        station = station_here(f"127.0.0.{rank + 1}", CPU)  # as if on machines of their own
        return ProcessCommunicator(dist.PrefixStore(name, store), rank, 3, station, CPU, seconds)

    def lost(call):
        with pytest.raises(PeerLost) as error:
            call()
        return str(error.value)

    ranks = group("first", 5.0)
    found = {"ring": ring(ranks), "lost": []}
    for length, dtype in SUMS:
        found[length, dtype] = summed(ranks, [3, 1, 2], length, dtype)
    if rank == 2:
        store.wait(["heard/0", "heard/1"])
    else:
        found["lost"].append(lost(lambda: ranks.exchange({}, {2: torch.zeros(1)})))
        found["lost"].append(lost(lambda: ranks.gather(torch.zeros(1))))
        store.set(f"heard/{rank}", "")
    ranks.close()
    ranks = group("second", 600.0)
    found["again"] = ring(ranks)
    torch.save(found, folder / str(rank))
    if rank == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    found["lost"].append(lost(lambda: ranks.gather(torch.zeros(1))))
    ranks.close()
    torch.save(found, folder / str(rank))


SUMS = [(length, dtype) for length in (7, SMALL + 5) for dtype in (torch.float32, torch.float64)]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of three processes has seen."""
    folder = tmp_path_factory.mktemp("ranks")
    store = dist.TCPStore("127.0.0.1", 0, 3, is_master=True, wait_for_workers=False)
    context = processes.get_context("spawn")
    children = [context.Process(target=in_process, args=(rank, store.port, folder)) for rank in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, -signal.SIGKILL]
    return [torch.load(folder / str(rank)) for rank in range(3)]


def test_processes_do_as_threads_do(found):
    for rank, results in enumerate(found):
        assert results["ring"] == results["again"] == ([0, 1, 2], [[(rank - 1) % 3] * 2] * 2)
        for length, dtype in SUMS:
            assert torch.equal(results[length, dtype], added(values_of(6, length, dtype)))


def test_a_process_that_is_silent_or_dead_is_lost(found):
    for results in found[:2]:
        assert len(results["lost"]) == 3 and not any("\n" in line for line in results["lost"])
