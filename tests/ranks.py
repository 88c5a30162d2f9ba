"""Ranks for tests: threads of this process."""

from concurrent.futures import ThreadPoolExecutor

import torch

from parallel_nst.workers.ranks.communicator import Alone
from parallel_nst.workers.ranks.threads import ThreadGroup


def on_ranks(size, work, seconds=20.0):
    """`work(communicator)` on so many ranks at once; their results, in the order of ranks."""
    if size == 1:
        return [work(Alone())]
    group = ThreadGroup(size, seconds)

    def guarded(communicator):
        torch.set_num_threads(1)  # a thread's own
        try:
            return work(communicator)
        except BaseException:
            group.abort()
            raise

    with ThreadPoolExecutor(size) as threads:
        futures = [threads.submit(guarded, communicator) for communicator in group.communicators]
        errors = [error for future in futures if (error := future.exception())]
        if errors:
            raise min(errors, key=lambda error: type(error).__name__ == "PeerLost")
        return [future.result() for future in futures]
