"""The student beside its teacher: what it is held against."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from parallel_nst.networks.backbones.base import Backbone
from parallel_nst.training.distill.settings import FRAMES, DistillSettings
from parallel_nst.training.distill.student import NormalisedStudent


class Distiller(nn.Module):
    """The student with its heads, and the teacher's statistics they are trained against."""

    def __init__(self, settings: DistillSettings, teacher: Backbone) -> None:
        super().__init__()
        self.student: NormalisedStudent | Backbone = NormalisedStudent(settings.widths)
        self.settings, self.taps = settings, settings.taps
        self._teacher = [teacher]  # in a list: it is no part of what is trained or saved
        self.heads = nn.ModuleDict()
        for tap, target in settings.taps:
            channels = teacher.layers[target].channels
            self.heads[tap] = nn.Conv2d(self.student.backbone.layers[tap].channels, channels, 1)
            self.register_buffer(f"mean_{target}", torch.zeros(1, channels, 1, 1))
            self.register_buffer(f"std_{target}", torch.ones(1, channels, 1, 1))

    @torch.no_grad()
    def teach(self, crops: Tensor) -> dict[str, Tensor]:
        """The teacher's features of `crops` (N, 3, H, W), on the student's own grids, in float32."""
        teacher, frame = self._teacher[0], FRAMES[self.settings.teacher]
        framed = F.pad(crops, (frame.px,) * 4, mode="reflect")
        features = teacher(framed, [target for _, target in self.taps], getattr(torch, self.settings.dtype))
        cuts = {name: frame.px // teacher.layers[name].stride if frame.cut else 0 for name in features}
        return {name: F.pad(values, (-cuts[name],) * 4).float() for name, values in features.items()}

    @torch.no_grad()
    def measure(self, batches: list[Tensor]) -> None:
        """Set each teacher channel's mean and standard deviation from sample batches."""
        samples = [self.teach(batch) for batch in batches]
        for _, target in self.taps:
            values = torch.cat([sample[target].transpose(0, 1).flatten(1) for sample in samples], 1)
            self.get_buffer(f"mean_{target}").copy_(values.mean(1).view(1, -1, 1, 1))
            self.get_buffer(f"std_{target}").copy_(values.std(1).clamp_min(1e-3).view(1, -1, 1, 1))

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared standardised error of each tap, and the relative error of its Gram matrices, each (taps,)."""
        targets = self.teach(crops)
        features = self.student(crops, [tap for tap, _ in self.taps])
        errors, gaps = [], []
        for tap, target in self.taps:
            mean, std = self.get_buffer(f"mean_{target}"), self.get_buffer(f"std_{target}")
            guess = self.heads[tap](features[tap]).float()
            guess = F.interpolate(guess, size=targets[target].shape[-2:], mode="bilinear", align_corners=False)
            errors.append(F.mse_loss(guess, (targets[target] - mean) / std))
            gaps.append(gram_gap(guess * std + mean, targets[target]))
        return torch.stack(errors), torch.stack(gaps)


def gram_gap(guess: Tensor, wanted: Tensor) -> Tensor:
    """Mean over crops of |G - G_wanted|^2 / |G_wanted|^2, with G the outer products of features (N, C, H, W)."""
    one, other = (x.flatten(2) @ x.flatten(2).transpose(1, 2) for x in (guess, wanted))
    return ((one - other).square().sum((1, 2)) / other.square().sum((1, 2)).clamp_min(1e-12)).mean()
