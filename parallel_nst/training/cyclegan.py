"""Training of two generators that turn pictures of one kind into those of another and back, without pairs.

Zhu, Park, Isola, Efros: Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks, 2017 (arXiv
1703.10593), with the losses, weights, first weights and schedule of the official PyTorch code.

A and B are the two kinds; a and b real pictures (N, 3, H, W), RGB in [0, 1]. Losses count pixels from -1 to 1, as the
official code does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from parallel_nst.networks.discriminators import DISCRIMINATORS, Discriminator
from parallel_nst.networks.generators.base import Generator
from parallel_nst.networks.generators.published import build_generator
from parallel_nst.painting.gatys.losses import wide
from parallel_nst.training.objective import Batch, Losses, Phase
from parallel_nst.training.settings import CycleSettings

INIT_DEVIATION = 0.02
SIGNED = 2.0  # pixels of [-1, 1] in one of [0, 1]


def share_at(settings: CycleSettings, epoch_steps: int) -> Callable[[int], float]:
    """Share of the learning rate at a step, by epochs of so many steps. Linear: 1 - max(0, epoch + 1 - constant) /
    (decay + 1), epochs from 0, as `lambda_rule` of the official code has it."""

    def linear(step: int) -> float:
        late = step // epoch_steps + 1 - settings.constant_epochs
        return max(0.0, 1 - max(0, late) / (settings.decay_epochs + 1))

    def exponential(step: int) -> float:
        return float(settings.decay_factor ** (step // epoch_steps // settings.decay_every))

    return linear if settings.decay == "linear" else exponential


class PicturePool:
    """A store of generated pictures, from which the discriminators get the new one or, half of the time, an old one in
    its place (Shrivastava et al. 2017, arXiv 1612.07828, section 2.3).

    size: pictures kept; 0 keeps none. Its random numbers are its own.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self._pictures: list[Tensor] = []
        self._random = torch.Generator().manual_seed(seed)

    def exchange(self, pictures: Tensor) -> Tensor:
        """As many pictures (N, 3, H, W) as are given, each one of them or one from before."""
        return torch.stack([self._exchange(picture) for picture in pictures.detach()])

    def _exchange(self, picture: Tensor) -> Tensor:
        if len(self._pictures) < self.size:
            self._pictures.append(picture.clone())  # else all of its batch stays with it
            return picture
        if self.size == 0 or torch.rand((), generator=self._random) <= 0.5:
            return picture
        place = int(torch.randint(self.size, (), generator=self._random))
        old, self._pictures[place] = self._pictures[place], picture.clone()
        return old

    def memory(self) -> dict[str, Any]:
        """All that its future depends on."""
        return {"pictures": [picture.cpu() for picture in self._pictures], "random": self._random.get_state()}

    def restore(self, memory: Mapping[str, Any], device: torch.device | str) -> None:
        """Go on as if nothing had happened."""
        self._pictures = [picture.to(device) for picture in memory["pictures"]]
        self._random.set_state(memory["random"])


class Turning(nn.Module):
    """The generators' turn: fool the discriminators, come back, leave alone what needs no change.

    forward: {"a": ..., "b": ...} -> losses, each times its weight and a mean over the pictures; what they turned into
    is left in `made` for the discriminators' turn.
    """

    def __init__(
        self, a2b: Generator, b2a: Generator, judges: Sequence[Discriminator], settings: CycleSettings
    ) -> None:
        """judges: of A and of B."""
        super().__init__()
        self.a2b, self.b2a = a2b, b2a
        self._judges = tuple(judges)  # in a tuple: they are not trained in this turn
        self.settings = settings
        self.made: dict[str, Tensor] = {}

    def forward(self, batch: Batch) -> Losses:
        a, b = batch["a"], batch["b"]
        fake_b, fake_a = turned(self.a2b, a), turned(self.b2a, b)
        self.made = {"a": fake_a.detach(), "b": fake_b.detach()}
        of_a, of_b = self._judges
        freeze(self._judges)
        losses = {"fool_a": squared(of_a(fake_a), 1.0), "fool_b": squared(of_b(fake_b), 1.0)}
        thaw(self._judges)
        if self.settings.cycle:
            weight = self.settings.cycle_weight
            losses["cycle_a"] = weight * distance(turned(self.b2a, fake_b), a)
            losses["cycle_b"] = weight * distance(turned(self.a2b, fake_a), b)
        if self.settings.identity_weight:
            weight = self.settings.cycle_weight * self.settings.identity_weight
            losses["identity_a"] = weight * distance(turned(self.b2a, a), a)
            losses["identity_b"] = weight * distance(turned(self.a2b, b), b)
        return {"total": torch.stack(list(losses.values())).sum(), **losses}


