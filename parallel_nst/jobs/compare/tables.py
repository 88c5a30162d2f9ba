"""A comparison as rows: for a screen, for CSV and for JSON."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Sequence
from typing import Any

from parallel_nst.jobs.compare.records import Comparison, Measurement
from parallel_nst.jobs.json_text import json_text, plain

MEANINGS = {
    "setting": "what was measured",
    "mode": "serial: in one piece; independent, exact: in tiles (see --mode)",
    "workers": "that really ran",
    "threads": "of each worker; one on a GPU",
    "limits": "why numbers of workers that were asked for were not used",
    "best_serial": "whether this is the serial setting that speed-ups are taken against: the one of the least seconds",
    "seconds": "median over the rounds of start-up, compute, blend and shut-down together",
    "seconds_min": "the quickest round",
    "seconds_max": "the slowest round",
    "startup": "median seconds of opening the pool (starting Ray, workers) and of waiting for workers later",
    "compute": "median seconds of all scales, with what the driver does between tasks, without blend",
    "blend": "median seconds of joining tiles",
    "shutdown": "median seconds of closing the pool",
    "speedup": "seconds of the best serial setting over these",
    "painting_speedup": "the same for compute and blend alone: what long runs come near to",
    "efficiency": "speed-up for every core, or GPU, that ran, where the best serial setting has 1",
    "loss": "of the picture as a whole, in float32, by the same judge for all",
    "seam_ratio": "step across tile borders over that beside them, over the serial picture's own ratio; 1: no seam",
    "mean_difference": "mean absolute difference from the serial picture of one thread, in units of 1/255",
    "max_difference": "the greatest such difference",
    "moved_bytes": "of arrays that went to and came from workers",
    "peak_memory_bytes": "the most that all processes held together, in a round of its own",
}
"""Columns of CSV and JSON. Files are not read or written within any of the seconds, nor is Python started."""

SCREEN = (
    "Setting",
    "Ran",
    "Seconds",
    "Painting",
    "Speed-up",
    "of painting",
    "Efficiency",
    "Loss",
    "Seams",
    "Difference",
    "Moved",
    "Memory",
)
"""Headings of `screen_row`. Painting: compute and blend, without start-up and shut-down."""


def record(comparison: Comparison, measurement: Measurement) -> dict[str, Any]:
    """One row with the keys of MEANINGS; None where a figure is not defined."""
    seconds = measurement.rounds()
    row = {
        "setting": measurement.setting.name,
        "mode": measurement.setting.mode,
        "workers": measurement.workers,
        "threads": measurement.threads,
        "limits": "; ".join(measurement.setting.limits),
        "best_serial": measurement is comparison.baseline,
        "seconds": measurement.median(),
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
        "startup": measurement.median("startup"),
        "compute": measurement.median("compute"),
        "blend": measurement.median("blend"),
        "shutdown": measurement.median("shutdown"),
        "speedup": comparison.speedup(measurement),
        "painting_speedup": comparison.speedup(measurement, "painting"),
        "efficiency": comparison.efficiency(measurement),
        "loss": measurement.loss,
        "seam_ratio": measurement.seam_ratio,
        "mean_difference": measurement.mean_difference,
        "max_difference": measurement.max_difference,
        "moved_bytes": measurement.moved,
        "peak_memory_bytes": measurement.peak_memory,
    }
    return {key: plain(value) for key, value in row.items()}


def to_csv(comparison: Comparison) -> str:
    """A line for each setting below a line of column names; numbers in full, nothing where one is not defined."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [*MEANINGS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(record(comparison, measurement) for measurement in comparison.measurements)
    return text.getvalue()


def to_json(comparison: Comparison) -> str:
    """The rows of `to_csv` with every round's seconds, and all that it takes to measure again."""
    job = comparison.job
    return json_text(
        {
            "content": str(job.content),
            "style": str(job.style),
            "width": comparison.size.width,
            "height": comparison.size.height,
            "tiles": comparison.tiles,
            "repeats": comparison.rounds,
            "device": comparison.device,
            "dtype": comparison.dtype,
            "machine": comparison.machine,
            "recipe": job.recipe,
            "meanings": MEANINGS,
            "settings": [{**record(comparison, m), "rounds": m.timings} for m in comparison.measurements],
        },
        indent=1,
    )


def screen_row(comparison: Comparison, measurement: Measurement) -> tuple[str, ...]:
    """A row of texts below SCREEN."""
    m = measurement
    best = " (best)" if m is comparison.baseline else ""
    return (
        m.setting.name + best,
        f"{m.workers} x {m.threads}",
        spread(m.rounds()),
        f"{m.median('painting'):.1f}",
        f"{comparison.speedup(m):.2f}",
        f"{comparison.speedup(m, 'painting'):.2f}",
        f"{comparison.efficiency(m):.0%}",
        f"{m.loss:.4f}",
        "" if math.isnan(m.seam_ratio) else f"{m.seam_ratio:.2f}",
        f"{m.mean_difference:.2f} (max {m.max_difference:.0f})",
        in_bytes(m.moved),
        in_bytes(m.peak_memory),
    )


def remarks(comparison: Comparison) -> list[str]:
    """What has to be said below the table: settings that ran with fewer workers than asked for, once each."""
    limits = (limit for m in comparison.measurements for limit in m.setting.limits)
    return [f"workers {limit}" for limit in dict.fromkeys(limits)]


def headline(comparison: Comparison) -> str:
    """One line on the picture and the machine."""
    height, width = comparison.size
    machine = comparison.machine
    cores = f"{machine.cores} core{'s' * (machine.cores != 1)}"
    rounds = f"{comparison.rounds} round{'s' * (comparison.rounds != 1)}"
    return (
        f"{width}x{height} px, {comparison.tiles} tiles, {rounds}, {comparison.device} {comparison.dtype}; "
        f"{machine.processor}, {cores}"
    )


def spread(values: Sequence[float]) -> str:
    """'12.3 (11.9-12.8)': median, least and greatest; one value stands alone."""
    middle = f"{statistics.median(values):.1f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.1f}-{max(values):.1f})"


def in_bytes(count: float) -> str:
    """'0', '12 kB', '3.4 MB', '5.6 GB'."""
    for power, unit in ((9, "GB"), (6, "MB"), (3, "kB")):
        if count >= 10**power:
            return f"{count / 10**power:.3g} {unit}"
    return f"{count:.0f}"
