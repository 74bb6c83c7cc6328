"""A score along every axis of a sweep: each point, and the mean over all others that share the value."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

from ditask_jax.pictures.sheet import new_figure, styled, wrapped
from ditask_jax.sweeps.loading import Job
from ditask_jax.sweeps.points import value_text
from ditask_jax.sweeps.states import score_of

_PLOT = (2.6, 2.1)
_COLUMNS = 3
_MOST_NAMED = 8


@dataclasses.dataclass(frozen=True)
class Effect:
    """One axis.

    Attributes:
        axis: Its name.
        scores: By value, as text, the scores of all points that have it; numbers rising, other values as given.
    """

    axis: str
    scores: Mapping[str, Sequence[float]]


def effects_of(jobs: Sequence[Job], metric: str) -> list[Effect]:
    """The axes along which finished points differ.

    Args:
        jobs: Finished points.
        metric: Which score.

    Returns:
        One entry per axis with several values; the configuration is an axis where points have several.
    """
    placed = [({**_config_axis(job, jobs), **job.point.axes}, score_of(job, metric)) for job in jobs]
    axes = dict.fromkeys(axis for place, _ in placed for axis in place)
    found = []
    for axis in axes:
        values = [(place[axis], score) for place, score in placed if axis in place and score is not None]
        if all(isinstance(value, int | float) for value, _ in values):
            values.sort(key=lambda entry: entry[0])
        scores: dict[str, list[float]] = {}
        for value, score in values:
            scores.setdefault(value_text(value), []).append(score)
        if len(scores) > 1:
            found.append(Effect(axis, scores))
    return found


@styled
def draw_effects(effects: Sequence[Effect], metric: str):
    """A plot per axis: a dot per point, a line through the means.

    Args:
        effects: The axes, at least one.
        metric: Name of the score.

    Returns:
        A Matplotlib figure.
    """
    columns = 2 if len(effects) == 4 else min(len(effects), _COLUMNS)
    rows = math.ceil(len(effects) / columns)
    figure = new_figure(max(columns * _PLOT[0], 3.4), rows * _PLOT[1] + 0.3, constrained=True)
    plots = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for number, effect in enumerate(effects):
        plot = plots.flat[number]
        places = range(len(effect.scores))
        for place, scores in zip(places, effect.scores.values(), strict=True):
            plot.plot([place] * len(scores), scores, linestyle="none", marker="o", markersize=3, color="0.65")
        means = [statistics.fmean(scores) for scores in effect.scores.values()]
        plot.plot(places, means, color="black", marker="D", markersize=4)
        _name_values(plot, list(effect.scores))
        plot.set_xlabel(wrapped(effect.axis, _PLOT[0] - 0.5, 8.0, 2))
        if number % columns == 0:
            plot.set_ylabel(f"{metric} (%)" if metric == "delta_m" else metric)
    for unused in plots.flat[len(effects) :]:
        unused.set_visible(False)
    figure.suptitle("dots: points; diamonds: their mean", fontsize=8)
    return figure


def _name_values(plot, values: Sequence[str]) -> None:
    """Every value where there are few, else as many as there is room for; long names slanted and cut."""
    step = -(-len(values) // _MOST_NAMED)
    shown = [value if len(value) <= 14 else f"{value[:12]}..." for value in values[::step]]
    slanted = sum(map(len, shown)) > 24
    plot.set_xticks(
        range(0, len(values), step), shown, rotation=40 if slanted else 0, ha="right" if slanted else "center"
    )
    plot.margins(x=0.12, y=0.12)


def _config_axis(job: Job, jobs: Sequence[Job]) -> dict[str, str]:
    sources = {other.source for other in jobs}
    if len(sources) == 1:
        return {}
    same_file = len({source.partition(":")[0] for source in sources}) == 1
    return {"config": job.source.partition(":")[2] or "default" if same_file else job.source}
