"""From runs to rows of a table: seeds of one configuration together, single-task runs of one method together."""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from ditask_jax.errors import CheckpointError
from ditask_jax.reports.runs import Run
from ditask_jax.tasks import Task
from ditask_jax.training.rundir import FREE_FIELDS

# Fields that tell runs of one row apart, or that change no score. What trades time for memory makes rows of its own.
_WITHIN_A_ROW = {
    *FREE_FIELDS,
    "seed",
    "eval_batch_size",
    "eval_every_epochs",
    "eval_every_steps",
    "checkpoint.best_metric",
    "checkpoint.best_mode",
} - {"remat", "mesh.fsdp"}
# Fields that must be equal for scores to be comparable at all.
_SAME_FOR_ALL = ("data.name", "data.seed", "data.layout", "data.val_fraction", "data.vtab_task", "eval_resolution")


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of a few numbers.

    Attributes:
      mean: their mean.
      deviation: root of the sum of squared differences over n - 1; None for a single number.
      n: how many.
    """

    mean: float
    deviation: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Spread | None":
        """Of the values that are there; None if none is.

        >>> Spread.of([1.0, None, 3.0])
        Spread(mean=2.0, deviation=1.4142135623730951, n=2)
        """
        known = [value for value in values if value is not None]
        if not known:
            return None
        deviation = statistics.stdev(known) if len(known) > 1 else None
        return cls(math.fsum(known) / len(known), deviation, len(known))


@dataclasses.dataclass(frozen=True)
class Row:
    """One row: a method with its options, over seeds.

    Attributes:
      tasks: the tasks of the table.
      by_seed: per seed the runs that make up all tasks: one, or one per task.
      left_out: runs of seeds that are not there for every task.
    """

    tasks: tuple[Task, ...]
    by_seed: Mapping[int, tuple[Run, ...]]
    left_out: tuple[Run, ...] = ()

    @property
    def single_task(self) -> bool:
        """Whether every task has a model of its own."""
        return len(self._first) > 1

    @property
    def _first(self) -> tuple[Run, ...]:
        return next(iter(self.by_seed.values()))

    @property
    def runs(self) -> list[Run]:
        """All runs of the row."""
        return [run for runs in self.by_seed.values() for run in runs]

    @property
    def method(self) -> str:
        """Name of the method."""
        return self._first[0].method

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds, as the runs were given."""
        return tuple(self.by_seed)

    @property
    def fields(self) -> dict[str, object]:
        """Configuration of the row: what its runs have in common."""
        return _common_fields(self._first[0])

    def scores(self, task: Task) -> dict[str, Spread]:
        """Every metric of a task."""
        found: dict[str, list[float]] = {}
        for run in self.runs:
            for metric, value in run.scores.get(task.name, {}).items():
                if isinstance(value, int | float) and math.isfinite(value):
                    found.setdefault(metric, []).append(value)
        return {metric: Spread.of(values) for metric, values in found.items()}

    def primary(self, runs: Sequence[Run]) -> dict[str, float]:
        """Primary score of every task that has one, of the runs of one seed."""
        found = {task.name: run.primary(task) for run in runs for task in run.tasks}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def trainable_backbone(self) -> int | None:
        """Numbers that train in the backbone; of all models together where every task has its own."""
        return _sum(run.trainable_backbone for run in self._first)

    @property
    def trainable_total(self) -> int | None:
        """Numbers that train; of all models together where every task has its own."""
        return _sum(run.trainable_total for run in self._first)

    @property
    def seconds_per_step(self) -> Spread | None:
        """Time of a step; of a step of every model where every task has its own."""
        return Spread.of(_sum(run.seconds_per_step for run in runs) for runs in self.by_seed.values())

    @property
    def peak_memory(self) -> Spread | None:
        """Peak of memory in bytes; the largest where every task has a model of its own."""
        peaks = [[run.peak_memory for run in runs] for runs in self.by_seed.values()]
        return Spread.of(None if None in found else max(found) for found in peaks)


def _sum(values: Iterable[float | None]) -> float | None:
    found = list(values)
    return None if None in found else sum(found)


