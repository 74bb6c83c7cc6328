"""Delta_m against trainable parameters, a point per row: who gains how much for how little."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

from ditask_jax.plots.sheet import line_style, new_figure, styled

_SIZE = (7.0, 4.6)  # inches
_TEXT = 7.5  # points
_RADII = (0.9, 1.6, 2.6, 4.0, 5.6, 7.4, 9.6)  # of a label from its point, in heights of a line
_DIRECTIONS = 16
_PAD = 1.5  # points between two labels
_MARKER = 4.5  # points from the middle of a marker to where a label may begin


@dataclasses.dataclass(frozen=True)
class Point:
    """One row of a comparison.

    Attributes:
      label: written beside the point.
      method: rows of one method share marker and colour.
      count: trainable parameters.
      gain: delta_m, per cent.
      deviation: of the gain over seeds; None for a single seed.
      hollow: whether the marker is.
    """

    label: str
    method: str
    count: int
    gain: float
    deviation: float | None = None
    hollow: bool = False


@styled
def draw_pareto(points: Sequence[Point], axis: str = "trainable parameters", title: str = ""):
    """Delta_m with its spread against trainable parameters, on a logarithmic axis, every point with its label.

    Points of which nothing is counted (decoders alone, in the backbone) stand left of the axis, at 0.

    Args:
      points: at least one.
      axis: what the counts are of.
      title: one line above.

    Returns:
      A Matplotlib figure.
    """
    figure = new_figure(*_SIZE, constrained=True)
    axes = figure.subplots()
    places = _places([point.count for point in points])
    methods = list(dict.fromkeys(point.method for point in points))
    for point, x in zip(points, places, strict=True):
        style = line_style(methods.index(point.method))
        axes.errorbar(
            x,
            point.gain,
            yerr=point.deviation,
            marker=style["marker"],
            color=style["color"],
            markerfacecolor="white" if point.hollow else None,
            markersize=6.5,
            capsize=2.5,
            elinewidth=0.9,
            linestyle="none",
            zorder=3,
        )
    _dress(axes, points, places)
    axes.set_xlabel(axis)
    bars = any(point.deviation is not None for point in points)
    axes.set_title(title + (" (bars: one standard deviation over seeds)" if bars else ""))
    _place_labels(figure, axes, points, places)
    return figure


def _places(counts: Sequence[int]) -> list[float]:
    """Where counts stand on the axis; 0 has no logarithm and stands half a decade left of the smallest."""
    positive = [count for count in counts if count > 0]
    zero = min(positive) / 10**0.5 if positive else 1.0
    return [float(count) if count > 0 else zero for count in counts]


def _dress(axes, points: Sequence[Point], places: Sequence[float]) -> None:
    axes.set_xscale("log")
    low, high = min(places), max(places)
    margin = max((high / low) ** 0.12, 1.6)
    axes.set_xlim(low / margin, high * margin)
    ends = [point.gain + sign * (point.deviation or 0) for point in points for sign in (-1, 1)]
    room = max(0.12 * (max(ends) - min(ends)), 0.2)
    axes.set_ylim(min(ends) - room, max(ends) + room)
    axes.set_ylabel("delta_m (%)")
    bottom, top = axes.get_ylim()
    if bottom < 0 < top:
        axes.axhline(0, color="0.55", linewidth=0.8, linestyle="--", zorder=1)
    zeros = [x for point, x in zip(points, places, strict=True) if point.count == 0]
    start = low / margin
    if zeros:
        # The axis begins where counts do; the strip left of it is that of 0.
        start = zeros[0] * 10**0.25
        axes.axvline(start, color="0.55", linewidth=0.8, linestyle=":")
    ticks = _ticks(start, high * margin)
    labels = ["0"] * bool(zeros) + [_in_words(tick) for tick in ticks]
    axes.set_xticks([*zeros[:1], *ticks], labels)
    axes.minorticks_off()


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


def _place_labels(figure, axes, points: Sequence[Point], places: Sequence[float]) -> None:
    """Puts a label beside every point, clear of other labels, points and bars; far ones get a line to their point."""
    figure.draw_without_rendering()
    # Constrained layout has done its work; it would move the axes again for labels at their edge.
    figure.set_layout_engine("none")
    renderer = figure.canvas.get_renderer()
    to_points = 72 / figure.dpi
    place = lambda x, y: axes.transData.transform((x, y)) * to_points
    frame = axes.get_window_extent(renderer)
    bounds = tuple(edge * to_points for edge in (frame.x0 + 2, frame.y0 + 2, frame.x1 - 2, frame.y1 - 2))
    middles = [place(x, point.gain) for point, x in zip(points, places, strict=True)]
    taken = []
    for (px, py), point, x in zip(middles, points, places, strict=True):
        half = point.deviation or 0.0
        low, high = (place(x, point.gain + sign * half)[1] for sign in (-1, 1))
        taken.append((px - _MARKER, min(low, py - _MARKER), px + _MARKER, max(high, py + _MARKER)))
    for (px, py), point, x in zip(middles, points, places, strict=True):
        # Offsets in points: where labels end up does not depend on the resolution of the file.
        where = {"xy": (x, point.gain), "textcoords": "offset points"}
        label = axes.annotate(point.label, xytext=(0, 0), fontsize=_TEXT, va="center", zorder=4, **where)
        extent = label.get_window_extent(renderer)
        width, height = extent.width * to_points + 2 * _PAD, extent.height * to_points + _PAD / 3
        candidates = list(_candidates(px, py, width, height))
        crowd = lambda box: sum(_overlap(box, other) for other in taken) + _outside(box, bounds)
        box = next((box for box in candidates if crowd(box) < 1e-6), None) or min(candidates, key=crowd)
        taken.append(box)
        label.set_position((box[0] + _PAD - px, (box[1] + box[3]) / 2 - py))
        nearest = _nearest(box, px, py)
        if math.dist(nearest, (px, py)) > 2 * _MARKER:
            offset = (nearest[0] - px, nearest[1] - py)
            line = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.6, "shrinkA": 0, "shrinkB": _MARKER}
            axes.annotate("", xytext=offset, zorder=2, arrowprops=line, **where)


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
