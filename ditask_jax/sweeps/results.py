"""What a sweep has found: a table of its points, the methods side by side, and a score along every axis."""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from ditask_jax.errors import DitaskError, optional
from ditask_jax.files import atomic_write_text
from ditask_jax.pictures.sheet import save
from ditask_jax.reports import find_runs
from ditask_jax.reports.comparison import Comparison, compare
from ditask_jax.reports.pareto import draw_pareto
from ditask_jax.sweeps.effects import draw_effects, effects_of
from ditask_jax.sweeps.loading import Job
from ditask_jax.sweeps.points import Sweep, value_text
from ditask_jax.sweeps.states import FINISHED, read_evaluation, score_of

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
        files += draw_pareto(folder / "delta_m", found)
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
