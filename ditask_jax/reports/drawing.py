"""From runs to the files of all figures: what runs have in common and differ in, and what of it can be drawn."""

import dataclasses
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ditask_jax.config_fields import make_section
from ditask_jax.config_tasks import said
from ditask_jax.data import transform
from ditask_jax.errors import ConfigError, DitaskError
from ditask_jax.files import user_path
from ditask_jax.plots.curves import Curves, Plot, draw_curves
from ditask_jax.plots.option_sweep import Line, draw_sweep
from ditask_jax.plots.sheet import save
from ditask_jax.plots.side_by_side import Example, draw_example, draw_task
from ditask_jax.plots.spectra import draw_spectra
from ditask_jax.plots.spectral_shift import draw_spectral_shift
from ditask_jax.reports.comparison import compare, reference_scores
from ditask_jax.reports.inspected_run import Inspection, inspect_run
from ditask_jax.reports.runs import Run, run_names
from ditask_jax.tasks import Task, delta_m_of, load_references
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


# Images of a data set with their labels, for predictions of several runs on the same ones.


# What must agree for two runs to have been scored on the same images.
_SAME = ("data.name", "data.seed", "data.layout", "data.depth_unit", "data.val_fraction", "data.vtab_task")


def check_same_data(runs: Sequence[Run]) -> None:
    """Raises ConfigError unless all runs were scored on the same images."""
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
    run: Run, tasks: Sequence[Task], numbers: Sequence[int], others: Sequence[Run] = ()
) -> list[tuple[str, np.ndarray, dict[str, np.ndarray]]]:
    """Examples of the validation split as (id, image, labels by task), of their own size, missing values marked.

    Args:
      run: whose data.
      tasks: labels to read.
      numbers: of the examples.
      others: runs that declare those of the tasks that the first does not.

    Raises:
      ConfigError: a number that the split does not have.
      DataError: a file cannot be read.
    """
    config = run.config.copy_and_resolve_references()
    with config.unlocked():
        config.tasks = "+".join(task.name for task in tasks)
        declared = {name: values for each in (*others, run) for name, values in said(each.config.get("task")).items()}
        config.task = make_section("task", declared)
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


# All figures: what can be drawn is drawn, what cannot is named.


KINDS = ("panels", "curves", "spectra", "spectral_shift", "sweep", "pareto")
_BASE_TWO = ("cells", "rank", "bottleneck", "batch_size")


def draw_runs(
    runs: Sequence[Run],
    out: str | Path,
    kinds: Sequence[str] | None,
    examples: Sequence[int],
    formats: Sequence[str],
    references: Sequence[Run] = (),
) -> tuple[list[Path], list[str]]:
    """Draws figures of runs into a folder.

    Args:
      runs: what to draw; the first gives the data set and the order of tasks.
      out: the folder.
      kinds: of `KINDS`; None for all.
      examples: numbers of validation examples in the panels.
      formats: "png", "svg".
      references: single-task runs that delta_m is taken against; without them the references in the package.

    Returns:
      The files written, and for each kind (or run) that could not be drawn the reason.

    Raises:
      DitaskError: a kind that was asked for by name is impossible, or a run is damaged.
    """
    book = _Book(user_path(out, "figures: out"), formats, strict=kinds is not None)
    wanted = KINDS if kinds is None else kinds
    names = run_names(runs)
    scores = reference_scores(all_tasks(runs), references) if references else load_references(runs[0].dataset)
    if "curves" in wanted:
        book.attempt("curves", lambda: _curves(book, runs, names, scores))
    if "sweep" in wanted:
        book.attempt("sweep", lambda: _sweeps(book, runs, scores))
    if "pareto" in wanted:
        book.attempt("pareto", lambda: _pareto(book, runs, references))
    if {"panels", "spectra", "spectral_shift"} & set(wanted):
        book.attempt("panels, spectra, spectral shift", lambda: _trained(book, runs, names, wanted, examples))
    return book.files, book.left_out


