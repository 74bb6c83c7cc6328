"""Run folders as data: configuration, scores, metrics, what a step took. Nothing is restored or computed again."""

import dataclasses
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ditask_jax.config import flatten
from ditask_jax.config_fields import CHOSEN, all_fields, base_config, choices, make_section
from ditask_jax.config_sections import SECTIONS
from ditask_jax.errors import CheckpointError, ConfigError, DitaskError, format_number
from ditask_jax.files import EVALUATION_FORMAT, parse_json, user_path
from ditask_jax.options import options_of
from ditask_jax.tasks import Task
from ditask_jax.training.experiment import build_tasks
from ditask_jax.training.metrics_log import read_metrics
from ditask_jax.training.run_folder import RunDir

MEMORY_KEYS = {"time/device_memory": "device", "time/process_memory": "process"}
"""Keys of `metrics.jsonl` that hold a peak of memory in bytes, and whose peak it is."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder, read.

    Attributes:
      path: the folder.
      config: the configuration, locked; fields that the run's file lacks have the defaults.
      tasks: its tasks.
      evaluation: content of `evaluation.json`, or None where the run was not evaluated yet.
      rows: rows of `metrics.jsonl`, one per step, rising.
    """

    path: Path
    config: ConfigDict
    tasks: tuple[Task, ...]
    evaluation: Mapping[str, Any] | None
    rows: Sequence[Mapping[str, Any]]

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.config.method.name

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.config.data.name

    @property
    def seed(self) -> int:
        """Seed of everything random but the data."""
        return self.config.seed

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks, in the order of the configuration."""
        return tuple(task.name for task in self.tasks)

    @property
    def fields(self) -> dict[str, Any]:
        """Every field of the configuration by dotted name."""
        return flatten(self.config)

    @property
    def step(self) -> int | None:
        """Optimiser steps behind the scores."""
        return None if self.evaluation is None else self.evaluation["step"]

    @property
    def scores(self) -> Mapping[str, Mapping[str, float]]:
        """Every metric by name, by task; fractions, degrees, metres. Empty without an evaluation."""
        return {} if self.evaluation is None else self.evaluation["scores"]

    def primary(self, task: Task) -> float | None:
        """The score of a task that enters delta_m; None where there is none, or it is no finite number."""
        value = self.scores.get(task.name, {}).get(task.primary_metric)
        return value if isinstance(value, int | float) and math.isfinite(value) else None

    @property
    def delta_m(self) -> float | None:
        """Per cent, as recorded: against the references in the package when the run was evaluated."""
        return None if self.evaluation is None else self.evaluation.get("delta_m")

    @property
    def trainable_backbone(self) -> int | None:
        """Trainable parameters in the backbone, adapters included."""
        return None if self.evaluation is None else self.evaluation.get("trainable_backbone")

    @property
    def trainable_total(self) -> int | None:
        """All trainable parameters."""
        return None if self.evaluation is None else self.evaluation.get("trainable_total")

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Steps and values of a key of the metrics log, where it is there and finite.

        Args:
          key: for example `"train/loss"` or `"val/delta_m"`.
        """
        found = [(row["step"], row[key]) for row in self.rows if isinstance(row.get(key), int | float)]
        return [step for step, _ in found], [value for _, value in found]

    @property
    def seconds_per_step(self) -> float | None:
        """Median time of a step without reading data; the first step, which compiles, left out."""
        return _median(self.series("time/step")[1][1:])

    @property
    def seconds_reading(self) -> float | None:
        """Median time that a step waits for its batch; the first left out."""
        return _median(self.series("time/read")[1][1:])

    @property
    def memory_kind(self) -> str | None:
        """Whose peak `peak_memory` is: "device", or "process" where the device does not tell; None: not recorded."""
        return next((kind for key, kind in MEMORY_KEYS.items() if self.series(key)[1]), None)

    @property
    def peak_memory(self) -> int | None:
        """Peak of memory in bytes up to the last step, compiling and evaluations on the way included."""
        return next((max(values) for key in MEMORY_KEYS if (values := self.series(key)[1])), None)


