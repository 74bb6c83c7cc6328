"""What a sweep has found: tables of its points and methods, effects of its axes, and their figures."""

import csv
import dataclasses
import io
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ditask_jax.errors import DitaskError, optional
from ditask_jax.files import atomic_write_text
from ditask_jax.plots.sheet import new_figure, save, styled, wrapped
from ditask_jax.reports import find_runs
from ditask_jax.reports.comparison import Comparison, compare
from ditask_jax.sweeps.loading import Job
from ditask_jax.sweeps.points import Sweep, value_text
from ditask_jax.sweeps.running import BUSY, FAILED, FINISHED, STOPPED, Outcome, Share, read_evaluation, score_of

# A score along every axis of a sweep: each point, and the mean over all others that share the value.


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


# What a sweep has found: a table of its points, the methods side by side, and a score along every axis.


FOLDER = "results"
_SHOWN = 20


def write_results(sweep: Sweep, jobs: Sequence[Job], states: Mapping[str, str], folder: Path) -> tuple[str, list[Path]]:
    """Writes `points.csv`, and where points are finished the table of `ditask_jax.compare` and figures.

    Args:
        sweep: The sweep.
        jobs: Its points.
        states: State of each by name.
        folder: Where to.

    Returns:
        A text for the terminal, and the files.
    """
    files = [atomic_write_text(folder / "points.csv", points_csv(jobs, states))]
    finished = [job for job in jobs if states[job.name] == FINISHED]
    if not finished:
        return "no point is finished", files
    ranking = rank(sweep, finished)
    text = ranking_text(sweep, ranking)
    try:
        found = compare(find_runs([job.workdir for job in finished]))
    except DitaskError as error:
        # Single-task runs of some tasks, or points on several data sets: each stands for itself.
        return f"{text}\n\nno table of methods: {error}", files
    files.append(atomic_write_text(folder / "comparison.md", found.markdown()))
    files.append(atomic_write_text(folder / "comparison.csv", found.csv()))
    with optional(f"figure {folder / 'delta_m'}"):
        if (figure := found.figure()) is not None:
            files += save(figure, folder / "delta_m")
    if effects := effects_of(finished, sweep.metric):
        with optional(f"figure {folder / 'axes'}"):
            files += save(draw_effects(effects, sweep.metric), folder / "axes")
    return f"{text}\n\n{_best_lines(found).markdown().rstrip()}", files


def rank(sweep: Sweep, jobs: Sequence[Job]) -> list[tuple[Job, float]]:
    """Points that have the sweep's metric, the best first."""
    scored = [(job, score) for job in jobs if (score := score_of(job, sweep.metric)) is not None]
    return sorted(scored, key=lambda entry: entry[1], reverse=sweep.goal == "max")


def ranking_text(sweep: Sweep, ranking: Sequence[tuple[Job, float]]) -> str:
    """The best points, a line each."""
    if not ranking:
        return f"no finished point has {sweep.metric}"
    width = max(len(job.name) for job, _ in ranking[:_SHOWN])
    lines = [f"{sweep.metric} by point, the best first:"]
    lines += [f"  {job.name:<{width}}  {score:.6g}" for job, score in ranking[:_SHOWN]]
    if len(ranking) > _SHOWN:
        lines.append(f"  and {len(ranking) - _SHOWN} more")
    return "\n".join(lines)


def points_csv(jobs: Sequence[Job], states: Mapping[str, str]) -> str:
    """All points with their state, their place on the axes, every score with all digits, and their folder."""
    evaluations = {job.name: read_evaluation(job) or {} for job in jobs if states[job.name] == FINISHED}
    axes = list(dict.fromkeys(axis for job in jobs for axis in job.point.axes))
    metrics = dict.fromkeys(
        (task, metric)
        for evaluation in evaluations.values()
        for task, found in evaluation.get("scores", {}).items()
        for metric in found
    )
    numbers = ("step", "delta_m", "trainable_backbone", "trainable_total")
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["point", "state", "config", *axes, *numbers, *("/".join(key) for key in metrics), "run"])
    for job in jobs:
        evaluation = evaluations.get(job.name, {})
        scores = evaluation.get("scores", {})
        places = [value_text(job.point.axes[axis]) if axis in job.point.axes else None for axis in axes]
        values = [evaluation.get(name) for name in numbers]
        values += [scores.get(task, {}).get(metric) for task, metric in metrics]
        writer.writerow([job.name, states[job.name], job.source, *places, *values, job.workdir])
    return file.getvalue()


