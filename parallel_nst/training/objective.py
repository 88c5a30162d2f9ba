"""What is trained, as the loop sees it: networks, and the phases in which optimisers take their turns at them.

An objective knows its networks and losses; the loop (`training.fit`) knows steps, checkpoints and ranks. The loss of a
phase is computed in the `forward` of a module that registers the parameters this phase trains and no others, so that
`DistributedDataParallel` can be put round it: what DDP sees is one forward, one backward, each gradient once.

Every loss is a mean over the batch of a per-picture quantity. The mean over ranks of the gradients of equal slices of a
batch is then the gradient of the batch, exactly so with instance normalisation; batch normalisation takes its
statistics from each rank's slice, and is that of a smaller batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from parallel_nst.networks.generators.base import Generator

TOTAL = "total"
"""The loss that is differentiated."""

Batch = Mapping[str, Tensor]
"""Name of a source to its pictures (B, 3, H, W), RGB in [0, 1]: {"images": ...}, or {"a": ..., "b": ...}."""

Losses = dict[str, Tensor]
"""Scalars by name; `TOTAL` is differentiated, the others are for the record."""


@dataclass(frozen=True, eq=False)
class Phase:
    """One optimiser's turn in a step. Compared by identity.

    name: of its losses in the records; one of each within an objective.
    module: forward(batch: Batch) -> Losses; registers exactly the parameters that this phase trains.
    optimizer: over those parameters.
    schedule: stepped once a step, and a pure function of the step (`LambdaLR`); None keeps the rate.
    clip: largest norm of the gradient over all of the module's parameters; None leaves it as it is.
    """

    name: str
    module: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler | None = None
    clip: float | None = None


class TrainingObjective(Protocol):
    """What the loop trains.

    networks: all that is trained, by name, unwrapped; what checkpoints hold.
    generators: what is written at the end, by name ("generator"; "a2b", "b2a"); empty where the objective's own code
    writes its result.
    phases: in the order of their turns within a step.
    """

    @property
    def networks(self) -> Mapping[str, nn.Module]: ...

    @property
    def generators(self) -> Mapping[str, Generator]: ...

    @property
    def phases(self) -> Sequence[Phase]: ...

    def memory(self) -> Mapping[str, Any]:
        """Whatever else a resume to the bit needs, such as image pools and the state of their random generator, as
        tensors and plain containers only. Each rank has its own."""
        ...

    def restore(self, memory: Mapping[str, Any]) -> None:
        """Take back what `memory` gave."""
        ...

    def sample(self, inputs: Batch) -> Tensor:
        """Pictures (n, 3, H, W) in [0, 1] to look at, from fixed inputs; leaves no trace in what is trained."""
        ...
