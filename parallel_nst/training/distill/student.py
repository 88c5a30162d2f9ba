"""The network that learns."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from parallel_nst.networks.backbones.embedded import Embedded


class NormalisedStudent(nn.Module):
    """The embedded backbone with a batch normalisation behind each convolution."""

    def __init__(self, widths: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.backbone = Embedded(widths)
        self.norms = nn.ModuleDict(
            {name: nn.BatchNorm2d(conv.out_channels, momentum=0.02) for name, conv in self.convolutions()}
        )
        for _, conv in self.convolutions():
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")

    def convolutions(self) -> Iterator[tuple[str, nn.Conv2d]]:
        """Name and module of each convolution, in order."""
        for block in self.backbone.blocks:
            if isinstance(block.module, nn.Conv2d):
                yield block.name, block.module

    def forward(self, crops: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """As the backbone's own, normalised on the way."""
        features = {}
        x = (crops - self.backbone.mean) / self.backbone.std
        for block in self.backbone.blocks:
            x = block.module(x)
            if block.name in self.norms:
                x = self.norms[block.name](x)
            if block.name in names:
                features[block.name] = x
        return features

    @torch.no_grad()
    def begin_as(self, backbone: Embedded, crops: Tensor) -> None:
        """Compute what `backbone` computes, normalised by the statistics of `crops`."""
        self.backbone.load_state_dict(backbone.state_dict())
        for name, values in backbone(crops, list(self.norms)).items():
            norm = self.norms[name]
            assert isinstance(norm, nn.BatchNorm2d)
            assert norm.running_mean is not None and norm.running_var is not None
            variance, mean = torch.var_mean(values, (0, 2, 3))
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
            norm.weight.copy_((variance + norm.eps).sqrt())
            norm.bias.copy_(mean)

    @torch.no_grad()
    def fold(self) -> Embedded:
        """The backbone alone, computing what this module computes in evaluation mode."""
        folded = copy.deepcopy(self.backbone)
        for block in folded.blocks:
            if isinstance(block.module, nn.Conv2d):
                conv, norm = block.module, self.norms[block.name]
                assert isinstance(norm, nn.BatchNorm2d) and conv.bias is not None
                assert norm.running_mean is not None and norm.running_var is not None
                gain = norm.weight / (norm.running_var + norm.eps).sqrt()
                conv.weight.mul_(gain.view(-1, 1, 1, 1))
                conv.bias.copy_((conv.bias - norm.running_mean) * gain + norm.bias)
        return folded
