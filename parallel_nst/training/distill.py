"""Train the embedded backbone: a narrow VGG-shaped network learns a teacher's features on photographs.

Each student tap gets a 1x1 head that predicts the teacher's features at the nearest resolution; the loss is the sum
over taps of the mean squared error with each teacher channel standardised (Hinton et al. 2015 with the hints of Romero
et al., FitNets, 2014). Errors are thus fractions of unexplained variance, from 0 (perfect) to 1 (knows nothing).
Beside it stands what the features are for: the Gram matrix of the prediction and that of the teacher, crop by crop.
Regression alone shrinks what it cannot explain towards the mean, and with it the Gram matrix.

While it learns, each convolution is followed by batch normalisation (Ioffe and Szegedy 2015), which is folded into its
weights at the end: the same function, trained several times faster.

Run as `python -m parallel_nst.training.distill --photos DIR --teacher FILE --output FILE`; a stopped run goes on from
its checkpoints when called again with the same settings.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from parallel_nst.networks.backbones.base import Backbone
from parallel_nst.networks.backbones.embedded import Embedded
from parallel_nst.networks.backbones.loading import build_backbone
from parallel_nst.networks.generators.base import Generator
from parallel_nst.networks.weights.quantised import dequantised, quantised, save_quantised
from parallel_nst.networks.weights.states import read_state
from parallel_nst.training.batches import Batches
from parallel_nst.training.fit import FitSettings, TrainingCallbacks, TrainingStatus, fit
from parallel_nst.training.objective import TOTAL, Batch, Losses, Phase

MEASURED = 20  # batches that the teacher's statistics are taken from, behind those that are trained on
CLIP = 5.0  # largest norm of the gradient
CHECKPOINT_EVERY = 100  # steps
EVALUATE_EVERY = 500  # steps

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TeacherFrame:
    """Reflected px around what a teacher sees, so that its features are those of a picture that goes on.

    cut: whether its own zero padding gives the frame positions, which are cut away again.
    """

    px: int
    cut: bool


FRAMES = {
    "vgg19": TeacherFrame(16, cut=True),  # zero padding darkens the rim of every layer
    # SqueezeNet's first convolution has no padding, so its grid is smaller than the student's and would have to be
    # stretched, up to 3 px out of place at the rim: a student trained so explains a third of that layer instead of nine
    # tenths. Half of its 7x7 window all round gives it the student's grid.
    "squeezenet": TeacherFrame(3, cut=False),
}


@dataclass(frozen=True)
class DistillSettings:
    """Every knob of the training.

    teacher: the backbone to learn from. widths: channels of each convolution, block by block.
    taps: student layer -> teacher layer. gram_weight: of the Gram matrices' errors beside those of the features.
    crop: px, square. shrink: one crop in four is cut from the photograph reduced by this factor.
    recoloured, noisy: shares of crops with other colours and with noise, such as paintings and pictures on their way
    have. held_out: photographs kept away from training, to measure the errors on. begin: the weights that the student
    begins with, in words.
    dtype: float32, or bfloat16 for networks in half precision.
    """

    teacher: str = "vgg19"
    widths: tuple[tuple[int, ...], ...] = ((16, 32), (48, 64), (96, 128, 128), (192, 192, 192), (256, 256))
    taps: tuple[tuple[str, str], ...] = (
        ("relu1_2", "relu1_1"),
        ("relu2_2", "relu2_1"),
        ("relu3_2", "relu3_1"),
        ("relu4_2", "relu4_1"),
        ("relu4_3", "relu4_2"),
        ("relu5_2", "relu5_1"),
    )
    gram_weight: float = 0.2
    steps: int = 3600
    batch: int = 8
    crop: int = 128
    shrink: float = 0.6
    recoloured: float = 0.5
    noisy: float = 0.25
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    warmup: int = 100
    held_out: int = 60
    dtype: str = "float32"
    begin: str = "random"
    seed: int = 0


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


def load_photos(folder: Path) -> list[np.ndarray]:
    """Every photograph of `folder` as (H, W, 3) uint8, in the order of their names."""
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp"})
    if not paths:
        raise ValueError(f"no photographs in {folder}; give a folder with JPEG, PNG or WebP files")
    photos = []
    for path in paths:
        with Image.open(path) as image:
            photos.append(np.asarray(image.convert("RGB")))
    return photos


def split(photos: list[np.ndarray], settings: DistillSettings) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Those to train on and those held out, spread evenly over the folder."""
    every = max(2, len(photos) // settings.held_out)
    return [p for i, p in enumerate(photos) if i % every], photos[::every]


def random_crop(photo: np.ndarray, settings: DistillSettings, rng: Random) -> Tensor:
    """A square (3, crop, crop) in [0, 1], flipped half of the time, shrunk a quarter of the time."""
    side = settings.crop
    height, width = photo.shape[:2]
    cut = round(side / settings.shrink) if rng.random() < 0.25 else side
    cut = min(cut, height, width)
    top, left = rng.randint(0, height - cut), rng.randint(0, width - cut)
    piece = photo[top : top + cut, left : left + cut]
    if rng.random() < 0.5:
        piece = piece[:, ::-1]
    crop = torch.from_numpy(piece.copy()).permute(2, 0, 1).float() / 255
    if cut != side:
        crop = F.interpolate(crop[None], size=(side, side), mode="bilinear", antialias=True)[0]
    if rng.random() < settings.recoloured:
        crop = recoloured(crop, rng)
    if rng.random() < settings.noisy:
        seed = torch.Generator().manual_seed(rng.getrandbits(32))
        crop = crop + rng.uniform(0, 0.1) * torch.randn(crop.shape, generator=seed)
    return crop.clamp(0, 1)


def recoloured(crop: Tensor, rng: Random) -> Tensor:
    """The crop (3, H, W) with its hue turned by any angle, paler or stronger, softer or harder."""
    axis = torch.full((3, 3), 1 / 3)  # onto grey
    turn = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / np.sqrt(3)
    angle, saturation, contrast = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 2.0), rng.uniform(0.7, 1.4)
    colour = saturation * (np.cos(angle) * (torch.eye(3) - axis) + np.sin(angle) * turn)
    mean = crop.mean()
    return mean + contrast * torch.einsum("ij,jhw->ihw", axis + colour, crop - mean)


