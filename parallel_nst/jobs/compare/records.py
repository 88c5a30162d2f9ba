"""What a comparison finds, as records."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from parallel_nst.files.size import Size
from parallel_nst.jobs.machine import Machine
from parallel_nst.jobs.requests.compare import CompareJob
from parallel_nst.recipe import Recipe

SERIAL = "serial"
FEWEST_TILES = 4  # that `auto` stands for here
AMPLIFIED = 8  # times, of the pictures that show differences

Part = Literal["seconds", "startup", "compute", "blend", "painting", "shutdown"]  # of a `Timing`
Thumbnail = NDArray[np.uint8]  # (h, w, 3)


@dataclass(frozen=True)
class Setting:
    """One way to paint the picture. mode: serial, or one of `recipe.Mode`. limits: why some numbers of workers that
    were asked for came to this one, such as '2 of 8: there are 2 cores'."""

    mode: str
    workers: int
    threads: int
    recipe: Recipe
    limits: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        count, unit = (self.threads, "thread") if self.mode == SERIAL else (self.workers, "worker")
        return f"{self.mode}, {count} {unit}{'s' * (count != 1)}"


@dataclass(frozen=True)
class Timing:
    """Seconds of wall time of one run.

    startup: opening the pool, and waiting later for workers that were not up yet. compute: every scale from coarse to
    fine, with what the driver does between tasks, but not blend, the joining of tiles. shutdown: closing the pool.
    Reading and writing files and starting Python are in none of them.
    """

    startup: float
    compute: float
    blend: float
    shutdown: float

    @property
    def seconds(self) -> float:
        return self.startup + self.painting + self.shutdown

    @property
    def painting(self) -> float:
        return self.compute + self.blend


@dataclass(frozen=True)
class Measurement:
    """What came of one setting.

    workers, threads: that really ran; a worker on a GPU has one thread. loss: of the picture as a whole. seam_ratio:
    step ratio at the tile borders over the serial picture's own at the same lines, NaN where that is not defined.
    mean_difference, max_difference: from the serial picture of one thread, in units of 1/255. moved: bytes of arrays
    that went to and came from workers. peak_memory: bytes, of all processes together.
    """

    setting: Setting
    workers: int
    threads: int
    timings: tuple[Timing, ...]
    loss: float
    seam_ratio: float
    mean_difference: float
    max_difference: float
    moved: int
    peak_memory: int
    picture: Thumbnail
    difference: Thumbnail

    def median(self, part: Part = "seconds") -> float:
        """Over the rounds."""
        return statistics.median(self.rounds(part))

    def rounds(self, part: Part = "seconds") -> list[float]:
        """Of every round."""
        return [float(getattr(timing, part)) for timing in self.timings]

    @property
    def slots(self) -> int:
        """Cores, or GPUs, that ran."""
        return self.workers * self.threads


@dataclass(frozen=True)
class Comparison:
    """All measurements of one picture. tiles: of every parallel setting; rounds: that
    are timed so far."""

    job: CompareJob
    machine: Machine
    device: str
    dtype: str
    size: Size
    tiles: int
    rounds: int
    measurements: tuple[Measurement, ...]
    content: Thumbnail
    style: Thumbnail

    @property
    def baseline(self) -> Measurement:
        """The serial setting of the least seconds: the one to beat."""
        return min((m for m in self.measurements if m.setting.mode == SERIAL), key=lambda m: m.median())

    def speedup(self, measurement: Measurement, part: Part = "seconds") -> float:
        """How many times as fast as the best serial setting."""
        return self.baseline.median(part) / measurement.median(part)

    def efficiency(self, measurement: Measurement) -> float:
        """Speed-up for every core, or GPU, that ran, where the best serial setting has 1."""
        return self.speedup(measurement) * self.baseline.slots / measurement.slots
