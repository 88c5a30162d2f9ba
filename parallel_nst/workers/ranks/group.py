"""One process of a group that trains together: PyTorch's own `DistributedDataParallel`, whoever started the group."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from parallel_nst.workers.ranks.place import CPU, Place
from parallel_nst.workers.ranks.stations import Station, check_alike


def place_in_group(device: torch.device = CPU) -> Place:
    """This process's place in the default group of `torch.distributed`, which must be there (`init_process_group`).

    device: of this process. Gradients are averaged over the ranks while they are computed.
    """
    return Place(dist.get_rank(), dist.get_world_size(), device, lambda module: wrapped(module, device), mean_of_ranks)


def check_group(own: Station) -> None:
    """ClusterUnavailable, on all ranks of the default group, where they are not alike. own: this rank's station."""
    stations: list[Station] = [own] * dist.get_world_size()
    dist.all_gather_object(stations, own)
    check_alike(stations)


def wrapped(module: nn.Module, device: torch.device) -> nn.Module:
    """A phase's module, already on its device, whose gradients become the mean over ranks.

    Buffers are not sent round: those of batch normalisation are not used while training, and what is saved is rank 0's,
    which is all that sending them would achieve.
    """
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=devices, broadcast_buffers=False)


def mean_of_ranks(value: Tensor) -> Tensor:
    """The mean over ranks of a tensor of floats that has the same shape on all; each rank gets it."""
    total = value.clone()
    dist.all_reduce(total)  # a sum; gloo has no mean
    return total / dist.get_world_size()
