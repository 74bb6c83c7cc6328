"""One picture with the predictions of all tasks."""

from collections.abc import Mapping, Sequence

import numpy as np

from ditask_jax.pictures.grid import Cell, picture_grid
from ditask_jax.pictures.keys import key_of
from ditask_jax.pictures.sheet import to_bytes
from ditask_jax.tasks import Task

# From so many tasks on, the pictures take two rows.
_ONE_ROW = 4


def draw_panel(image: np.ndarray, prediction: Mapping[str, np.ndarray], tasks: Sequence[Task], title: str = ""):
    """A figure of a picture beside the predictions of its tasks, with a key of their colours.

    Args:
      image: uint8 `[H, W, 3]`.
      prediction: by task, at the picture's size.
      tasks: what to show, in order.
      title: one line above.
    """
    cells = [Cell(image, "input")]
    for task in tasks:
        value = prediction[task.name]
        cells.append(prediction_cell(task, value, task.value_range(value), image, task.name))
    keys = [key_of(task, [prediction[task.name]]) for task in tasks]
    columns = len(cells) if len(tasks) <= _ONE_ROW else (len(cells) + 1) // 2
    rows = [cells[k : k + columns] for k in range(0, len(cells), columns)]
    return picture_grid(rows, title=title, keys=keys, cell_width=2.2)


def prediction_cell(
    task: Task, value: np.ndarray, value_range: tuple[float, float] | None, image: np.ndarray, title: str = ""
) -> Cell:
    """The cell of one prediction or label.

    Args:
      task: what it is of.
      value: `[H, W]` or `[H, W, 3]`, or a class of the picture.
      value_range: that colours span, where the task has one.
      image: the picture, whose shape a class of the picture takes on.
      title: of the cell.
    """
    picture = task.picture(value, value_range)
    if not task.is_map:
        picture = _spread(picture, image.shape[:2])
    return Cell(picture, title, task.range_note(value_range), task.caption(value), task.class_ids(value))


def _spread(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A drawing of any size at that of a picture, without new colours."""
    rows, columns = (np.arange(to) * have // to for to, have in zip(size, picture.shape[:2], strict=True))
    return picture[rows][:, columns]


def panel_png(image: np.ndarray, prediction: Mapping[str, np.ndarray], tasks: Sequence[Task], title: str = "") -> bytes:
    """`draw_panel` as a PNG file."""
    return to_bytes(draw_panel(image, prediction, tasks, title))