def read_run(path: str | Path, *, evaluated: bool = True) -> Run:
    """Reads a run folder.

    Args:
      path: the folder that was `--workdir`.
      evaluated: whether a run without `evaluation.json` is refused.

    Raises:
      CheckpointError: no such folder, no run in it, no evaluation, or a file of it is damaged.
      ConfigError: its configuration cannot be used.
    """
    run = RunDir(path)
    if not run.path.is_dir():
        raise CheckpointError(f"run: '{run.path}' is no folder; give the --workdir of a training run")
    config = _with_defaults(run.load_config())
    try:
        tasks = build_tasks(config)
    except (AttributeError, KeyError) as error:
        raise ConfigError(f"run: '{run.path}': config.json lacks a field: {error}") from None
    evaluation = _read_evaluation(run, tasks) if run.evaluation.is_file() else None
    if evaluation is None and evaluated:
        raise CheckpointError(
            f"run: '{run.path}' has no evaluation.json; finish it, or run "
            f"python -m ditask_jax.evaluate --workdir={run.path}"
        )
    return Run(run.path, config, tasks, evaluation, tuple(read_metrics(run.path)))


def find_runs(paths: Iterable[str | Path], *, evaluated: bool = True) -> list[Run]:
    """Reads runs; a folder that is no run itself stands for the runs right below it, in the order of their names.

    Raises:
      CheckpointError, ConfigError: as `read_run`; and a run that is named twice.
    """
    found: dict[Path, Run] = {}
    for path in (user_path(path, "run") for path in paths):
        below = sorted((file.parent for file in path.glob("*/config.json")), key=_natural) if path.is_dir() else []
        for folder in [path] if (path / "config.json").is_file() or not below else below:
            key = folder.resolve()
            if key in found:
                raise CheckpointError(f"run: '{folder}' is named twice")
            found[key] = read_run(folder, evaluated=evaluated)
    return list(found.values())


def run_names(runs: Sequence[Run]) -> list[str]:
    """Short names of runs, no two alike: as many of the last parts of their paths as it takes."""
    paths = [run.path.resolve().parts for run in runs]
    depth = 1
    while len({path[-depth:] for path in paths}) < len(paths):
        depth += 1
    return ["/".join(path[-depth:]) for path in paths]


def _natural(path: Path) -> list[tuple[int, str]]:
    """Numbers inside names in the order of numbers: `rank8` before `rank16`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def default_fields() -> dict[str, Any]:
    """Default of every field of a configuration by dotted name, whatever the method."""
    return {name: option.default for name, option in all_fields().items()}


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _with_defaults(config: ConfigDict) -> ConfigDict:
    """Runs that were made before a field existed can be set beside newer ones."""
    complete, defaults = ConfigDict(config, convert_dict=False).unlock(), base_config().unlock()
    for section in CHOSEN:
        name = config[section].name if section in config else None
        if name in choices(section):
            defaults[section] = make_section(section, {"name": name})
        elif name is not None:
            # Of a plug-in that is not loaded, what the run says of its options is all there is.
            del defaults[section]
            defaults[section] = {key: each.default for key, each in options_of(SECTIONS[section]).items()}
    _fill(complete, defaults)
    return complete.lock()


def _fill(config: ConfigDict, defaults: ConfigDict) -> None:
    for name in defaults:
        if name not in config:
            config[name] = defaults.get_ref(name)
        elif isinstance(defaults[name], ConfigDict) and isinstance(config[name], ConfigDict):
            _fill(config[name], defaults[name])


def _read_evaluation(run: RunDir, tasks: Sequence[Task]) -> Mapping[str, Any]:
    try:
        content = parse_json(run.evaluation.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(run, f"is not valid JSON ({error})") from None
    if not isinstance(content, dict) or not isinstance(content.get("step"), int):
        raise _damaged(run, "has no number of steps")
    format_number(content.get("format"), EVALUATION_FORMAT, f"run: '{run.evaluation}'", CheckpointError)
    scores = content.get("scores")
    if not isinstance(scores, dict) or not all(isinstance(entry, dict) for entry in scores.values()):
        raise _damaged(run, "has no scores by task")
    absent = [task.name for task in tasks if task.name not in scores]
    if absent:
        raise _damaged(run, f"has no scores of {' '.join(absent)}")
    return content


def _damaged(run: RunDir, reason: str) -> DitaskError:
    return CheckpointError(
        f"run: '{run.evaluation}' {reason}; write it again by python -m ditask_jax.evaluate --workdir={run.path}"
    )
