"""Line charts as SVG inside a page: they take the page's colours, light or dark, and need no script."""

import dataclasses
import math
from collections.abc import Sequence

from ditask_jax.reports.markup import Markup, tag

WIDTH, HEIGHT = 360, 216
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 10, 10, 34
_TICKS = 5
_MOST_POINTS = 240
_DOTS_UP_TO = 12


@dataclasses.dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
      name: of the run.
      style: number of its colour and dashes.
      steps, values: its points; steps rise.
    """

    name: str
    style: int
    steps: Sequence[float]
    values: Sequence[float]


def line_chart(title: str, lines: Sequence[Line], unit: str = "") -> Markup | None:
    """A figure with one chart; None where no line has two points.

    Lines of very many points are drawn as means of neighbours, with everything between smallest and largest shaded.

    Args:
      title: of the vertical axis and of the figure.
      lines: what to draw.
      unit: of the values.
    """
    lines = [line for line in lines if len(line.steps) > 1]
    if not lines:
        return None
    ticks_x = _ticks(min(line.steps[0] for line in lines), max(line.steps[-1] for line in lines), whole=True)
    low = min(min(line.values) for line in lines)
    high = max(max(line.values) for line in lines)
    ticks_y = _ticks(low, high)
    place = _Frame(
        (min(line.steps[0] for line in lines), max(line.steps[-1] for line in lines)),
        (min(ticks_y[0], low), max(ticks_y[-1], high)),
    )
    drawn = [_axes(place, ticks_x, ticks_y), [_drawn(place, line) for line in lines]]
    last = "; ".join(f"{line.name}: {line.values[-1]:.4g}" for line in lines)
    picture = tag(
        "svg",
        tag("title", f"{title} by step, at the end {last}"),
        *drawn,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        class_="chart",
    )
    caption = tag("figcaption", title, tag("span", f" ({unit})", class_="quiet") if unit else None)
    return tag("figure", caption, picture, class_="chart-figure")


@dataclasses.dataclass(frozen=True)
class _Frame:
    """From steps and values to places in the picture."""

    steps: tuple[float, float]
    values: tuple[float, float]

    def x(self, step: float) -> float:
        low, high = self.steps
        return round(_LEFT + (step - low) / max(high - low, 1e-30) * (WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        low, high = self.values
        return round(HEIGHT - _BOTTOM - (value - low) / max(high - low, 1e-30) * (HEIGHT - _TOP - _BOTTOM), 1)


def _drawn(place: _Frame, line: Line) -> Markup:
    means, bands = _thinned(list(zip(line.steps, line.values, strict=True)))
    points = " ".join(f"{place.x(step)},{place.y(value)}" for step, value in means)
    found = []
    if bands:
        upper = [f"{place.x(step)},{place.y(high)}" for step, _, high in bands]
        lower = [f"{place.x(step)},{place.y(low)}" for step, low, _ in reversed(bands)]
        found.append(tag("polygon", points=" ".join(upper + lower), class_=f"band s{line.style}"))
    found.append(tag("polyline", tag("title", line.name), points=points, class_=f"line s{line.style}"))
    if len(means) <= _DOTS_UP_TO:
        found += [tag("circle", tag("title", f"{line.name}, step {step:g}: {value:.4g}"), cx=place.x(step),
                      cy=place.y(value), r=2.5, class_=f"dot s{line.style}") for step, value in means]  # fmt: skip
    return tag("g", found)


def _thinned(points: list[tuple[float, float]]) -> tuple[list[tuple[float, float]], list[tuple[float, float, float]]]:
    """Means of neighbours, and (step, smallest, largest) of each; no bands where all points can be drawn."""
    if len(points) <= _MOST_POINTS:
        return points, []
    size = math.ceil(len(points) / _MOST_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    means, bands = [], []
    for group in groups:
        step = sum(step for step, _ in group) / len(group)
        values = [value for _, value in group]
        means.append((step, sum(values) / len(values)))
        bands.append((step, min(values), max(values)))
    return means, bands


def _axes(place: _Frame, ticks_x: Sequence[float], ticks_y: Sequence[float]) -> Markup:
    left, right, bottom = _LEFT, WIDTH - _RIGHT, HEIGHT - _BOTTOM
    found = []
    for value in ticks_y:
        y = place.y(value)
        found.append(tag("line", x1=left, x2=right, y1=y, y2=y, class_="rule"))
        found.append(tag("text", _number(value), x=left - 6, y=y + 3.5, text_anchor="end"))
    for step in ticks_x:
        if place.steps[0] <= step <= place.steps[1]:
            x = place.x(step)
            found.append(tag("line", x1=x, x2=x, y1=bottom, y2=bottom + 4, class_="rule"))
            found.append(tag("text", _number(step), x=x, y=bottom + 16, text_anchor="middle"))
    found.append(tag("text", "step", x=right, y=HEIGHT - 4, text_anchor="end"))
    return tag("g", found, class_="axes")


def _ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Round numbers that span a range.

    >>> _ticks(0.013, 0.094)
    [0.0, 0.02, 0.04, 0.06, 0.08, 0.1]
    >>> _ticks(1, 3, whole=True)
    [1, 2, 3]
    """
    if not high > low:
        pad = abs(low) * 0.1 or 1.0
        low, high = (low - pad, high + pad) if not whole else (low, low + 1)
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    if whole:
        step = max(round(step), 1)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [k * step if whole else round(k * step, 12) for k in range(first, last + 1)]


def _number(value: float) -> str:
    """A number of an axis.

    >>> _number(0.0), _number(20000), _number(0.00005)
    ('0', '20k', '5e-05')
    """
    if abs(value) >= 10_000 and value % 100 == 0:
        return f"{value / 1000:g}k"
    return f"{value:.4g}"