class _Book:
    """Writes figures and remembers what was left out."""

    def __init__(self, folder: Path, formats: Sequence[str], strict: bool):
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"figures: --out: '{folder}' is a file; give a folder")
        self.folder, self.formats, self.strict = folder, formats, strict
        self.files: list[Path] = []
        self.left_out: list[str] = []

    def save(self, figure, name: str) -> None:
        self.files += save(figure, self.folder / name, self.formats)

    def leave_out(self, reason: str) -> None:
        self.left_out.append(reason)

    def attempt(self, what: str, draw: Callable[[], None]) -> None:
        """What is impossible is an error only where it was asked for by name."""
        try:
            draw()
        except DitaskError as error:
            if self.strict:
                raise
            self.leave_out(f"{what}: {error}")


def _curves(book: _Book, runs: Sequence[Run], names: Sequence[str], references: Mapping[str, float]) -> None:
    tasks = all_tasks(runs)
    losses = [Plot("train/loss", "weighted total", "loss", smooth=True, logarithmic=True)]
    losses += [
        Plot(f"train/tasks/{task.name}/loss", task.name, "loss", smooth=True, logarithmic=True)
        for task in (tasks if len(tasks) > 1 else ())
    ]
    book.save(draw_curves(_read(runs, names, losses), losses, "Training loss"), "losses")
    scores = []
    for task in tasks:
        reference = references.get(task.name)
        reference = None if reference is None else task.shown_unit[0] * reference
        scores.append(Plot(f"val/tasks/{task.name}/{task.primary_metric}", task.name, _axis_label(task), reference))
    factors = {plot.key: task.shown_unit[0] for plot, task in zip(scores, tasks, strict=True)}
    found = [
        dataclasses.replace(curves, series={**curves.series, DELTA_M: gain_curve(run, references)})
        for run, curves in zip(runs, _read(runs, names, scores, factors), strict=True)
    ]
    scores.append(Plot(DELTA_M, "gain over single tasks", "delta_m (%) ↑", 0.0))
    present = [plot for plot in scores if any(run.series[plot.key][0] for run in found)]
    if not present:
        book.leave_out("scores: no run was evaluated yet")
        return
    figure = draw_curves(found, present, "Validation scores", "single task, full fine-tuning")
    book.save(figure, "scores")


def _read(runs, names, plots, factors=None) -> list[Curves]:
    found = []
    for run, name in zip(runs, names, strict=True):
        series = {}
        for plot in plots:
            steps, values = run.series(plot.key)
            factor = (factors or {}).get(plot.key, 1.0)
            series[plot.key] = (steps, [factor * value for value in values])
        found.append(Curves(name, series))
    return found


def _axis_label(task: Task) -> str:
    unit = task.shown_unit[1]
    return f"{task.primary_metric} {f'({unit}) ' if unit else ''}{'↑' if task.higher_is_better else '↓'}"


def _sweeps(book: _Book, runs: Sequence[Run], references: Mapping[str, float]) -> None:
    scored = [run for run in runs if run.evaluation is not None]
    options = swept_options(scored)
    if not options:
        book.leave_out("sweep: no numerical option differs between the runs")
        return
    tasks = all_tasks(scored)
    plots = [(task.name, task.name, _axis_label(task)) for task in tasks]
    plots.append((DELTA_M, "gain over single tasks", "delta_m (%) ↑"))
    for name, fields in options.items():
        lines = sweep_lines(scored, fields, tasks, references)
        if all(len(line.points) < 2 for line in lines):
            book.leave_out(f"sweep over {name}: the runs differ in other options too")
            continue
        factors = {task.name: task.shown_unit[0] for task in tasks}
        in_units = lambda scores, factors=factors: {key: factors.get(key, 1.0) * v for key, v in scores.items()}
        scaled = [
            Line(line.name, [(x, in_units(y)) for x, y in line.points], [in_units(one) for one in line.spreads])
            for line in lines
        ]
        present = [plot for plot in plots if any(plot[0] in y for line in lines for _, y in line.points)]
        positive = all(x > 0 for line in lines for x, _ in line.points)
        binary = positive and fields[0].endswith(_BASE_TWO)
        option = " = ".join(field.rsplit(".", 1)[-1] for field in fields)
        note = " (bars: one standard deviation over seeds)" if any(line.spreads for line in lines) else ""
        figure = draw_sweep(scaled, present, option, f"Scores over {name}{note}", binary)
        book.save(figure, f"sweep_{_slug(fields[0].rsplit('.', 1)[-1])}")