class Judging(nn.Module):
    """A discriminator's turn: 1 for real pictures, 0 for generated ones; half the sum of the two squared errors (Mao
    et al. 2017, arXiv 1611.04076, eq. 2, with the official code's factor).

    forward: {"a": ..., "b": ...} -> losses.
    """

    def __init__(self, judge: Discriminator, kind: str, turning: Turning, pool: PicturePool) -> None:
        """kind: "a" or "b", what it knows. turning: whose pictures it judges."""
        super().__init__()
        self.judge, self.kind, self.pool = judge, kind, pool
        self._turning = (turning,)  # in a tuple: its generators are not trained in this turn

    def forward(self, batch: Batch) -> Losses:
        fakes = self.pool.exchange(self._turning[0].made[self.kind])
        losses = {
            "real": squared(self.judge(batch[self.kind]), 1.0) / 2,
            "fake": squared(self.judge(fakes), 0.0) / 2,
        }
        return {"total": losses["real"] + losses["fake"], **losses}


def turned(generator: Generator, pictures: Tensor) -> Tensor:
    """What a generator makes of pictures, not clamped, in float32 whatever it computes in."""
    return wide(generator(pictures, clamp=False))


def squared(scores: Tensor, wanted: float) -> Tensor:
    """Mean squared error of scores (N, 1, h, w)."""
    return (wide(scores) - wanted).square().mean()


def distance(pictures: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute difference, in pixels of [-1, 1]."""
    return SIGNED * (pictures - wanted).abs().mean()


def freeze(networks: Iterable[nn.Module]) -> None:
    """Let gradients pass through, but not into, their weights."""
    for network in networks:
        network.requires_grad_(False)


def thaw(networks: Iterable[nn.Module]) -> None:
    """Take gradients again."""
    for network in networks:
        network.requires_grad_(True)


def new_generator(settings: CycleSettings) -> Generator:
    """One generator, with whatever weights its layers begin with."""
    width = settings.generator_width
    if settings.generator == "dncnn":
        return build_generator("dncnn", {"depth": settings.depth, "width": width})
    blocks = int(settings.generator.removeprefix("resnet"))
    return build_generator("cyclegan-resnet", {"width": width, "blocks": blocks, "norm": settings.norm})


def new_discriminator(settings: CycleSettings) -> Discriminator:
    """One discriminator, with whatever weights its layers begin with."""
    width = {"width": settings.discriminator_width} if settings.discriminator_width else {}
    return DISCRIMINATORS[settings.discriminator](settings.norm, **width)


@torch.no_grad()
def begin_normal(network: nn.Module) -> None:
    """Convolutions from a normal distribution of deviation 0.02 and biases of 0; scales of batch normalisation about 1
    (the official code's `init_weights`)."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, INIT_DEVIATION)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, INIT_DEVIATION)
            nn.init.zeros_(layer.bias)


class CycleGAN:
    """The objective that the loop trains (see `training.objective`): two generators in one phase, then each
    discriminator in its own. The official code has one Adam for both discriminators; as Adam treats every number by
    itself, that is the same.

    epoch_steps: steps that the schedule takes for an epoch. rank: in a group of processes; each has pools of its own.
    """

    def __init__(
        self, settings: CycleSettings, *, epoch_steps: int, rank: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        self.settings, self._device = settings, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            a2b, b2a = new_generator(settings), new_generator(settings)
            of_a, of_b = new_discriminator(settings), new_discriminator(settings)
            self.networks: Mapping[str, nn.Module] = {"a2b": a2b, "b2a": b2a, "judge_a": of_a, "judge_b": of_b}
            for network in self.networks.values():
                begin_normal(network)
                network.to(device)
        self.generators: Mapping[str, Generator] = {"a2b": a2b, "b2a": b2a}
        self._pools = {
            kind: PicturePool(settings.pool, seed=2 * (settings.seed + 1_000_003 * rank) + number)
            for number, kind in enumerate("ab")
        }
        turning = Turning(a2b, b2a, (of_a, of_b), settings)
        judging = [
            Judging(judge, kind, turning, self._pools[kind]) for kind, judge in zip("ab", (of_a, of_b), strict=True)
        ]
        share = share_at(settings, epoch_steps)
        self.phases: Sequence[Phase] = [
            self._phase("generators", turning, share),
            self._phase("discriminator_a", judging[0], share),
            self._phase("discriminator_b", judging[1], share),
        ]

    def _phase(self, name: str, module: nn.Module, share: Callable[[int], float]) -> Phase:
        """With its Adam and its schedule."""
        betas = (self.settings.beta1, 0.999)
        optimizer = torch.optim.Adam(module.parameters(), lr=self.settings.learning_rate, betas=betas)
        return Phase(name, module, optimizer, LambdaLR(optimizer, share))

    def memory(self) -> Mapping[str, Any]:
        """The pools."""
        return {kind: pool.memory() for kind, pool in self._pools.items()}

    def restore(self, memory: Mapping[str, Any]) -> None:
        """The pools as they were."""
        for kind, pool in self._pools.items():
            pool.restore(memory[kind], self._device)

    @torch.no_grad()
    def sample(self, inputs: Batch) -> Tensor:
        """a, b made of it, b, a made of it, side by side: pictures (N, 3, H, 4 W)."""
        a, b = inputs["a"], inputs["b"]
        training = [generator.training for generator in self.generators.values()]
        for generator in self.generators.values():
            generator.eval()
        row = torch.cat([a, self.generators["a2b"](a), b, self.generators["b2a"](b)], -1)
        for generator, mode in zip(self.generators.values(), training, strict=True):
            generator.train(mode)
        return row