def make_rows(runs: Sequence[Run]) -> tuple[tuple[Task, ...], list[Row]]:
    """Puts runs into rows, in the order in which they were given.

    Runs that differ in nothing but the seed (and in fields that change no score) share a row. Where some runs train
    several tasks, runs of one task alone are put together with those of the other tasks that are otherwise equal.

    Returns:
      The tasks of the table, and its rows.

    Raises:
      CheckpointError: runs whose scores cannot be compared, the same run twice, or tasks that differ between runs.
    """
    check_comparable(runs)
    tasks = _all_tasks(runs)
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(repr(_common_fields(run)), []).append(run)
    found = []
    for group in groups.values():
        whole = [run for run in group if set(run.task_names) == {task.name for task in tasks}]
        alone = [run for run in group if run not in whole]
        if whole:
            found.append((group.index(whole[0]), group, Row(tasks, _by_seed(whole))))
        if alone:
            found.append((group.index(alone[0]), group, _gathered(tasks, alone)))
    order = {id(run): position for position, run in enumerate(runs)}
    return tasks, [row for at, group, row in sorted(found, key=lambda entry: order[id(entry[1][entry[0]])])]


def check_comparable(runs: Sequence[Run]) -> None:
    """Raises CheckpointError where runs were not scored on the same examples in the same way."""
    first = runs[0]
    for run in runs[1:]:
        here, there = first.fields, run.fields
        for name in _SAME_FOR_ALL:
            if here.get(name) != there.get(name):
                raise CheckpointError(
                    f"compare: '{first.path}' has {name} {here.get(name)}, '{run.path}' {there.get(name)}: their "
                    "scores cannot be set side by side; compare runs of one data set"
                )
        examples = [entry.evaluation.get("examples") for entry in (first, run)]
        if examples[0] != examples[1]:
            raise CheckpointError(
                f"compare: '{first.path}' was scored on {examples[0]} examples, '{run.path}' on {examples[1]}; "
                "compare runs with the same data.eval_examples"
            )


def same_but_for_seed(runs: Sequence[Run]) -> bool:
    """Whether runs of the same tasks would share a row."""
    return len({repr(_common_fields(run)) for run in runs}) == 1


def _common_fields(run: Run) -> dict[str, object]:
    left_out = _WITHIN_A_ROW | {"tasks"}
    return {name: value for name, value in sorted(run.fields.items()) if name not in left_out}


def _all_tasks(runs: Sequence[Run]) -> tuple[Task, ...]:
    """The tasks of the table: those of the runs with several; of runs with one task each, all of theirs."""
    several = [run for run in runs if len(run.tasks) > 1]
    for run in several[1:]:
        if set(run.task_names) != set(several[0].task_names):
            raise CheckpointError(
                f"compare: '{several[0].path}' has the tasks {' '.join(several[0].task_names)}, '{run.path}' "
                f"{' '.join(run.task_names)}; compare runs of the same tasks, or of one task each"
            )
    found = {task.name: task for run in several[:1] or runs for task in run.tasks}
    for run in runs:
        if not set(run.task_names) <= set(found):
            raise CheckpointError(
                f"compare: '{run.path}' trains {' '.join(run.task_names)}, which is none of the tasks of "
                f"'{several[0].path}' ({' '.join(found)}); leave it out"
            )
    return tuple(found.values())


def _by_seed(runs: Sequence[Run]) -> dict[int, tuple[Run, ...]]:
    """One run per seed; all of them scored after the same number of steps."""
    found: dict[int, tuple[Run, ...]] = {}
    for run in runs:
        if run.seed in found:
            raise CheckpointError(
                f"compare: '{found[run.seed][0].path}' and '{run.path}' are the same configuration with the same seed "
                f"({run.seed}); give one of them"
            )
        if run.step != runs[0].step:
            raise CheckpointError(
                f"compare: '{runs[0].path}' was scored at step {runs[0].step}, '{run.path}' at step {run.step}, and "
                "they differ in nothing but the seed; finish both"
            )
        found[run.seed] = (run,)
    return found


def _gathered(tasks: Sequence[Task], runs: Sequence[Run]) -> Row:
    """A row of single-task runs."""
    wanted = " ".join(task.name for task in tasks)
    by_task: dict[str, list[Run]] = {}
    for run in runs:
        by_task.setdefault(run.task_names[0], []).append(run)
    if missing := [task.name for task in tasks if task.name not in by_task]:
        raise CheckpointError(
            f"compare: '{runs[0].path}' trains {runs[0].task_names[0]} alone, and no run with the same options trains "
            f"{' '.join(missing)}; give single-task runs of all tasks ({wanted}), or leave it out"
        )
    seeds = {name: _by_seed(found) for name, found in by_task.items()}
    whole = [seed for seed in seeds[tasks[0].name] if all(seed in found for found in seeds.values())]
    if not whole:
        raise CheckpointError(
            f"compare: '{runs[0].path}' and the single-task runs of the other tasks have no seed in common"
        )
    left_out = tuple(run for run in runs if run.seed not in whole)
    return Row(tuple(tasks), {seed: tuple(seeds[task.name][seed][0] for task in tasks) for seed in whole}, left_out)
