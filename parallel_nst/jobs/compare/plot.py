"""A comparison as a plot. Needs matplotlib, which the extra `compare` brings."""

from __future__ import annotations

import io
from typing import Any

from parallel_nst.jobs.compare.records import SERIAL, Comparison, Part

PARTS: tuple[tuple[Part, str], ...] = (
    ("startup", "start-up"),
    ("compute", "compute"),
    ("blend", "blend"),
    ("shutdown", "shut-down"),
)
COLOURS = ("#bbbbbb", "#4477aa", "#ccbb44", "#ee6677")  # apart for colour-blind eyes too (Paul Tol's set)


def plot_png(comparison: Comparison) -> bytes:
    """Seconds of every setting by parts, and speed-up by workers, as a PNG file. ModuleNotFoundError without
    matplotlib."""
    from matplotlib.figure import Figure  # type: ignore[import-not-found, unused-ignore]

    figure = Figure(figsize=(12, 1.6 + 0.42 * len(comparison.measurements)), dpi=110, layout="constrained")
    bars, lines = figure.subplots(1, 2, width_ratios=(3, 2))
    draw_seconds(bars, comparison)
    draw_speedups(lines, comparison)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def draw_seconds(axes: Any, comparison: Comparison) -> None:
    """A bar for each setting: the medians of the parts one after the other, whiskers from the quickest to the slowest
    round."""
    measurements = comparison.measurements
    names = [m.setting.name for m in measurements]
    left = [0.0] * len(measurements)
    for (part, label), colour in zip(PARTS, COLOURS, strict=True):
        widths = [m.median(part) for m in measurements]
        axes.barh(names, widths, left=left, label=label, color=colour)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    middle = [m.median() for m in measurements]
    below = [m.median() - min(m.rounds()) for m in measurements]
    above = [max(m.rounds()) - m.median() for m in measurements]
    axes.errorbar(middle, names, xerr=[below, above], fmt="none", ecolor="black", capsize=3)
    axes.set_xlim(left=0)
    axes.invert_yaxis()
    axes.set_xlabel(f"seconds (medians of {comparison.rounds}; whiskers: quickest and slowest)")
    axes.legend(fontsize="small")


def draw_speedups(axes: Any, comparison: Comparison) -> None:
    """Speed-up by workers, a line for each mode: over all seconds, and dotted over painting alone."""
    parallel = [m for m in comparison.measurements if m.setting.mode != SERIAL]
    for mode, colour in zip(dict.fromkeys(m.setting.mode for m in parallel), COLOURS[1::2], strict=False):
        points = [m for m in parallel if m.setting.mode == mode]
        workers = [m.workers for m in points]
        axes.plot(workers, [comparison.speedup(m) for m in points], "o-", color=colour, label=mode)
        inner = [comparison.speedup(m, "painting") for m in points]
        axes.plot(workers, inner, "o:", color=colour, label=f"{mode}, without start-up")
    axes.axhline(1, color="black", linewidth=0.8, label=f"best serial: {comparison.baseline.setting.name}")
    axes.set_xticks(sorted({m.workers for m in parallel}))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("workers")
    axes.set_ylabel("speed-up")
    axes.legend(fontsize="small")
