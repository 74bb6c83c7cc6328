"""Delta_m against trainable parameters, a point per row: who gains how much for how little."""

import io
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from ditask_jax.files import atomic_write_bytes
from ditask_jax.plots.sheet import load_matplotlib, settings
from ditask_jax.reports.comparison import Comparison, Line

_SIZE = (7.0, 4.6)  # inches
_DPI = 160
_TEXT = 7.5  # points
_MARKERS = "osD^vPX<>hp*"
# Dark to light, so that methods stay apart in grey; hues that the usual colour-blindness keeps apart.
_COLOURS = ("#00204d", "#b03a2e", "#2e6f8e", "#7d7d7d", "#d98e04", "#5aa469", "#9b7fb8", "#c9b037")
_RADII = (0.9, 1.6, 2.6, 4.0, 5.6, 7.4, 9.6)  # of a label from its point, in heights of a line
_DIRECTIONS = 16
_PAD = 1.5  # points between two labels
_MARKER = 4.5  # points from the middle of a marker to where a label may begin


def draw_pareto(stem: Path, comparison: Comparison, count: str = "backbone") -> list[Path]:
    """Writes the figure as PNG and SVG; nothing where no row can be drawn.

    Args:
      stem: file name without its ending.
      comparison: the table.
      count: "backbone" or "total": which trainable parameters.

    Returns:
      The files written.
    """
    # A fixed salt and no date: equal tables give equal files. Text stays text, to be searched and edited.
    with settings(**{"svg.hashsalt": "ditask_jax", "svg.fonttype": "none", "font.size": 9}):
        figure = pareto_figure(comparison, count)
        if figure is None:
            return []
        files = []
        for ending, metadata in (("png", {}), ("svg", {"Date": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=ending, metadata=metadata)
            files.append(atomic_write_bytes(stem.with_name(f"{stem.name}.{ending}"), buffer.getvalue()))
    return files


def pareto_figure(comparison: Comparison, count: str = "backbone"):
    """Delta_m with its spread against trainable parameters, on a logarithmic axis, every point with its label.

    Rows of which nothing is counted (decoders alone, in the backbone) stand left of the axis, at 0. Markers of
    single-task rows are hollow.

    Args:
      comparison: the table.
      count: "backbone" or "total".

    Returns:
      A Matplotlib figure; None where no row has both delta_m and a count.
    """
    load_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = [line for line in comparison.lines if line.delta_m is not None and _count(line, count) is not None]
    if not lines:
        return None
    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    places = _places([_count(line, count) for line in lines])
    methods = list(dict.fromkeys(line.row.method for line in lines))
    for line, x in zip(lines, places, strict=True):
        style = methods.index(line.row.method)
        axes.errorbar(
            x,
            line.delta_m.mean,
            yerr=line.delta_m.deviation,
            marker=_MARKERS[style % len(_MARKERS)],
            color=_COLOURS[style % len(_COLOURS)],
            markerfacecolor="white" if line.row.single_task else None,
            markersize=6.5,
            capsize=2.5,
            elinewidth=0.9,
            linestyle="none",
            zorder=3,
        )
    _dress(axes, lines, places, count, comparison)
    _place_labels(figure, axes, lines, places)
    return figure


def _count(line: Line, count: str) -> int | None:
    return line.row.trainable_backbone if count == "backbone" else line.row.trainable_total


def _places(counts: Sequence[int]) -> list[float]:
    """Where counts stand on the axis; 0 has no logarithm and stands half a decade left of the smallest."""
    positive = [count for count in counts if count > 0]
    zero = min(positive) / 10**0.5 if positive else 1.0
    return [float(count) if count > 0 else zero for count in counts]


def _dress(axes, lines: Sequence[Line], places: Sequence[float], count: str, comparison: Comparison) -> None:
    axes.set_xscale("log")
    low, high = min(places), max(places)
    margin = max((high / low) ** 0.12, 1.6)
    axes.set_xlim(low / margin, high * margin)
    ends = [line.delta_m.mean + sign * (line.delta_m.deviation or 0) for line in lines for sign in (-1, 1)]
    room = max(0.12 * (max(ends) - min(ends)), 0.2)
    axes.set_ylim(min(ends) - room, max(ends) + room)
    axes.set_xlabel("trainable parameters" + (" in the backbone" if count == "backbone" else ", decoders included"))
    axes.set_ylabel("delta_m (%)")
    axes.grid(color="0.9", linewidth=0.6, which="major")
    axes.set_axisbelow(True)
    bottom, top = axes.get_ylim()
    if bottom < 0 < top:
        axes.axhline(0, color="0.55", linewidth=0.8, linestyle="--", zorder=1)
    zeros = [x for line, x in zip(lines, places, strict=True) if _count(line, count) == 0]
    start = low / margin
    if zeros:
        # The axis begins where counts do; the strip left of it is that of 0.
        start = zeros[0] * 10**0.25
        axes.axvline(start, color="0.55", linewidth=0.8, linestyle=":")
    ticks = _ticks(start, high * margin)
    labels = ["0"] * bool(zeros) + [_in_words(tick) for tick in ticks]
    axes.set_xticks([*zeros[:1], *ticks], labels)
    axes.minorticks_off()
    names = " + ".join(task.name for task in comparison.tasks)
    title = f"{comparison.lines[0].row.runs[0].dataset}: {names}"
    bars = any(line.delta_m.deviation is not None for line in lines)
    axes.set_title(title + (" (bars: one standard deviation over seeds)" if bars else ""), fontsize=8)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two counts: powers of ten, or 1, 2 and 5 times such where these are few."""
    steps = (1.0,) if high / low > 1e3 else (1.0, 2.0, 5.0)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]


def _in_words(count: float) -> str:
    """A round count as on an axis.

    >>> _in_words(200000.0), _in_words(5e6), _in_words(10.0)
    ('200 k', '5 M', '10')
    """
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= size:
            return f"{count / size:g}{unit}"
    return f"{count:g}"


def _place_labels(figure, axes, lines: Sequence[Line], places: Sequence[float]) -> None:
    """Puts a label beside every point, clear of other labels, points and bars; far ones get a line to their point."""
    figure.draw_without_rendering()
    # Constrained layout has done its work; it would move the axes again for labels at their edge.
    figure.set_layout_engine("none")
    renderer = figure.canvas.get_renderer()
    to_points = 72 / figure.dpi
    place = lambda x, y: axes.transData.transform((x, y)) * to_points
    frame = axes.get_window_extent(renderer)
    bounds = tuple(edge * to_points for edge in (frame.x0 + 2, frame.y0 + 2, frame.x1 - 2, frame.y1 - 2))
    points = [place(x, line.delta_m.mean) for line, x in zip(lines, places, strict=True)]
    taken = []
    for (px, py), line, x in zip(points, lines, places, strict=True):
        half = line.delta_m.deviation or 0.0
        low, high = (place(x, line.delta_m.mean + sign * half)[1] for sign in (-1, 1))
        taken.append((px - _MARKER, min(low, py - _MARKER), px + _MARKER, max(high, py + _MARKER)))
    for (px, py), line, x in zip(points, lines, places, strict=True):
        # Offsets in points: where labels end up does not depend on the resolution of the file.
        label = axes.annotate(
            line.label,
            (x, line.delta_m.mean),
            (0, 0),
            textcoords="offset points",
            fontsize=_TEXT,
            va="center",
            zorder=4,
        )
        extent = label.get_window_extent(renderer)
        width, height = extent.width * to_points + 2 * _PAD, extent.height * to_points
        candidates = list(_candidates(px, py, width, height))
        crowd = lambda box: sum(_overlap(box, other) for other in taken) + _outside(box, bounds)
        box = next((box for box in candidates if crowd(box) < 1e-6), None) or min(candidates, key=crowd)
        taken.append(box)
        label.set_position((box[0] + _PAD - px, (box[1] + box[3]) / 2 - py))
        nearest = _nearest(box, px, py)
        if math.dist(nearest, (px, py)) > 2 * _MARKER:
            offset = (nearest[0] - px, nearest[1] - py)
            axes.annotate(
                "", (x, line.delta_m.mean), offset, textcoords="offset points", zorder=2,
                arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.6, "shrinkA": 0, "shrinkB": _MARKER},
            )  # fmt: skip


def _candidates(px: float, py: float, width: float, height: float) -> Iterator[tuple[float, float, float, float]]:
    """Boxes around a point, the nearest first; right before left, above before below."""
    turns = sorted(range(_DIRECTIONS), key=lambda k: min(k, _DIRECTIONS - k))
    for radius, turn in itertools.product(_RADII, turns):
        angle = 2 * math.pi * turn / _DIRECTIONS
        x, y = px + radius * height * math.cos(angle), py + radius * height * math.sin(angle)
        left = x if math.cos(angle) > 0.1 else x - width if math.cos(angle) < -0.1 else x - width / 2
        yield left, y - height / 2, left + width, y + height / 2


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Shared area of two boxes (left, bottom, right, top)."""
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)


def _outside(box: Sequence[float], bounds: Sequence[float]) -> float:
    """Area of a box beyond the axes."""
    return (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, bounds)


def _nearest(box: Sequence[float], x: float, y: float) -> tuple[float, float]:
    return min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3])
