"""What a training leaves to look at: losses of every step as CSV and for TensorBoard, sample pictures of fixed inputs,
and at the end a contact sheet of how they came about."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from parallel_nst.errors import BadInput
from parallel_nst.files.formats.raster import decode_by_opencv
from parallel_nst.files.whole_files import remove_leftovers_in, whole_file, write_whole

LOSSES = "losses.csv"
EVENTS = "tensorboard"
SAMPLES = "samples"
SHEET = "progression.png"
NO_TENSORBOARD = "no TensorBoard records: install them with: pip install 'parallel-nst[training]'"
SHOWN = 8  # samples on the contact sheet
SHEET_WIDTH = 1600  # px, at most
LABEL = 24  # px, height of the line above each sample on the sheet


class Losses:
    """`losses.csv`: the column `step`, from 1, and one column a loss, in 9 digits, which hold a float32 to the bit.

    A record that is gone on with loses the lines behind the step that training goes on from, so that no step occurs
    twice.
    """

    def __init__(self, folder: Path, step: int) -> None:
        """step: that training goes on from; 0 begins a new record."""
        self.path = folder / LOSSES
        self._columns: list[str] | None = None
        kept = lines_until(self.path, step) if step else []
        write_whole({self.path: "".join(kept).encode()})
        if kept:
            self._columns = kept[0].strip().split(",")
        self._file: TextIO = self.path.open("a", encoding="utf-8", newline="")

    def add(self, step: int, losses: Mapping[str, float]) -> None:
        """One line, at once in the file. BadInput when the losses have other names than before."""
        columns = ["step", *losses]
        writer = csv.writer(self._file, lineterminator="\n")
        if self._columns is None:
            writer.writerow(columns)
            self._columns = columns
        if columns != self._columns:
            raise BadInput(f"{self.path} has the columns {self._columns}, not {columns}; move it away")
        writer.writerow([step, *(f"{value:.9g}" for value in losses.values())])
        self._file.flush()

    def sync(self) -> None:
        """Make sure that what was written is on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def lines_until(path: Path, step: int) -> list[str]:
    """Header and whole lines of the steps up to this one; none where there is no such file."""
    if not path.exists():
        return []
    header, *lines = path.read_text(encoding="utf-8").splitlines(keepends=True) or [""]
    kept = [line for line in lines if line.endswith("\n") and int(line.split(",")[0]) <= step]
    return [header, *kept] if header.endswith("\n") else []


def event_writer(folder: Path, step: int, notify: Callable[[str], None]) -> Any | None:
    """TensorBoard's `SummaryWriter`, which hides events behind `step`; None, and a note, where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        notify(NO_TENSORBOARD)
        return None
    return SummaryWriter(folder / EVENTS, purge_step=step + 1)


class Records:
    """All records of one training in its folder; a context. Of rank 0 alone."""

    def __init__(self, folder: Path, step: int, notify: Callable[[str], None]) -> None:
        """step: that training goes on from. BadInput or OSError, in one line, where the folder cannot be used."""
        self.folder = folder
        for left in (folder, folder / SAMPLES):
            remove_leftovers_in(left, lambda name: name in (LOSSES, SHEET) or name.startswith("step-"))
        self._losses = Losses(folder, step)
        self._events = event_writer(folder, step, notify)

    def add(self, step: int, losses: Mapping[str, float]) -> None:
        """The losses of one step."""
        self._losses.add(step, losses)
        if self._events is not None:
            for name, value in losses.items():
                self._events.add_scalar(name, value, step)

    def add_sample(self, step: int, pictures: Tensor) -> None:
        """Pictures (n, 3, H, W) in [0, 1] as one PNG: beside one another, or below one another if they are wide."""
        picture = joined(pictures)
        write_png(self.folder / SAMPLES / f"step-{step:08d}.png", picture)
        if self._events is not None:
            self._events.add_image("sample", picture, step, dataformats="HWC")

    def sync(self) -> None:
        """Make sure that the losses are on the disk, before a checkpoint says that these steps are done."""
        self._losses.sync()
        if self._events is not None:
            self._events.flush()

    def __enter__(self) -> Records:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._losses.close()
        if self._events is not None:
            self._events.close()


def joined(pictures: Tensor) -> NDArray[np.uint8]:
    """(n, 3, H, W) in [0, 1], clipped, to (n H, W, 3) if they are wider than high, else to (H, n W, 3)."""
    values = pictures.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8).cpu().permute(0, 2, 3, 1).numpy()
    return np.concatenate(list(values), axis=0 if values.shape[2] > values.shape[1] else 1)


def write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    """(H, W, 3) RGB, whole or not at all; makes the folder."""
    path.parent.mkdir(exist_ok=True)
    with whole_file(path) as file:
        Image.fromarray(picture).save(file, "PNG")


def write_sheet(folder: Path) -> Path | None:
    """The contact sheet of the samples in the folder: first, last and some between, one below the other, with their
    steps. None without samples; damaged ones are left out."""
    paths = sorted((folder / SAMPLES).glob("step-*.png"))
    if not paths:
        return None
    chosen = sorted({round(i * (len(paths) - 1) / (SHOWN - 1)) for i in range(SHOWN)})
    strips = [strip for strip in (labelled(paths[i]) for i in chosen) if strip is not None]
    if not strips:
        return None
    width = max(strip.shape[1] for strip in strips)
    padded = [np.pad(s, ((0, 0), (0, width - s.shape[1]), (0, 0)), constant_values=255) for s in strips]
    write_png(folder / SHEET, np.concatenate(padded))
    return folder / SHEET


def labelled(path: Path) -> NDArray[np.uint8] | None:
    """A sample, no wider than the sheet, below a line with its step; None if it cannot be read."""
    picture = decode_by_opencv(np.fromfile(path, np.uint8))
    if picture is None:
        return None
    share = min(1.0, SHEET_WIDTH / picture.shape[1])
    if share < 1:
        picture = cv2.resize(picture, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
    line = np.full((LABEL, picture.shape[1], 3), 255, np.uint8)
    text = f"step {int(path.stem.removeprefix('step-'))}"
    cv2.putText(line, text, (4, LABEL - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([line, picture])[..., ::-1]