def _best_lines(found: Comparison) -> Comparison:
    """As many rows as a terminal shows, those with the highest delta_m; all of them where they are few."""
    if len(found.lines) <= _SHOWN:
        return found
    worth = lambda line: -float("inf") if line.delta_m is None else line.delta_m.mean
    return dataclasses.replace(found, lines=tuple(sorted(found.lines, key=worth, reverse=True)[:_SHOWN]))


# What a person sees of a sweep: the plan, a line per finished point, and what to do about the rest.


def listing(jobs: Sequence[Job], states: Mapping[str, str]) -> str:
    """One line per point: its state, its name, its configuration with overrides."""
    width = max(len(job.name) for job in jobs)
    return "\n".join(
        f"{states[job.name]:<10}  {job.name:<{width}}  {' '.join((job.source, *job.overrides))}" for job in jobs
    )


def plan_line(states: Mapping[str, str], shares: Sequence[Share]) -> str:
    """How much there is to do, and where it will be done.

    >>> plan_line({"a": "finished", "b": "new", "c": "new"}, [Share(), Share()])
    '3 points: 1 finished, 2 new; 2 at a time (all cores)'
    """
    counts = Counter(states.values())
    parts = [f"{counts[state]} {state}" for state in ("finished", "unfinished", "new") if counts[state]]
    places = "; ".join(dict.fromkeys(map(str, shares)))
    return f"{len(states)} points: {', '.join(parts)}; {len(shares)} at a time ({places})"


class Tally:
    """Counts outcomes and guesses how long the rest takes.

    Args:
        total: Points of the sweep.
        finished: Those that were finished before.
        waiting: Those to be run.
        at_once: How many run at a time.
        metric: The score in the lines.
    """

    def __init__(self, total: int, finished: int, waiting: int, at_once: int, metric: str = "delta_m"):
        self.outcomes: list[Outcome] = []
        self._metric = metric
        self._total, self._finished, self._waiting, self._at_once = total, finished, waiting, at_once

    def add(self, outcome: Outcome) -> str:
        """Counts an outcome; returns its line."""
        self.outcomes.append(outcome)
        self._finished += outcome.state == FINISHED
        head = f"[{self._finished:>{len(str(self._total))}}/{self._total}] {outcome.job.name}"
        if outcome.state == BUSY:
            return f"{head}: another process trains it"
        line = f"{head}: {outcome.state} after {duration(outcome.seconds)}"
        if outcome.state == FINISHED:
            line += self._score(outcome.job)
        elif outcome.state == FAILED:
            line += f": {outcome.message}"
        rest = self.remaining_seconds()
        return f"{line}; about {duration(rest)} to go" if rest else line

    def _score(self, job: Job) -> str:
        score = score_of(job, self._metric)
        if score is None:
            return f", {self._metric} unknown"
        return f", {self._metric} {score:+.2f} %" if self._metric == "delta_m" else f", {self._metric} {score:.4g}"

    def remaining_seconds(self) -> float | None:
        """By the mean time of those that finished; None before the first, or where nothing is left."""
        times = [outcome.seconds for outcome in self.outcomes if outcome.state == FINISHED]
        left = self._waiting - len(self.outcomes)
        return sum(times) / len(times) * left / min(self._at_once, left) if times and left else None

    def of(self, state: str) -> list[Outcome]:
        """Outcomes of one kind."""
        return [outcome for outcome in self.outcomes if outcome.state == state]

    def closing(self, again: str, stopping: bool) -> str:
        """What failed and why, and how to resume; empty where everything is done.

        Args:
            again: The command of the sweep.
            stopping: Whether the sweep was told to stop.
        """
        lines = []
        if failed := self.of(FAILED):
            lines += [f"failed, {len(failed)} of {self._total}:"]
            lines += [f"  {outcome.job.name}: {outcome.message}" for outcome in failed]
        if busy := self.of(BUSY):
            lines.append(f"left to another process: {' '.join(outcome.job.name for outcome in busy)}")
        if stopping or self.of(STOPPED):
            lines.append(f"stopped with {self._finished} of {self._total} points finished")
        if lines:
            lines.append(f"run the same command to resume what is missing: {again}")
        return "\n".join(lines)


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> [duration(seconds) for seconds in (4.2, 200, 8000)]
    ['4 s', '3 min 20 s', '2 h 13 min']
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
