"""One picture with the predictions of all tasks."""

from collections.abc import Mapping, Sequence

import numpy as np

from ditask_jax.pictures.grid import Cell, picture_grid
from ditask_jax.pictures.keys import key_of, note_of
from ditask_jax.pictures.sheet import to_bytes
from ditask_jax.tasks import Task
from ditask_jax.tasks.class_map import ClassMapTask

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
      value_range: of depth.
      image: the picture, whose shape a class of the picture takes on.
      title: of the cell.
    """
    picture = task.render(value, value_range)
    if not task.is_map:
        picture = np.broadcast_to(picture[:1, :1], image.shape)
    classes = np.asarray(value) if isinstance(task, ClassMapTask) else None
    return Cell(picture, title, note_of(task, value_range), task.caption(value), classes)


def panel_png(image: np.ndarray, prediction: Mapping[str, np.ndarray], tasks: Sequence[Task], title: str = "") -> bytes:
    """`draw_panel` as a PNG file."""
    return to_bytes(draw_panel(image, prediction, tasks, title))
