"""Losses and scores over the steps of training, runs on top of each other: as figures, and as charts inside a page."""

import dataclasses
import html
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from ditask_jax.plots.sheet import line_style, new_figure, styled, to_bytes, wrapped

# Legends have as many columns as fit into the width of a figure.
_LEGEND_COLUMN = 2.3
_PLOT = (2.5, 1.9)
_SMOOTHING = 50


@dataclasses.dataclass(frozen=True)
class Curves:
    """Numbers of a run over its steps.

    Attributes:
      name: of the run.
      series: by name of the plot, (steps, values).
    """

    name: str
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]]


@dataclasses.dataclass(frozen=True)
class Plot:
    """One plot of a figure of curves.

    Attributes:
      key: name of its series.
      title, unit: above it and beside it; the unit may say which direction is better.
      reference: height of a dashed line, None for none.
      smooth: whether curves are averaged over a few steps, the single values faint behind them.
      logarithmic: whether the vertical axis is.
    """

    key: str
    title: str
    unit: str = ""
    reference: float | None = None
    smooth: bool = False
    logarithmic: bool = False


@styled
def draw_curves(runs: Sequence[Curves], plots: Sequence[Plot], title: str = "", reference_name: str = "reference"):
    """Draws a grid of plots with a line per run, and one legend below.

    Args:
      runs: what to draw.
      plots: which series, in which order.
      title: one line above.
      reference_name: what the dashed lines are.

    Returns:
      A Matplotlib figure.
    """
    from matplotlib.lines import Line2D

    columns = min(len(plots), 4 if len(plots) in (4, 7, 8) else 3)
    rows = math.ceil(len(plots) / columns)
    width = max(columns * _PLOT[0], 3.4)
    handles = [Line2D([], [], label=_label(run.name), **line_style(k)) for k, run in enumerate(runs)]
    if any(plot.reference is not None for plot in plots):
        handles.append(Line2D([], [], label=reference_name, color="0.35", linestyle=(0, (1, 1)), linewidth=1.0))
    across = max(min(int(width // _LEGEND_COLUMN), len(handles)), 1)
    lines = sum(
        max(handle.get_label().count("\n") + 1 for handle in handles[k : k + across])
        for k in range(0, len(handles), across)
    )
    height = rows * _PLOT[1] + 0.16 * lines + 0.3 + (0.3 if title else 0.0)
    figure = new_figure(width, height, constrained=True)
    axes = figure.subplots(rows, columns, squeeze=False)
    for number, plot in enumerate(plots):
        _draw(axes.flat[number], runs, plot, bottom=number + columns >= len(plots))
    for unused in axes.flat[len(plots) :]:
        unused.set_visible(False)
    if title:
        figure.suptitle(wrapped(title, width - 0.3, 10.0, 2), fontsize=10)
    figure.legend(handles=handles, loc="outside lower center", ncols=across)
    return figure


def _label(name: str) -> str:
    return wrapped(name, _LEGEND_COLUMN - 0.6, 8.0, 3)


def _draw(axis, runs: Sequence[Curves], plot: Plot, bottom: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    found = [tuple(np.asarray(part, float) for part in run.series.get(plot.key, ((), ()))) for run in runs]
    # A single value per run is no curve: the runs stand side by side.
    single = all(len(steps) <= 1 for steps, _ in found)
    for number, (steps, values) in enumerate(found):
        if not len(steps):
            continue
        style = line_style(number)
        if single:
            axis.plot([number], values, **style | {"markersize": 6.0})
            continue
        if plot.smooth and len(steps) > _SMOOTHING:
            axis.plot(steps, values, color=style["color"], alpha=0.18, linewidth=0.6)
            values = _smoothed(values, max(len(steps) // _SMOOTHING, 2))
        # A marker at about every eighth of a curve, the runs' at different places.
        every = max(len(steps) // 8, 1)
        places = list(range((number * every) // max(len(runs), 1), len(steps), every))
        axis.plot(steps, values, markevery=places, **style)
    if plot.reference is not None:
        axis.axhline(plot.reference, color="0.35", linestyle=(0, (1, 1)), linewidth=1.0)
    if plot.logarithmic:
        axis.set_yscale("log")
        _few_log_ticks(axis)
    axis.set_title(wrapped(plot.title, _PLOT[0] - 0.3, 8.0, 2))
    axis.set_ylabel(plot.unit)
    if single:
        axis.set_xlim(-0.7, len(runs) - 0.3)
        axis.set_xticks([])
        axis.margins(y=0.15)
        return
    axis.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axis.margins(x=0.03)
    if bottom:
        axis.set_xlabel("step")


def _few_log_ticks(axis) -> None:
    """Numbers at up to five places of a logarithmic axis; Matplotlib writes one at every subdivision of a short one."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axis.get_ylim()
    decades = math.log10(high / low)
    subs = (1.0, 2.0, 5.0) if decades > 0.7 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    axis.yaxis.set_major_locator(LogLocator(subs=subs if decades < 3 else (1.0,), numticks=6))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())


def _smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """Centred means over so many steps, fewer at the ends.

    >>> _smoothed(np.array([0.0, 3.0, 0.0, 3.0]), 3).tolist()
    [1.5, 1.0, 2.0, 1.5]
    """
    kernel = np.ones(2 * (window // 2) + 1)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")


# A single chart as SVG inside a page: it takes the page's colours, light or dark.


_CHART = (3.75, 2.25)
_MOST_POINTS = 240
_DOTS_UP_TO = 12
_CHART_LINE = 1.3
# The light colours of `reports/page/page.css`, each replaced by the variable of that name. None is black: Matplotlib
# leaves black fills out of an SVG.
_RUN_COLOURS = ("#1f5fbf", "#c2410c", "#0f766e", "#8b2fc9", "#a8123e", "#4d7c0f", "#7a5230", "#4b5563")
_QUIET, _RULE = "#5b6370", "#d9dce1"
_VARIABLES = {colour: f"--s{k}" for k, colour in enumerate(_RUN_COLOURS)} | {_QUIET: "--quiet", _RULE: "--rule"}
CHART_STYLES = len(_RUN_COLOURS)
"""Runs that a chart can tell apart."""


@styled
def draw_chart(runs: Sequence[Curves], key: str, prefix: str) -> str | None:
    """One series of all runs as an `<svg>` element to be put into an HTML page.

    Lines of very many points are drawn as means of neighbours, with everything between smallest and largest shaded.
    Lines, and points where there are few, have titles. Colours are CSS variables: `--s0` to `--s7` by number of the
    run, `--quiet` for text, `--rule` for the grid.

    Args:
      runs: at most `CHART_STYLES`; a run without two points is left out.
      key: of the series.
      prefix: begins every id of the element, as those of a page must differ.

    Returns:
      The element; None where no run has two points.
    """
    from matplotlib.ticker import MaxNLocator

    found = [(k, run.name, *map(np.asarray, run.series.get(key, ((), ())))) for k, run in enumerate(runs)]
    found = [entry for entry in found if len(entry[2]) > 1]
    if not found:
        return None
    figure = new_figure(*_CHART, constrained=True)
    figure.patch.set_visible(False)
    axis = figure.subplots()
    axis.patch.set_visible(False)
    titles: dict[str, str] = {}
    for number, name, steps, values in found:
        _draw_line(axis, number, name, steps, values, titles)
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.grid(False, axis="x")
    axis.grid(color=_RULE, axis="y")
    axis.tick_params(length=0, labelsize=8, labelcolor=_QUIET)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=(1, 2, 5, 10)))
    axis.yaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)))
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_formatter(lambda value, _: _axis_number(value))
    axis.set_xlabel("step", loc="right", color=_QUIET)
    axis.margins(x=0.01)
    return _element(to_bytes(figure, "svg").decode("utf-8"), titles, prefix)


def _draw_line(axis, number: int, name: str, steps: np.ndarray, values: np.ndarray, titles: dict[str, str]) -> None:
    colour, dashes = _RUN_COLOURS[number], line_style(number)["linestyle"]
    if len(steps) > _MOST_POINTS:
        # Reduced in groups of equal size, the last one shorter.
        starts = np.arange(0, len(steps), math.ceil(len(steps) / _MOST_POINTS))
        sizes = np.diff(np.append(starts, len(steps)))
        lows, highs = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
        steps, values = np.add.reduceat(steps, starts) / sizes, np.add.reduceat(values, starts) / sizes
        axis.fill_between(steps, lows, highs, color=colour, alpha=0.16, linewidth=0)
    titles[f"line{number}"] = name
    axis.plot(steps, values, color=colour, linestyle=dashes, linewidth=_CHART_LINE, gid=f"line{number}")
    for k in range(len(steps) if len(steps) <= _DOTS_UP_TO else 0):
        titles[f"dot{number}_{k}"] = f"{name}, step {steps[k]:g}: {values[k]:.4g}"
        axis.plot(steps[k], values[k], "o", color=colour, markersize=3.5, gid=f"dot{number}_{k}")


def _element(svg: str, titles: Mapping[str, str], prefix: str) -> str:
    """What Matplotlib writes as a file, without what only a file needs."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"/>|<defs>\s*</defs>', "", svg)
    svg = re.sub(r' (?:width|height)="[^"]*pt"| xmlns(?::xlink)?="[^"]*"| version="[^"]*"', "", svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    # No group is referred to: those of a line or point get its title in place of an id.
    title = lambda match: f"<g><title>{html.escape(titles[match[1]])}</title>" if match[1] in titles else "<g>"
    return re.sub(rf'<g id="{prefix}-([^"]*)">', title, svg)


def dash_array(number: int) -> str:
    """The dashes of a run's line in a chart, as CSS has them.

    >>> dash_array(0), dash_array(1)
    ('none', '6.5 1.95')
    """
    style = line_style(number)["linestyle"]
    return "none" if style == "-" else " ".join(f"{_CHART_LINE * part:g}" for part in style[1])


def _axis_number(value: float) -> str:
    """A number of an axis.

    >>> _axis_number(0.0), _axis_number(20000), _axis_number(0.00005)
    ('0', '20k', '5e-05')
    """
    if abs(value) >= 10_000 and value % 100 == 0:
        return f"{value / 1000:g}k"
    return f"{value:.4g}"
