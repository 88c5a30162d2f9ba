"""What has the embedded backbone learnt, and what does it cost?

For each weights file: the share of the teacher's variance that the best 1x1 head on each tap leaves unexplained, on
photographs that were not trained on. Heads are fitted by ridge regression here, alike for every file, so that files
can be compared whatever heads they were trained with. Cost: arithmetic, parameters, bytes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import page
import torch
from safetensors import safe_open
from torch import Tensor

from parallel_nst.networks.backbones.base import Backbone
from parallel_nst.networks.backbones.embedded import Embedded
from parallel_nst.networks.backbones.loading import build_backbone
from parallel_nst.networks.backbones.squeezenet import SqueezeNet
from parallel_nst.networks.weights.states import read_state
from parallel_nst.training.distill import Distiller, DistillSettings, batches, load_photos, split

RIDGE = 1e-3  # of the features' mean square


def positions(features: Tensor) -> Tensor:
    """(N, C, H, W) -> (N H W, C), with a column of ones."""
    rows = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])
    return torch.cat([rows, torch.ones(len(rows), 1)], 1).double()


@torch.no_grad()
def unexplained(backbone: Backbone, model: Distiller, train: list[Tensor], test: list[Tensor]) -> list[float]:
    """Mean over teacher channels of the residual variance, for each tap."""
    left = []
    for tap, target in model.taps:
        xx, xy, x_test, y_test = 0.0, 0.0, [], []
        for crops, fit in [(c, True) for c in train] + [(c, False) for c in test]:
            x, y = positions(backbone(crops, [tap])[tap]), positions(model.teach(crops)[target])[:, :-1]
            if fit:
                xx, xy = xx + x.T @ x, xy + x.T @ y
            else:
                x_test.append(x), y_test.append(y)
        head = torch.linalg.solve(xx + RIDGE * xx.diagonal().mean() * torch.eye(len(xx)), xy)
        x, y = torch.cat(x_test), torch.cat(y_test)
        left.append(float(((y - x @ head).square().mean(0) / y.var(0).clamp_min(1e-6)).mean()))
    return left


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
    settings = DistillSettings()
    teacher = SqueezeNet()
    state = read_state(arguments.teacher)
    teacher.load_state_dict({key: value for key, value in state.items() if key.startswith("features.")})
    model = Distiller(settings, teacher.requires_grad_(False))
    training, held_out = split(load_photos(arguments.photos), settings)
    streams = batches(training, settings, 0), batches(held_out, settings, 1)
    train, test = ([stream.at(step)["images"] for step in range(n)] for stream, n in zip(streams, (12, 6), strict=True))
    rows, histories = [], []
    for path in arguments.weights:
        backbone = build_backbone("embedded", read_state(path))
        assert isinstance(backbone, Embedded)
        errors = unexplained(backbone, model, train, test)
        parameters = sum(p.numel() for p in backbone.parameters())
        cost = f"{arithmetic(backbone):.3f}", f"{parameters / 1e6:.2f}", f"{path.stat().st_size / 1e6:.1f}"
        rows.append([path.stem, *(f"{error:.2f}" for error in errors), *cost])
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        if "settings" in metadata:
            histories.append(
                f"`{path.stem}` was made by `parallel_nst/training/distill.py` with `{metadata['settings']}`; "
                f"its errors as shipped, with the heads it was trained with: {metadata['errors']}."
            )
    header = ["weights", *(f"{tap} to {target}" for tap, target in settings.taps), "MFLOP/px", "M parameters", "MB"]
    parts = [
        "Share of the variance of SqueezeNet's features, each channel standardised, that the best 1x1 head on a tap "
        "leaves unexplained, on held-out photographs: 0 is perfect, 1 knows nothing.",
        page.table(header, rows),
        *histories,
    ]
    print(page.write(__file__, "What the embedded backbone has learnt", parts))


if __name__ == "__main__":
    main()
