"""A tiny objective of two phases for tests of the training loop: it draws at random, remembers, decays its rates."""

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from parallel_nst.training.batches import Batches
from parallel_nst.training.objective import Phase
from parallel_nst.training.settings import CropSettings


class Painter(nn.Module):
    """Wants its output to be grey, and the critic to like it; per-picture losses, averaged."""

    def __init__(self, network, critic, past, noise):
        super().__init__()
        self.network, self.noise = network, noise
        self._critic, self._past = (critic,), past

    def forward(self, batch):
        given = batch["images"]
        made = self.network(given + self.noise * torch.rand(1))
        self._past.append(made.detach().clone())
        grey = (made - made.mean(1, keepdim=True)).square().mean()
        liked = (self._critic[0](made) - 1).square().mean()
        return {"total": grey + 0.1 * liked, "grey": grey, "liked": liked}


class Critic(nn.Module):
    """Tells what the painter made lately, one step in the past, from what it was given."""

    def __init__(self, network, past):
        super().__init__()
        self.network, self._past = network, past

    def forward(self, batch):
        old = self._past.pop(0) if len(self._past) > 1 else self._past[0]
        return {"total": (self.network(batch["images"]) - 1).square().mean() + self.network(old).square().mean()}


class Lesson:
    """The objective. noise: of the painter's input, drawn from PyTorch's own generator."""

    def __init__(self, width=4, noise=0.1, clip=None):
        torch.manual_seed(0)
        painter = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.InstanceNorm2d(width), nn.Conv2d(width, 3, 1))
        critic = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.LazyLinear(1))
        critic(torch.zeros(1, 3, 8, 8))
        self.networks = {"painter": painter, "critic": critic}
        self.generators = {}
        self.past = []
        self.phases = [
            self._phase("paint", Painter(painter, critic, self.past, noise), clip),
            self._phase("judge", Critic(critic, self.past), clip),
        ]

    def _phase(self, name, module, clip):
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
        return Phase(name, module, optimizer, LambdaLR(optimizer, lambda step: 0.9**step), clip)

    def memory(self):
        return {"past": list(self.past)}

    def restore(self, memory):
        self.past[:] = memory["past"]

    def sample(self, inputs):
        return self.networks["painter"](inputs["images"])


def pictures(count=9):
    return [np.random.default_rng(i).integers(0, 256, (10, 12, 3), np.uint8) for i in range(count)]


def stream(batch=4, **options):
    return Batches({"images": pictures()}, batch, CropSettings(8, flip=True), **options)


def weights(lesson):
    """All numbers of the networks in one vector."""
    return torch.cat(
        [value.flatten() for network in lesson.networks.values() for value in network.state_dict().values()]
    )


def everything(lesson):
    """All that a run's future depends on."""
    return {
        "networks": {name: network.state_dict() for name, network in lesson.networks.items()},
        "optimizers": [phase.optimizer.state_dict() for phase in lesson.phases],
        "schedules": [phase.schedule.state_dict()["last_epoch"] for phase in lesson.phases],
        "memory": lesson.memory(),
        "random": torch.get_rng_state(),
    }


def step_on(phase, batch):
    """Take a phase's step on a batch; the total loss before it."""
    losses = phase.module(batch)
    phase.optimizer.zero_grad()
    losses["total"].backward()
    phase.optimizer.step()
    phase.schedule.step()
    return float(losses["total"].detach())
