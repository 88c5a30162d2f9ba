"""The ratio of content to style loss along an axis of a sweep, as a plot. Needs matplotlib, which the extra `compare`
brings."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from parallel_nst.jobs.sweep.axes import Axis

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")  # Paul Tol's set
MOST_LINES = 14  # that can be told apart: each colour drawn through, and dashed
SPREAD = 20  # greatest over least value of an axis, above which its scale is logarithmic

Row = Mapping[str, Any]
Line = dict[str, float]  # ratios, by the text of a value


def ratio_chart(axes: Sequence[Axis], rows: Sequence[Row]) -> bytes | None:
    """Content over style loss, each with its weight, by the values of the last axis, a line for each combination of the
    others, as a PNG file; None where no cell has both. ModuleNotFoundError without matplotlib."""
    from matplotlib.figure import Figure  # type: ignore[import-not-found, unused-ignore]
    from matplotlib.ticker import LogLocator  # type: ignore[import-not-found, unused-ignore]

    along, lines = axes[-1], lines_of(axes, rows)
    if not lines:
        return None
    figure = Figure(figsize=(8, 4.5), dpi=110, layout="constrained")
    plot = figure.subplots()
    places = positions_of(along)
    for number, (name, line) in enumerate(list(lines.items())[:MOST_LINES]):
        style = ("o-", "o--")[number // len(COLOURS)]
        points = [(places[text], line[text]) for text in along.texts if text in line]
        plot.plot(*zip(*points, strict=True), style, color=COLOURS[number % len(COLOURS)], label=name, markersize=4)
    ticks = [places[text] for text in along.texts]
    if is_wide(ticks):
        plot.set_xscale("log")
    plot.set_xticks(ticks, along.texts)
    plot.set_yscale("log")
    plot.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    plot.yaxis.set_major_formatter("{x:g}")
    plot.minorticks_off()
    plot.grid(axis="y", linewidth=0.3)
    plot.set_xlabel(along.name)
    plot.set_ylabel("content loss / style loss, with their weights")
    if len(lines) > 1:
        rest = f"; the first {MOST_LINES} of {len(lines)}" if len(lines) > MOST_LINES else ""
        plot.legend(fontsize="small", title=", ".join(axis.name for axis in axes[:-1]) + rest)
    made = io.BytesIO()
    figure.savefig(made, format="png")
    return made.getvalue()


def lines_of(axes: Sequence[Axis], rows: Sequence[Row]) -> dict[str, Line]:
    """Ratios along the last axis, by the values on the others."""
    lines: dict[str, Line] = {}
    for row in rows:
        ratio = ratio_of(row)
        if ratio is not None:
            name = ", ".join(str(row[axis.name]) for axis in axes[:-1])
            lines.setdefault(name, {})[str(row[axes[-1].name])] = ratio
    return lines


def ratio_of(row: Row) -> float | None:
    """Content over style loss of a cell; None where one of them is 0 or not known."""
    content, style = (float(row[name] or 0) for name in ("loss_content", "loss_style"))
    return content / style if content > 0 and style > 0 and math.isfinite(content / style) else None


def positions_of(axis: Axis) -> dict[str, float]:
    """Where each value stands on the scale: a number at itself, names one after the other."""
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in axis.values)
    values = axis.values if numbers else range(len(axis.texts))
    return {text: float(value) for text, value in zip(axis.texts, values, strict=True)}


def is_wide(places: Sequence[float]) -> bool:
    """Whether numbers are better seen on a logarithmic scale."""
    return min(places) > 0 and max(places) > SPREAD * min(places)
