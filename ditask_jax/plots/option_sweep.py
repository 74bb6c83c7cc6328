"""Scores against an option that runs differ in."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from ditask_jax.plots.sheet import line_style, new_figure, styled, wrapped

_PLOT = (2.5, 1.9)
_LEGEND_COLUMN = 2.3


@dataclasses.dataclass(frozen=True)
class Line:
    """Runs that differ in one option.

    Attributes:
      name: what they have in common and others have not; "" if there are no others.
      points: values of the option, rising, each with the scores by name of the plot.
      spreads: of each point, standard deviations over repetitions by name of the plot, where there are several; empty
        for none at all.
    """

    name: str
    points: Sequence[tuple[float, Mapping[str, float]]]
    spreads: Sequence[Mapping[str, float]] = ()


@styled
def draw_sweep(
    lines: Sequence[Line], plots: Sequence[tuple[str, str, str]], option: str, title: str = "", binary: bool = False
):
    """Scores against the values of one option, a plot per score.

    Args:
      lines: the runs.
      plots: (key of the score, title, unit).
      option: what the horizontal axis is.
      title: one line above.
      binary: a logarithmic horizontal axis with base 2.

    Returns:
      A Matplotlib figure.
    """
    from matplotlib.lines import Line2D

    columns = min(len(plots), 4 if len(plots) in (4, 7, 8) else 3)
    rows = math.ceil(len(plots) / columns)
    width = max(columns * _PLOT[0], 3.4)
    named = [line for line in lines if line.name]
    across = max(min(int(width // _LEGEND_COLUMN), len(named)), 1)
    labels = [wrapped(line.name, _LEGEND_COLUMN - 0.6, 8.0, 3) for line in lines]
    below = 0.16 * sum(text.count("\n") + 1 for text in labels if text) / across + (0.3 if named else 0.0)
    figure = new_figure(width, rows * _PLOT[1] + below + (0.3 if title else 0.0) + 0.1, constrained=True)
    axes = figure.subplots(rows, columns, squeeze=False)
    for number, (key, name, unit) in enumerate(plots):
        axis = axes.flat[number]
        for k, line in enumerate(lines):
            found = [(x, scores[key]) for x, scores in line.points if key in scores]
            axis.plot([x for x, _ in found], [y for _, y in found], **line_style(k))
            bars = [
                (x, scores[key], spread[key])
                for (x, scores), spread in zip(line.points, line.spreads, strict=False)
                if key in spread
            ]
            if bars:
                colour = line_style(k)["color"]
                axis.errorbar(*zip(*bars, strict=True), linestyle="none", color=colour, capsize=2.5, linewidth=0.9)
        ticks = sorted({x for line in lines for x, _ in line.points})
        _place_ticks(axis, ticks, binary)
        axis.set_title(wrapped(name, _PLOT[0] - 0.3, 8.0, 2))
        axis.set_ylabel(unit)
        if number + columns >= len(plots):
            axis.set_xlabel(wrapped(option, _PLOT[0] - 0.5, 8.0, 2))
    for unused in axes.flat[len(plots) :]:
        unused.set_visible(False)
    if title:
        figure.suptitle(wrapped(title, width - 0.3, 10.0, 2), fontsize=10)
    if named:
        handles = [Line2D([], [], label=text, **line_style(k)) for k, text in enumerate(labels) if text]
        figure.legend(handles=handles, loc="outside lower center", ncols=across)
    return figure


def _place_ticks(axis, values: Sequence[float], binary: bool) -> None:
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    if binary:
        axis.set_xscale("log", base=2)
        axis.xaxis.set_minor_locator(NullLocator())
    if len(values) <= 5 or binary:
        kept = values if len(values) <= 5 else values[:: -(-len(values) // 5)]
        axis.xaxis.set_major_locator(FixedLocator(list(kept)))
        axis.set_xticks(list(kept), [f"{value:g}" for value in kept])
    else:
        axis.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axis.margins(x=0.08, y=0.15)
