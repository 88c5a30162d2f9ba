"""Ranks that are processes, on one machine or on many: `torch.distributed`, gloo on processors and nccl on GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import Store  # type: ignore[attr-defined]

from parallel_nst.workers.ranks.meeting import lost_peers, meet
from parallel_nst.workers.ranks.stations import Station


class ProcessCommunicator:
    """As `Communicator`, over the default group of `torch.distributed`, which this opens and closes.

    store: where the ranks find each other; each group needs keys of its own there. station: of this rank. device: of
    its tensors, which chooses the backend. seconds: how long a rank waits for another one. `Unreachable` where machines
    do not reach each other.
    """

    def __init__(
        self, store: Store, rank: int, size: int, station: Station, device: torch.device, seconds: float
    ) -> None:
        self.rank, self.size = rank, size
        self._device = device
        backend = "nccl" if device.type == "cuda" else "gloo"
        meet(store, rank, size, station)
        with lost_peers():
            dist.init_process_group(
                backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=seconds)
            )

    def gather(self, values: Tensor) -> list[Tensor]:
        own = values.to(self._device).contiguous()
        everyone = [torch.empty_like(own) for _ in range(self.size)]
        with lost_peers():
            dist.all_gather(everyone, own)
        return [theirs.to(values.device) for theirs in everyone]

    def exchange(self, sent: Mapping[int, Tensor], received: Mapping[int, Tensor]) -> None:
        operations = [dist.P2POp(dist.isend, values, peer) for peer, values in sent.items()]
        operations += [dist.P2POp(dist.irecv, values, peer) for peer, values in received.items()]
        with lost_peers():
            for work in dist.batch_isend_irecv(operations) if operations else ():
                work.wait()

    def close(self) -> None:
        """Leave the group, without waiting for the others."""
        if dist.is_initialized():
            dist.destroy_process_group()
