"""From runs to rows of a table: seeds of one configuration together, single-task runs of one method together, and
short names of rows.
"""

import collections
import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ditask_jax.errors import CheckpointError
from ditask_jax.reports.runs import Run
from ditask_jax.tasks import Task
from ditask_jax.training.run_folder import FREE_FIELDS

# Short names of rows: the method, and the options in which rows of one method differ.


# Shown wherever rows of one method differ in them; other fields only where rows would have the same name.
_TELLING = ("method.", "backbone.name", "optimizer.surgery")


def row_labels(
    rows: Sequence[tuple[str, Mapping[str, Any]]], defaults: Mapping[str, Any] | None = None
) -> list[tuple[str, dict[str, Any]]]:
    """Names rows so that no two are alike.

    An option stays out of the name of a row where it is the same in all rows of its method, or has the value that most
    of them have; where none is in the majority among them, the one that most rows of the table have, or the default.

    Args:
      rows: per row the name of its method and its configuration, fields by dotted name. No two may be equal.
      defaults: the default of every field.

    Returns:
      Per row its name, and the fields in which it differs from other rows of its method but that its name leaves out.

    >>> base = {"method.name": "lora", "method.rank": 4, "optimizer.learning_rate": 0.1}
    >>> [name for name, _ in row_labels([("lora", base), ("lora", base | {"method.rank": 8})])]
    ['lora rank=4', 'lora rank=8']
    >>> [name for name, _ in row_labels([("lora", base), ("full", {"method.name": "full"})])]
    ['lora', 'full']
    """
    everything = [fields for _, fields in rows]
    elsewhere = {name: repr(value) for name, value in (defaults or {}).items()}
    for name in dict.fromkeys(name for fields in everything for name in fields):
        elsewhere[name] = _usual(everything, name) or elsewhere.get(name)
    methods: dict[str, list[int]] = {}
    for position, (method, _) in enumerate(rows):
        methods.setdefault(method, []).append(position)
    found: dict[int, tuple[str, dict[str, Any]]] = {}
    for method, positions in methods.items():
        named = _labels_of_one_method(method, [rows[position][1] for position in positions], elsewhere)
        found |= dict(zip(positions, named, strict=True))
    return [found[position] for position in range(len(rows))]


def _labels_of_one_method(
    method: str, rows: Sequence[Mapping[str, Any]], elsewhere: Mapping[str, str | None]
) -> list[tuple[str, dict[str, Any]]]:
    names = dict.fromkeys(name for fields in rows for name in fields)
    varied = [name for name in names if len({repr(fields.get(name)) for fields in rows}) > 1]
    usual = {name: _usual(rows, name) or elsewhere.get(name) for name in varied}
    unusual = [{name: fields.get(name) for name in varied if repr(fields.get(name)) != usual[name]} for fields in rows]
    shown = [name for name in varied if name.startswith(_TELLING)]
    spare = [name for name in varied if name not in shown]
    while True:
        labels = [" ".join([method, *_options(fields, shown)]) for fields in unusual]
        clashing = [fields for fields, label in zip(rows, labels, strict=True) if labels.count(label) > 1]
        helpful = [name for name in spare if len({repr(fields.get(name)) for fields in clashing}) > 1]
        if not clashing or not helpful:
            break
        shown.append(helpful[0])
        spare.remove(helpful[0])
    hidden = [{name: value for name, value in fields.items() if name not in shown} for fields in unusual]
    return list(zip(labels, hidden, strict=True))


def _usual(rows: Sequence[Mapping[str, Any]], name: str) -> str | None:
    """The value that more than half of the rows have, as text."""
    value, count = collections.Counter(repr(fields.get(name)) for fields in rows).most_common(1)[0]
    return value if 2 * count > len(rows) else None


def _options(fields: Mapping[str, Any], shown: Sequence[str]) -> list[str]:
    """Texts `name=value`; what is the same for shared and task streams is said once."""
    found = {_short(name): text(fields[name]) for name in shown if name in fields}
    for kind in ("cells", "rank", "scale", "layers"):
        pair = (f"shared_{kind}", f"task_{kind}")
        if all(name in found for name in pair) and found[pair[0]] == found[pair[1]]:
            found = {kind if name == pair[0] else name: value for name, value in found.items() if name != pair[1]}
    return [f"{name}={value}" for name, value in found.items()]


def _short(name: str) -> str:
    *groups, last = name.split(".")
    if groups[:1] == ["task"]:  # what is said of one task
        return f"{groups[-1]}.{last}"
    return groups[-1] if groups and last == "name" else last


def text(value: Any) -> str:
    """A value of a field in few characters.

    >>> text((16, 16, 32, 32)), text(0.1), text(()), text(True)
    ('16,16,32,32', '0.1', 'none', 'yes')
    """
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ",".join(text(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


# From runs to rows.


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
        """Trainable parameters in the backbone; of all models together where every task has its own."""
        return _sum(run.trainable_backbone for run in self._first)

    @property
    def trainable_total(self) -> int | None:
        """Trainable parameters; of all models together where every task has its own."""
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
        for name in (*_SAME_FOR_ALL, *_labels_of_both(first, run)):
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


def _labels_of_both(one: Run, other: Run) -> list[str]:
    """Fields that say what the labels of those declared tasks are which two runs share."""
    found = []
    for name in sorted({*one.fields, *other.fields}):
        section, _, rest = name.partition(".")
        task, _, option = rest.partition(".")
        shared = section == "task" and task in one.task_names and task in other.task_names
        found += [name] if shared and option not in ("loss_weight", "colours") else []
    return found


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