def batches(photos: list[np.ndarray], settings: DistillSettings, seed: int) -> Batches:
    """Batches {"images": (batch, 3, crop, crop)}, of fewer crops where there are fewer photographs."""

    def cut(photo: np.ndarray, rng: Random) -> Tensor:
        return random_crop(photo, settings, rng)

    return Batches({"images": photos}, min(settings.batch, len(photos)), cut, seed)


def learning_rate(step: int, settings: DistillSettings) -> float:
    """Linear warm-up, then a half cosine down to zero."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    progress = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.learning_rate * 0.5 * (1 + float(np.cos(np.pi * min(progress, 1.0))))


@torch.no_grad()
def evaluate(model: Distiller, photos: list[np.ndarray], settings: DistillSettings) -> dict[str, float]:
    """Errors by tap on fixed crops of held-out photographs."""
    model.eval()
    stream = batches(photos, replace(settings, recoloured=0.0, noisy=0.0), seed=1)
    errors = torch.stack([model(stream.at(step)["images"])[0] for step in range(10)]).mean(0)
    model.train()
    return {tap: round(float(e), 4) for (tap, _), e in zip(model.taps, errors, strict=True)}


class Lesson(nn.Module):
    """The distiller as a phase's module: the sum of the taps' errors, of features and of Gram matrices."""

    def __init__(self, model: Distiller) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Losses:
        errors, gaps = self.model(batch["images"].contiguous(memory_format=torch.channels_last))
        losses = {tap: e for (tap, _), e in zip(self.model.taps, errors, strict=True)}
        losses |= {f"{tap}/gram": gap for (tap, _), gap in zip(self.model.taps, gaps, strict=True)}
        return {TOTAL: errors.sum() + self.model.settings.gram_weight * gaps.sum(), **losses}


class Distillation:
    """The objective that the loop trains: one network, one optimiser, nothing to look at."""

    def __init__(self, model: Distiller, settings: DistillSettings) -> None:
        rate, decay = settings.learning_rate, settings.weight_decay
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
        schedule = LambdaLR(optimizer, lambda step: learning_rate(step, settings) / rate)
        self.networks: Mapping[str, nn.Module] = {"distiller": model}
        self.generators: Mapping[str, Generator] = {}
        self.phases: Sequence[Phase] = [Phase("distil", Lesson(model), optimizer, schedule, clip=CLIP)]

    def memory(self) -> Mapping[str, Any]:
        """Nothing: all is in the network."""
        return {}

    def restore(self, memory: Mapping[str, Any]) -> None:
        """Nothing to take back."""

    def sample(self, inputs: Batch) -> Tensor:
        """The crops themselves: features are nothing to look at."""
        return inputs["images"]


def distill(
    settings: DistillSettings,
    photos: list[np.ndarray],
    teacher: Backbone,
    work: Path,
    begin: Embedded | None = None,
) -> Distiller:
    """Train to the last step, going on from the folder `work` if it holds a checkpoint of the same settings.

    begin: a backbone of the same widths whose weights to begin with; None begins with random ones.
    """
    torch.manual_seed(settings.seed)
    training, held_out = split(photos, settings)
    model = Distiller(settings, teacher)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    stream = batches(training, settings, settings.seed)
    samples = [stream.at(settings.steps + number)["images"] for number in range(MEASURED)]
    model.measure(samples)
    if begin is not None and isinstance(model.student, NormalisedStudent):
        model.student.begin_as(begin, samples[0])
    every = FitSettings(
        settings.steps, CHECKPOINT_EVERY, sample_every=0, dtype=settings.dtype, recipe=asdict(settings), resume=True
    )
    callbacks = TrainingCallbacks(
        on_step=lambda status: tell(status, model, held_out, settings),
        notify=lambda line: log.info("%s", line),
    )
    fit(Distillation(model, settings), stream, every, work, callbacks=callbacks)
    log.info("final held out: %s", evaluate(model, held_out, settings))
    return model


def tell(status: TrainingStatus, model: Distiller, held_out: list[np.ndarray], settings: DistillSettings) -> None:
    """Errors by tap every hundred steps, those on held-out photographs every five hundred."""
    if status.step % CHECKPOINT_EVERY == 0 or status.step == status.steps:
        errors = " ".join(
            f"{status.losses[f'distil/{tap}']:.3f} ({status.losses[f'distil/{tap}/gram']:.3f})"
            for tap, _ in settings.taps
        )
        log.info("step %d of %d, %.1f crops/s: %s", status.step, status.steps, status.images_per_second, errors)
    if status.step % EVALUATE_EVERY == 0:
        log.info("held out: %s", evaluate(model, held_out, settings))


def export(model: Distiller, held_out: list[np.ndarray], settings: DistillSettings, output: Path) -> dict[str, float]:
    """Write the student in 8 bits, with settings and errors in the file, and return the errors as a user has them."""
    assert isinstance(model.student, NormalisedStudent)
    folded = model.student.fold()
    model.student = build_backbone("embedded", dequantised(quantised(folded.state_dict())))
    errors = evaluate(model, held_out, settings)
    save_quantised(
        folded.state_dict(), output, {"settings": json.dumps(asdict(settings)), "errors": json.dumps(errors)}
    )
    return errors


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded backbone by distillation.")
    parser.add_argument("--photos", type=Path, required=True, help="a folder of photographs")
    parser.add_argument("--teacher", type=Path, required=True, help="the teacher's weights, torchvision's key names")
    parser.add_argument("--output", type=Path, required=True, help="the safetensors file to write")
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints, to write and to go on from")
    parser.add_argument("--begin", type=Path, help="weights of an embedded backbone of the same widths to begin with")
    parser.add_argument("--settings", default="{}", help="JSON of the settings that differ from the defaults")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    settings = DistillSettings(**json.loads(args.settings))
    if args.begin:
        settings = replace(settings, begin=f"SHA-256 {hashlib.sha256(args.begin.read_bytes()).hexdigest()[:16]}")
    teacher = build_backbone(settings.teacher, read_state(args.teacher))
    teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    begin = build_backbone("embedded", read_state(args.begin)) if args.begin else None
    assert begin is None or isinstance(begin, Embedded)
    photos = load_photos(args.photos)
    model = distill(settings, photos, teacher, args.work, begin)
    _, held_out = split(photos, settings)
    log.info("as shipped: %s", export(model, held_out, settings, args.output))


if __name__ == "__main__":
    main()
