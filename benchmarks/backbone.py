"""What has the embedded backbone learnt, and what does it cost?

For each weights file: the share of the teacher's variance that the best 1x1 head on each tap leaves unexplained, on
photographs that were not trained on. Heads are fitted by ridge regression here, alike for every file, so that files
can be compared whatever heads they were trained with. Cost: arithmetic, parameters, bytes.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from pathlib import Path

import page
import torch
from safetensors import safe_open
from torch import Tensor

from parallel_nst.networks.backbones.base import Backbone
from parallel_nst.networks.backbones.embedded import Embedded
from parallel_nst.networks.backbones.loading import build_backbone
from parallel_nst.networks.weights.states import read_state
from parallel_nst.training.distill.distiller import Distiller
from parallel_nst.training.distill.photographs import batches, load_photos, split
from parallel_nst.training.distill.settings import DistillSettings
from parallel_nst.workers.opening import resolved_dtype

RIDGE = 1e-3  # of the features' mean square


@dataclass(frozen=True)
class Moments:
    """What a least squares fit of `y` by `x` needs, summed over positions."""

    xx: Tensor
    xy: Tensor
    yy: Tensor
    y: Tensor
    count: int

    def __add__(self, other: Moments) -> Moments:
        sums = (getattr(self, field.name) + getattr(other, field.name) for field in fields(self))
        return Moments(*sums)


def positions(features: Tensor) -> Tensor:
    """(N, C, H, W) -> (N H W, C)."""
    return features.permute(0, 2, 3, 1).reshape(-1, features.shape[1]).double()


def moments(features: Tensor, wanted: Tensor) -> Moments:
    """Of a student's features, with a column of ones, and a teacher's."""
    x, y = torch.nn.functional.pad(positions(features), (0, 1), value=1.0), positions(wanted)
    return Moments(x.T @ x, x.T @ y, y.square().sum(0), y.sum(0), len(x))


@torch.no_grad()
def measured(backbone: Backbone, model: Distiller, crops: list[Tensor]) -> dict[str, Moments]:
    """Over all crops, by tap."""
    sums: dict[str, Moments] = {}
    for batch in crops:
        features, wanted = backbone(batch, [tap for tap, _ in model.taps]), model.teach(batch)
        for tap, target in model.taps:
            here = moments(features[tap], wanted[target])
            sums[tap] = sums[tap] + here if tap in sums else here
    return sums


def unexplained(train: Moments, test: Moments) -> float:
    """Mean over teacher channels of the residual variance of the head that fits `train` best."""
    ridge = RIDGE * train.xx.diagonal().mean() * torch.eye(len(train.xx))
    head = torch.linalg.solve(train.xx + ridge, train.xy)
    left = test.yy - 2 * (head * test.xy).sum(0) + (head * (test.xx @ head)).sum(0)
    variance = test.yy - test.y.square() / test.count
    return float((left / variance.clamp_min(1e-6)).mean())


def arithmetic(backbone: Embedded) -> float:
    """Forward MFLOP for each px of the image."""
    return (
        sum(
            2 * block.module.weight.numel() / backbone.layers[block.name].stride ** 2
            for block in backbone.blocks
            if isinstance(block.module, torch.nn.Conv2d)
        )
        / 1e6
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--weights", type=Path, nargs="+", required=True)
    arguments = parser.parse_args()
    settings = DistillSettings(recoloured=0.0, noisy=0.0, dtype=resolved_dtype("auto", "cpu"))
    model = Distiller(settings, build_backbone(settings.teacher, read_state(arguments.teacher)))
    streams = (batches(photos, settings, 1) for photos in split(load_photos(arguments.photos), settings))
    train, test = ([stream.at(step)["images"] for step in range(n)] for stream, n in zip(streams, (10, 6), strict=True))
    rows, histories = [], []
    for path in arguments.weights:
        backbone = build_backbone("embedded", read_state(path))
        assert isinstance(backbone, Embedded)
        fitted, held_out = (measured(backbone, model, crops) for crops in (train, test))
        errors = [unexplained(fitted[tap], held_out[tap]) for tap, _ in model.taps]
        parameters = sum(p.numel() for p in backbone.parameters())
        cost = f"{arithmetic(backbone):.3f}", f"{parameters / 1e6:.2f}", f"{path.stat().st_size / 1e6:.1f}"
        rows.append([path.stem, *(f"{error:.2f}" for error in errors), *cost])
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        if "settings" in metadata:
            histories.append(
                f"`{path.stem}` was made by `parallel_nst/training/distill` with `{metadata['settings']}`; "
                f"its errors as shipped, with the heads it was trained with: {metadata['errors']}."
            )
    header = ["weights", *(f"{tap} to {target}" for tap, target in settings.taps), "MFLOP/px", "M parameters", "MB"]
    parts = [
        f"Share of the variance of {settings.teacher}'s features, each channel standardised, that the best 1x1 head "
        "on a tap leaves unexplained, on held-out photographs: 0 is perfect, 1 knows nothing.",
        page.table(header, rows),
        *histories,
    ]
    print(page.write(__file__, "What the embedded backbone has learnt", parts))


if __name__ == "__main__":
    main()
