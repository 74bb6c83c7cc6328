"""Methods side by side: scores, delta_m, what trains and what a step takes, as mean and spread over seeds."""

import csv
import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence

from ditask_jax.errors import CheckpointError
from ditask_jax.plots.pareto import Point, draw_pareto
from ditask_jax.reports.published import task_header
from ditask_jax.reports.rows import Row, Spread, check_comparable, make_rows, row_labels, same_but_for_seed, text
from ditask_jax.reports.runs import Run, default_fields
from ditask_jax.tasks import Task, delta_m, load_references

_MEGABYTE = 1e6


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
      label: name of the row.
      row: its runs.
      delta_m: per cent, over seeds; None where a reference or a score is missing.
      hidden: fields in which it differs from other rows of its method and that its name leaves out.
    """

    label: str
    row: Row
    delta_m: Spread | None
    hidden: Mapping[str, object]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A table of methods.

    Attributes:
      tasks: columns.
      lines: rows, in the order in which runs were given.
      references: single-task score by task that delta_m is taken against; empty where none are known.
      source: where these come from, in words.
    """

    tasks: tuple[Task, ...]
    lines: tuple[Line, ...]
    references: Mapping[str, float]
    source: str

    def markdown(self) -> str:
        """The table with its notes."""
        header = ["method", "seeds", *map(task_header, self.tasks), "delta_m ↑ (%)"]
        header += ["trains, backbone", "trains, total", "s per step", f"{self._memory_name()} (MB)"]
        rows = [self._cells(line) for line in self.lines]
        if self.references:
            known = [_scaled(self.references.get(task.name), task.shown_unit[0], 2) for task in self.tasks]
            rows.insert(0, ["*references*", "", *known, "0", "", "", "", ""])
        rule = ["---", *["---:"] * (len(header) - 1)]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))
        return table + "\n\n" + "\n".join(f"- {note}" for note in self.notes()) + "\n"

    def _cells(self, line: Line) -> list[str]:
        row = line.row
        scores = [_shown(row.scores(task).get(task.primary_metric), task.shown_unit[0]) for task in self.tasks]
        counts = ["-" if count is None else f"{count:,}" for count in (row.trainable_backbone, row.trainable_total)]
        delta = _shown(line.delta_m, signed=True)
        memory = _shown(row.peak_memory, 1 / _MEGABYTE, places=0)
        return [
            line.label,
            str(len(row.seeds)),
            *scores,
            delta,
            *counts,
            _shown(row.seconds_per_step, places=3),
            memory,
        ]

    def _memory_kinds(self) -> list[str]:
        kinds = {run.memory_kind for line in self.lines for run in line.row.runs} - {None}
        return sorted(kinds)

    def _memory_name(self) -> str:
        kinds = self._memory_kinds()
        return f"peak memory of the {kinds[0]}" if len(kinds) == 1 else "peak memory"

    def notes(self) -> list[str]:
        """What a reader of the table must know, one sentence each."""
        found = [f"delta_m is taken against {self.source}."]
        if missing := [task.name for task in self.tasks if task.name not in self.references]:
            found.append(f"No single-task reference is known of {' '.join(missing)}: delta_m is not defined.")
        if any(len(line.row.seeds) > 1 for line in self.lines):
            found.append("± is the sample standard deviation over seeds.")
        if any(line.row.single_task for line in self.lines):
            found.append(
                "single-task: one model per task; parameters and time of a step are sums over the tasks, memory is "
                "that of the largest."
            )
        steps = sorted({run.step for line in self.lines for run in line.row.runs})
        first = self.lines[0].row.runs[0].evaluation
        lengths = f"{' or '.join(map(str, steps))} steps"
        found.append(f"{self.lines[0].row.runs[0].dataset}, {first.get('examples')} examples, after {lengths}.")
        protocols = sorted({str(run.evaluation.get("protocol")) for line in self.lines for run in line.row.runs})
        if len(protocols) > 1:
            found.append(f"Not scored alike: {'; '.join(protocols)}.")
        if len(self._memory_kinds()) > 1:
            found.append("Peak memory is that of the device in some rows, of the whole process in others.")
        return found + [note for line in self.lines for note in _notes_of(line)]

    def figure(self, count: str = "backbone"):
        """Delta_m against trainable parameters; markers of single-task rows are hollow.

        Args:
          count: "backbone" or "total": which parameters.

        Returns:
          A Matplotlib figure; None where no row has both delta_m and a count.
        """
        counts = [getattr(line.row, f"trainable_{count}") for line in self.lines]
        points = [
            Point(line.label, line.row.method, known, line.delta_m.mean, line.delta_m.deviation, line.row.single_task)
            for line, known in zip(self.lines, counts, strict=True)
            if line.delta_m is not None and known is not None
        ]
        if not points:
            return None
        axis = "trainable parameters" + (" in the backbone" if count == "backbone" else ", decoders included")
        title = f"{self.lines[0].row.runs[0].dataset}: {' + '.join(task.name for task in self.tasks)}"
        return draw_pareto(points, axis, title)

    def csv(self) -> str:
        """All metrics of all rows with every digit; fractions, degrees, metres, seconds and bytes."""
        columns: dict[str, Callable[[Line], object]] = {
            "label": lambda line: line.label,
            "method": lambda line: line.row.method,
            "single_task": lambda line: int(line.row.single_task),
            "n": lambda line: len(line.row.seeds),
            "seeds": lambda line: " ".join(map(str, line.row.seeds)),
            "steps": lambda line: line.row.runs[0].step,
        }
        for task in self.tasks:
            metrics = dict.fromkeys(metric for line in self.lines for metric in line.row.scores(task))
            for metric in metrics:
                pick = lambda line, task=task, metric=metric: line.row.scores(task).get(metric)
                columns |= _mean_and_deviation(f"{task.name}/{metric}", pick)
        columns |= _mean_and_deviation("delta_m", lambda line: line.delta_m)
        columns |= {
            "trainable_backbone": lambda line: line.row.trainable_backbone,
            "trainable_total": lambda line: line.row.trainable_total,
        }
        columns |= _mean_and_deviation("seconds_per_step", lambda line: line.row.seconds_per_step)
        columns |= _mean_and_deviation("peak_memory", lambda line: line.row.peak_memory)
        columns["memory_kind"] = lambda line: line.row.runs[0].memory_kind
        columns["runs"] = lambda line: " ".join(str(run.path) for run in line.row.runs)
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([cell(line) for cell in columns.values()] for line in self.lines)
        return file.getvalue()


