"""Losses and scores over the steps of training, runs on top of each other."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from ditask_jax.plots.sheet import line_style, new_figure, styled, wrapped

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
