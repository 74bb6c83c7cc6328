"""Delta m: the average relative gain of a multi-task model over single-task models, in per cent.

References:
  K.-K. Maninis, I. Radosavovic, I. Kokkinos. Attentive single-tasking of multiple tasks. CVPR 2019.
"""

import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence

from ditask_jax.errors import ConfigError, check_known
from ditask_jax.files import user_path
from ditask_jax.tasks.base import Task
from ditask_jax.tasks.task_registry import DATASETS, known_tasks, primary_score

_FOLDER = pathlib.Path(__file__).parent / "references"


def delta_m(
    scores: Mapping[str, float], references: Mapping[str, float], higher_is_better: Mapping[str, bool]
) -> float:
    """Mean over tasks of `s (score - reference) / reference`, s = -1 where lower is better, times 100.

    Args:
      scores: primary metric of each task of the multi-task model.
      references: the same of single-task models, at least for every task of `scores`, in the same units.
      higher_is_better: direction of each primary metric.

    Returns:
      Per cent; positive is better than the references.

    Raises:
      ConfigError: no scores, an unknown score, or a task without a reference that can be divided by.

    >>> round(delta_m({"semseg": 0.6966, "normals": 17.1}, {"semseg": 0.6721, "normals": 17.97},
    ...               {"semseg": True, "normals": False}), 3)
    4.243
    """
    if not scores:
        raise ConfigError("delta_m: no scores given")
    gains = []
    for name, score in scores.items():
        check_known("delta_m: task without a reference score", name, references)
        check_known("delta_m: task without a direction", name, higher_is_better)
        reference = references[name]
        if not (math.isfinite(reference) and reference > 0):
            raise ConfigError(f"delta_m: reference score of '{name}': got {reference}, expected a positive number")
        if score is None or not math.isfinite(score):
            raise ConfigError(f"delta_m: score of '{name}': got {score}, expected a finite number")
        gain = (score - reference) / reference
        gains.append(gain if higher_is_better[name] else -gain)
    return 100.0 * math.fsum(gains) / len(gains)


def is_known(score: float | None) -> bool:
    """Whether a score is a finite number: neither missing (None) nor NaN nor infinite.

    >>> is_known(0.0), is_known(None), is_known(float("nan"))
    (True, False, False)
    """
    return isinstance(score, int | float) and math.isfinite(score)


def delta_m_of(
    tasks: Sequence[Task], scores: Mapping[str, Mapping[str, float | None]], references: Mapping[str, float]
) -> float | None:
    """Delta m of an evaluation, or None where it is unknown: a task has no reference, or its score is unknown.

    Args:
      tasks: the tasks of the model.
      scores: `Task.finalize` of every task, by task name.
      references: as `load_references` returns them.

    >>> from ditask_jax.tasks import create_tasks
    >>> pascal = create_tasks("semseg+edge", dataset="pascal")
    >>> delta_m_of(pascal, {"semseg": {"mIoU": 0.7}, "edge": {"odsF": 0.7}}, {"semseg": 0.6721}) is None
    True
    """
    known = lambda task: scores.get(task.name, {}).get(task.primary_metric)
    if any(task.name not in references or not is_known(known(task)) for task in tasks):
        return None
    return delta_m(
        {task.name: scores[task.name][task.primary_metric] for task in tasks},
        references,
        {task.name: task.higher_is_better for task in tasks},
    )


def load_references(
    dataset: str, path: str | os.PathLike | None = None, tasks: Sequence[Task] = ()
) -> dict[str, float]:
    """Single-task scores of a data set by task name; empty if none are known.

    Args:
      dataset: one of `ditask_jax.tasks.task_registry.DATASETS`.
      path: a JSON file of the user's own scores, in place of those kept in the package:
        `{"scores": {"semseg": {"metric": "mIoU", "value": 0.6721}, ...}, "source": "where they come from"}`, with the
        primary metric of each task, fractions in 0..1, degrees, metres.
      tasks: those that a configuration declares, so that the file may have scores of them.

    Raises:
      ConfigError: the file is missing, is not such JSON, or holds a score that cannot be a reference.

    >>> load_references("pascal")["normals"]
    17.97
    >>> load_references("folder")
    {}
    """
    check_known("config: data.name", dataset, DATASETS)
    if path is None:
        file = _in_package(dataset)
        return {} if file is None else _read(file)
    file = user_path(path, "references")
    if not file.is_file():
        raise ConfigError(f"references: '{file}' is not a file")
    return _read(file, tasks)


def reference_source(dataset: str) -> str:
    """Where the package's single-task scores of a data set come from; "" where it has none.

    >>> reference_source("folder")
    ''
    """
    file = _in_package(dataset)
    return "" if file is None else _content(file)["source"]


def _in_package(dataset: str) -> pathlib.Path | None:
    file = _FOLDER / f"{dataset}.json"
    return file if file.is_file() else None


def _content(file: pathlib.Path) -> object:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"references: '{file}' cannot be read as JSON: {error}") from error


def _read(file: pathlib.Path, tasks: Sequence[Task] = ()) -> dict[str, float]:
    content = _content(file)
    entries = content.get("scores") if isinstance(content, dict) else None
    if not isinstance(entries, dict):
        raise ConfigError(f"references: '{file}' has no object 'scores'")
    own, where = {task.name: (task.primary_metric, task.unit == "fraction") for task in tasks}, f"references: '{file}'"
    for name in entries:
        check_known(f"{where}: scores", name, list(dict.fromkeys((*own, *known_tasks()))))
    return {name: _checked_score(where, name, own.get(name) or primary_score(name), entries[name]) for name in entries}


def _checked_score(where: str, name: str, known: tuple[str, bool], entry: object) -> float:
    primary, is_fraction = known
    metric, value = (entry.get("metric"), entry.get("value")) if isinstance(entry, dict) else (None, None)
    if metric != primary:
        raise ConfigError(f"{where}: scores.{name}.metric: got {metric!r}, expected '{primary}'")
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{where}: scores.{name}.value: got {value!r}, expected a positive number")
    if is_fraction and value > 1:
        raise ConfigError(f"{where}: scores.{name}.value: got {value}, expected a fraction in 0..1, not per cent")
    return float(value)