def compare(runs: Sequence[Run], references: Sequence[Run] = ()) -> Comparison:
    """Sets evaluated runs side by side.

    Args:
      runs: as `find_runs` reads them; at least one.
      references: single-task runs that delta_m is taken against, several seeds of a task as their mean; without them
        the references of the data set in the package.

    Raises:
      CheckpointError: runs that cannot be compared, or references that are not single-task runs of every task.
      ConfigError: a reference score that cannot be divided by.
    """
    check_comparable([*runs, *references])
    tasks, rows = make_rows(runs)
    dataset = runs[0].dataset
    if references:
        scores = reference_scores(tasks, references)
        source = f"the {len(references)} single-task runs given as references, mean over seeds"
    else:
        known = load_references(dataset)
        scores = {task.name: known[task.name] for task in tasks if task.name in known}
        source = f"the package's single-task references of {dataset}" if scores else "nothing"
    kinds = [f"single-task {row.method}" if row.single_task else row.method for row in rows]
    named = row_labels([(kind, row.fields) for kind, row in zip(kinds, rows, strict=True)], default_fields())
    lines = [
        Line(label, row, _delta_m(tasks, row, scores), hidden) for (label, hidden), row in zip(named, rows, strict=True)
    ]
    return Comparison(tasks, tuple(lines), scores, source)


def reference_scores(tasks: Sequence[Task], references: Sequence[Run]) -> dict[str, float]:
    """Primary scores by task of single-task runs, several seeds of a task as their mean.

    Raises:
      CheckpointError: runs of several tasks, of one task with different configurations, or none of a task.
    """
    by_task: dict[str, list[Run]] = {}
    for run in references:
        if len(run.tasks) > 1:
            raise CheckpointError(
                f"--reference '{run.path}' trains {' '.join(run.task_names)}; give runs of one task each"
            )
        by_task.setdefault(run.task_names[0], []).append(run)
    if missing := [task.name for task in tasks if task.name not in by_task]:
        raise CheckpointError(
            f"--reference: no run of {' '.join(missing)}; give a single-task run of every task "
            f"({' '.join(task.name for task in tasks)}), or none for the package's references"
        )
    found = {}
    for task in tasks:
        alike = by_task[task.name]
        if not same_but_for_seed(alike):
            raise CheckpointError(
                f"--reference: '{alike[0].path}' and others of {task.name} differ in more than the seed; give "
                "one configuration per task"
            )
        spread = Spread.of(run.primary(task) for run in alike)
        if spread is None or spread.n < len(alike):
            raise CheckpointError(f"--reference '{alike[0].path}': no score of {task.name}")
        found[task.name] = spread.mean
    return found


def _delta_m(tasks: Sequence[Task], row: Row, references: Mapping[str, float]) -> Spread | None:
    """Of every seed on its own, so that the spread is that of delta_m."""
    if any(task.name not in references for task in tasks):
        return None
    directions = {task.name: task.higher_is_better for task in tasks}
    scores = [row.primary(runs) for runs in row.by_seed.values()]
    return Spread.of(delta_m(found, references, directions) for found in scores if len(found) == len(tasks))


def _mean_and_deviation(name: str, pick: Callable[[Line], Spread | None]) -> dict[str, Callable[[Line], object]]:
    take = lambda line, part: None if pick(line) is None else getattr(pick(line), part)
    return {name: lambda line: take(line, "mean"), f"{name} sd": lambda line: take(line, "deviation")}


def _scaled(value: float | None, factor: float, places: int, sign: str = "") -> str:
    return "-" if value is None else f"{value * factor:{sign},.{places}f}"


def _shown(spread: Spread | None, factor: float = 1.0, places: int = 2, signed: bool = False) -> str:
    if spread is None:
        return "-"
    mean = _scaled(spread.mean, factor, places, "+" if signed else "")
    return mean if spread.deviation is None else f"{mean} ± {_scaled(spread.deviation, factor, places)}"


def _notes_of(line: Line) -> list[str]:
    found = []
    if line.hidden:
        fields = ", ".join(f"{name}={text(value)}" for name, value in line.hidden.items())
        found.append(f"{line.label} also has {fields}.")
    if line.row.left_out:
        paths = ", ".join(str(run.path) for run in line.row.left_out)
        found.append(f"{line.label} leaves out seeds that are not there for every task: {paths}.")
    unfinished = [
        f"{run.path} at step {run.step} of {run.config.total_steps}"
        for run in line.row.runs
        if run.config.total_steps is not None and run.step < run.config.total_steps
    ]
    if unfinished:
        found.append(f"{line.label} is not finished: {', '.join(unfinished)}.")
    return found
