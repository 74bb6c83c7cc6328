"""Which options runs differ in, their scores along each, and images for predictions of several runs."""

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ditask_jax.data import transform
from ditask_jax.errors import ConfigError
from ditask_jax.plots.option_sweep import Line
from ditask_jax.reports.runs import Run
from ditask_jax.tasks import Task, delta_m_of
from ditask_jax.training.experiment import build_augmentation, build_source
from ditask_jax.training.run_folder import FREE_FIELDS

# Which options runs differ in, and their scores along each of them.


DELTA_M = "delta_m"
# Differences that are repetitions, or that follow from others.
_NO_OPTIONS = {*FREE_FIELDS, "seed", "eval_batch_size", "eval_every_steps", "eval_every_epochs"}


def swept_options(runs: Sequence[Run]) -> dict[str, tuple[str, ...]]:
    """Numerical options with several values among the runs; those that always change together count as one.

    Returns:
      Name, such as "method.shared_cells = method.task_cells", to the fields.
    """
    differing = _differing(runs)
    columns: dict[tuple, list[str]] = defaultdict(list)
    for name in differing:
        values = tuple(run.fields.get(name) for run in runs)
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            columns[values].append(name)
    return {" = ".join(names): tuple(names) for names in columns.values()}


def sweep_lines(
    runs: Sequence[Run], fields: Sequence[str], tasks: Sequence[Task], references: Mapping[str, float]
) -> list[Line]:
    """Scores along an option: a line per set of runs that are equal otherwise; repetitions become mean and spread.

    Args:
      runs: evaluated runs.
      fields: the option, as `swept_options` names it.
      tasks: whose primary scores count.
      references: single-task scores, for delta_m.
    """
    others = [name for name in _differing(runs) if name not in fields]
    groups: dict[tuple, dict[float, list]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        rest = tuple(_text(run.fields.get(name)) for name in others)
        groups[rest][run.fields[fields[0]]].append(_scores(run, tasks, references))
    lines = []
    for rest, points in groups.items():
        name = ", ".join(f"{name.rsplit('.', 1)[-1]}={value}" for name, value in zip(others, rest, strict=True))
        values = sorted(points)
        spreads = [_deviation(points[value]) for value in values]
        lines.append(Line(name, [(value, _mean(points[value])) for value in values], spreads if any(spreads) else ()))
    return lines


def _differing(runs: Sequence[Run]) -> list[str]:
    names = dict.fromkeys(name for run in runs for name in run.fields)
    return [
        name for name in names if name not in _NO_OPTIONS and len({_text(run.fields.get(name)) for run in runs}) > 1
    ]


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def gain_curve(run: Run, references: Mapping[str, float]) -> tuple[list[int], list[float]]:
    """Steps and delta_m of every evaluation of a run, against these references and not those of the time."""
    steps, gains = [], []
    for row in run.rows:
        names = {task.name: f"val/tasks/{task.name}/{task.primary_metric}" for task in run.tasks}
        scores = {
            task.name: {task.primary_metric: row[names[task.name]]}
            for task in run.tasks
            if isinstance(row.get(names[task.name]), int | float)
        }
        gain = delta_m_of(run.tasks, scores, references)
        if gain is not None:
            steps.append(row["step"])
            gains.append(gain)
    return steps, gains


def _scores(run: Run, tasks: Sequence[Task], references: Mapping[str, float]) -> dict[str, float]:
    primary = {task.name: run.primary(task) for task in tasks}
    known = {name: value for name, value in primary.items() if value is not None}
    by_metric = {task.name: {task.primary_metric: known[task.name]} for task in run.tasks if task.name in known}
    gain = delta_m_of(run.tasks, by_metric, references)
    return known if gain is None else known | {DELTA_M: gain}


def _mean(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: math.fsum(values) / len(values) for name, values in _by_name(scores).items()}


def _deviation(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: statistics.stdev(values) for name, values in _by_name(scores).items() if len(values) > 1}


def _by_name(scores: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    names = dict.fromkeys(name for one in scores for name in one)
    return {name: [one[name] for one in scores if name in one] for name in names}


# Pictures of a data set with their labels, for predictions of several runs on the same ones.


# What must agree for two runs to have been scored on the same pictures.
_SAME = ("data.name", "data.seed", "data.layout", "data.depth_unit", "data.val_fraction", "data.vtab_task")


def check_same_data(runs: Sequence[Run]) -> None:
    """Raises ConfigError unless all runs were scored on the same pictures."""
    first = runs[0].fields
    for run in runs[1:]:
        for name in _SAME:
            if run.fields.get(name) != first.get(name):
                raise ConfigError(
                    f"figures: runs of different data cannot share panels: {name} is {first.get(name)} in "
                    f"'{runs[0].path}' and {run.fields.get(name)} in '{run.path}'; draw them apart"
                )


def all_tasks(runs: Sequence[Run]) -> tuple[Task, ...]:
    """The tasks of all runs, each once, in the order in which they appear."""
    return tuple({task.name: task for run in runs for task in run.tasks}.values())


def validation_examples(
    run: Run, tasks: Sequence[Task], numbers: Sequence[int]
) -> list[tuple[str, np.ndarray, dict[str, np.ndarray]]]:
    """Examples of the validation split as (id, picture, labels by task), of their own size, missing values marked.

    Args:
      run: whose data.
      tasks: labels to read.
      numbers: of the examples.

    Raises:
      ConfigError: a number that the split does not have.
      DataError: a file cannot be read.
    """
    config = run.config.copy_and_resolve_references()
    with config.unlocked():
        config.tasks = "+".join(task.name for task in tasks)
    source = build_source(config, "val")
    if (worst := max(numbers, key=lambda k: k if k >= 0 else len(source))) not in range(len(source)):
        raise ConfigError(f"figures: --examples: got {worst}, expected 0 to {len(source) - 1}")
    augmentation = build_augmentation(config).for_evaluation()
    specs = [task.label_spec for task in tasks]
    found = []
    for number in numbers:
        example = source[number]
        done = transform(example, specs, example["image"].shape[:2], None, augmentation)
        found.append((str(example.get("id", number)), done["image"], done["labels"]))
    return found
