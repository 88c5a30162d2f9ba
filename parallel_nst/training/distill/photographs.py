"""Crops of photographs, with other colours and with noise."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from parallel_nst.errors import BadInput
from parallel_nst.files.folders import picture_files
from parallel_nst.files.formats.pillow import opened
from parallel_nst.training.batches import Batches
from parallel_nst.training.distill.settings import DistillSettings


def load_photos(folder: Path) -> list[np.ndarray]:
    """Every photograph in `folder` and below as (H, W, 3) uint8, in the order of their names."""
    paths = sorted(picture_files(folder))
    if not paths:
        raise BadInput(f"no photographs in {folder}; give a folder with JPEG, PNG or WebP files")
    photos = []
    for path in paths:
        with opened(path) as image:
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