def _pareto(book: _Book, runs: Sequence[Run], references: Sequence[Run]) -> None:
    scored = [run for run in runs if run.evaluation is not None]
    if len(scored) < 2:
        book.leave_out("pareto: takes at least two evaluated runs")
        return
    figure = compare(scored, references).figure()
    if figure is None:
        book.leave_out("pareto: no run has both delta_m and a count of trainable parameters")
        return
    book.save(figure, "pareto")


def _trained(
    book: _Book, runs: Sequence[Run], names: Sequence[str], kinds: Sequence[str], examples: Sequence[int]
) -> None:
    """Everything that needs the trained weights; every run is restored once."""
    tasks, pictures = all_tasks(runs), []
    if "panels" in kinds:
        try:
            check_same_data(runs)
            pictures = validation_examples(runs[0], tasks, examples, runs)
        except DitaskError as error:
            if book.strict:
                raise
            book.leave_out(f"panels: {error}")
    weights = bool({"spectra", "spectral_shift"} & set(kinds))
    predictions: dict[str, list] = {}
    for run, name in zip(runs, names, strict=True):
        found = inspect_run(run.path, [image for _, image, _ in pictures], weights)
        predictions[name] = found.predictions
        if "spectra" in kinds:
            _spectra(book, found, name)
        if "spectral_shift" in kinds:
            _spectral_shift(book, found, name)
    shown = [
        Example(id, image, labels, {name: predictions[name][k] for name in names})
        for k, (id, image, labels) in enumerate(pictures)
    ]
    for task in tasks if shown else ():
        book.save(draw_task(task, shown, names, f"{task.name} on {runs[0].dataset}"), f"panels_{task.name}")
    for number, example in zip(examples, shown, strict=False):
        title = f"{runs[0].dataset}, validation example {number}"
        book.save(draw_example(tasks, example, names, title), f"panel_{number:05d}")


def _spectra(book: _Book, found: Inspection, name: str) -> None:
    if not found.spectra:
        book.leave_out(f"spectra of {name}: its method moves no singular values")
        return
    streams = list(dict.fromkeys(stream for layer in found.spectra for stream in layer.after))
    pages = defaultdict(list)
    for layer in found.spectra:
        parts = layer.path.split("/")
        place = [f"{key[:-1]}{int(parts[parts.index(key) + 1]):02d}" for key in ("stages", "blocks") if key in parts]
        pages["_".join(place) or "layers"].append(layer)
    for page, layers in pages.items():
        title = f"{name}, step {found.step}: {page.replace('_', ', ')}"
        book.save(draw_spectra(layers, streams, title), f"spectra_{_slug(name)}_{page}")


def _spectral_shift(book: _Book, found: Inspection, name: str) -> None:
    if not any(value for layer in found.spectral_shifts for value in layer.moved.values()):
        book.leave_out(f"spectral shift of {name}: no kernel of the backbone moved")
        return
    streams = list(dict.fromkeys(stream or "shared" for layer in found.spectral_shifts for stream in layer.moved))
    streams.sort(key=lambda stream: stream != "shared")
    title = f"{name}, step {found.step}: change of every kernel, in per cent of its norm"
    book.save(draw_spectral_shift(found.spectral_shifts, streams, title), f"spectral_shift_{_slug(name)}")


def _slug(text: str) -> str:
    """A name that can be part of a file name.

    >>> _slug("runs/a b")
    'runs_a_b'
    """
    return re.sub(r"[^\w.-]+", "_", text)
