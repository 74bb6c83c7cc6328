"""Runs side by side on the same images: input, every run's prediction, ground truth."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ditask_jax.plots.panels import Cell, fitting_cell, picture_grid, prediction_cell
from ditask_jax.plots.sheet import key_of
from ditask_jax.tasks import Task


@dataclasses.dataclass(frozen=True)
class Example:
    """An image with its labels and what several runs make of it.

    Attributes:
      id: its name.
      image: uint8 `[H, W, 3]`.
      labels: by task, at the image's size, missing values marked.
      predictions: by run, then by task; a task that a run does not have is absent.
    """

    id: str
    image: np.ndarray
    labels: Mapping[str, np.ndarray]
    predictions: Mapping[str, Mapping[str, np.ndarray]]


def draw_task(task: Task, examples: Sequence[Example], runs: Sequence[str], title: str = ""):
    """A figure of one task: a row per image; input, each run, ground truth.

    Args:
      task: what to show.
      examples: the rows.
      runs: names of runs, in order.
      title: one line above.
    """
    titles = ["input", *runs, "ground truth"]
    rows = []
    for number, example in enumerate(examples):
        heads = titles if number == 0 else [""] * len(titles)
        rows.append([Cell(example.image, heads[0]), *_cells(task, example, runs, heads[1:])])
    shown = [value for example in examples for value in _values(task, example)]
    cell_width = fitting_cell(len(titles), titles)
    return picture_grid(rows, title=title, keys=[key_of(task, shown)], cell_width=cell_width)


def draw_example(tasks: Sequence[Task], example: Example, runs: Sequence[str], title: str = ""):
    """A figure of one image: a row per run and one for the ground truth, a column per task behind the input.

    Args:
      tasks: the columns.
      example: what to show.
      runs: names of runs, in order.
      title: one line above.
    """
    by_task = [_cells(task, example, runs, ["", *[""] * len(runs)]) for task in tasks]
    rows = []
    for number in range(len(runs) + 1):
        names = ["input", *(task.name for task in tasks)] if number == 0 else [""] * (len(tasks) + 1)
        cells = [Cell(example.image), *(cells[number] for cells in by_task)]
        rows.append([dataclasses.replace(cell, title=name) for cell, name in zip(cells, names, strict=True)])
    keys = [key_of(task, _values(task, example)) for task in tasks]
    cell_width = fitting_cell(len(tasks) + 1, [task.name for task in tasks])
    return picture_grid(rows, title=title, row_titles=[*runs, "ground truth"], keys=keys, cell_width=cell_width)


def _values(task: Task, example: Example) -> list[np.ndarray]:
    """Everything of a task that is shown of an image."""
    found = [maps[task.name] for maps in example.predictions.values() if task.name in maps]
    return [*found, example.labels[task.name]] if task.name in example.labels else found


def _cells(task: Task, example: Example, runs: Sequence[str], titles: Sequence[str]) -> list[Cell]:
    """The runs' predictions and the label, all on the scale of the label."""
    label = example.labels.get(task.name)
    values = [*(example.predictions[run].get(task.name) for run in runs), label]
    scale = next((task.value_range(value) for value in reversed(values) if value is not None), None)
    cells = []
    for value, title in zip(values, titles, strict=True):
        if value is None:
            cells.append(Cell(np.full_like(example.image, 240), title, caption="not predicted"))
        else:
            cell = prediction_cell(task, value, scale, example.image, title)
            cells.append(cell if value is label else dataclasses.replace(cell, note=""))
    return cells
