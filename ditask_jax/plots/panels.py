"""A grid of images with titles, notes and a key, and one image with the predictions of all tasks."""

import dataclasses
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from ditask_jax.plots.sheet import (
    ROW,
    Entry,
    draw_key,
    key_of,
    key_rows,
    new_figure,
    numbers_of,
    styled,
    text_width,
    to_bytes,
    wrapped,
)
from ditask_jax.tasks import Task

# A grid of images that lie exactly side by side, with titles, notes, and a key below.


_GAP = 0.06
_MARGIN = 0.08
_HEADLINE = 9.0
_TITLE = 8.0
_TITLE_LINES = 3
_NOTE = 6.5
_LINE = 0.145
_NOTE_LINE = 0.135
_NUMBER = 5.5
# Half the diagonal of the box around a number of two digits, in inches.
_NUMBER_ROOM = 0.085
# Per inch.
_MOST_PIXELS = 220
# Height over width of the tallest cell; taller images are drawn narrower than their column.
_TALLEST = 3.0


@dataclasses.dataclass(frozen=True)
class Cell:
    """One image of a grid.

    Attributes:
      image: uint8 `[H, W, 3]`; None for an empty cell.
      title: written above it.
      note: written below it.
      caption: written across its middle.
      classes: class ids `[H, W]` whose numbers are written into the image.
    """

    picture: np.ndarray | None
    title: str = ""
    note: str = ""
    caption: str = ""
    classes: np.ndarray | None = None


@styled
def picture_grid(
    rows: Sequence[Sequence[Cell]],
    *,
    title: str = "",
    row_titles: Sequence[str] = (),
    keys: Sequence[Sequence[Entry]] = (),
    cell_width: float = 1.6,
):
    """Draws a grid of images; every row has the height of its first image, but three times its width at the most.

    Args:
      rows: cells, row by row.
      title: one line above everything.
      row_titles: what stands to the left of every row, from bottom to top.
      keys: what the colours say, a list of entries per task.
      cell_width: inches of a column.

    Returns:
      A Matplotlib figure; its axes are the cells, row by row.
    """
    columns = max(len(row) for row in rows)
    side = _LINE + 0.08 if row_titles else 0.0
    width = max(2 * _MARGIN + side + columns * cell_width + (columns - 1) * _GAP, 2 * _MARGIN + 2.4)
    bands = [_Band.of(row, cell_width) for row in rows]
    key = key_rows(keys, width - 2 * _MARGIN)
    title = wrapped(title, width - 2 * _MARGIN, _HEADLINE, 2)
    top = _MARGIN + (0.18 * (title.count("\n") + 1) + 0.02 if title else 0.0)
    bottom = _MARGIN + (ROW * len(key) + 0.08 if key else 0.0)
    height = top + sum(band.height for band in bands) + _GAP * (len(rows) - 1) + bottom
    figure = new_figure(width, height)
    if title:
        figure.text(0.5, 1 - _MARGIN / height, title, ha="center", va="top", fontsize=_HEADLINE, linespacing=1.2)
    edge = height - top
    for number, (row, band) in enumerate(zip(rows, bands, strict=True)):
        low = edge - band.head - band.picture
        if row_titles:
            text = wrapped(row_titles[number], band.picture, _TITLE, 1)
            where = ((_MARGIN + _LINE / 2) / width, (low + band.picture / 2) / height)
            figure.text(*where, text, rotation=90, ha="center", va="center", fontsize=_TITLE)
        for column, cell in enumerate(row):
            left = _MARGIN + side + column * (cell_width + _GAP)
            middle = (left + cell_width / 2) / width
            across = max(min(cell_width, band.picture / _ratio(row)), 1 / _MOST_PIXELS)
            where = (middle - across / 2 / width, low / height, across / width, band.picture / height)
            _fill(figure.add_axes(where), cell, across, cell_width)
            lines = wrapped(cell.title, cell_width, _TITLE, _TITLE_LINES).split("\n")
            for k, line in enumerate(lines if cell.title else []):
                base = low + band.picture + 0.05 + _LINE * (len(lines) - 1 - k)
                figure.text(middle, base / height, line, ha="center", va="baseline", fontsize=_TITLE)
            if cell.note:
                note = wrapped(cell.note, cell_width, _NOTE, 1)
                figure.text(middle, (low - 0.1) / height, note, ha="center", va="baseline", fontsize=_NOTE)
        edge = low - band.note - _GAP
    draw_key(figure, key, _MARGIN, _MARGIN + ROW * len(key))
    return figure


@dataclasses.dataclass(frozen=True)
class _Band:
    """Heights of a row, in inches: of the titles above the images, of these, and of the notes below."""

    head: float
    picture: float
    note: float

    @property
    def height(self) -> float:
        return self.head + self.picture + self.note

    @staticmethod
    def of(row: Sequence[Cell], cell_width: float) -> "_Band":
        titles = [wrapped(cell.title, cell_width, _TITLE, _TITLE_LINES) for cell in row if cell.title]
        head = 0.06 + _LINE * max(title.count("\n") + 1 for title in titles) if titles else 0.0
        picture = max(cell_width * min(_ratio(row), _TALLEST), 1 / _MOST_PIXELS)
        return _Band(head, picture, _NOTE_LINE if any(cell.note for cell in row) else 0.0)


def _ratio(row: Sequence[Cell]) -> float:
    shapes = [cell.picture.shape for cell in row if cell.picture is not None]
    return shapes[0][0] / shapes[0][1] if shapes else 1.0


def _fill(axes, cell: Cell, width: float, column: float) -> None:
    """Draws a cell of so many inches across, in a column of so many."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_linewidth(0.4)
        spine.set_color("0.3")
    axes.set_xlim(0, 1)
    axes.set_ylim(1, 0)
    if cell.picture is None:
        axes.set_facecolor("0.95")
    else:
        picture, classes = _fitted(cell.picture, cell.classes, max(int(width * _MOST_PIXELS), 1))
        axes.imshow(picture, interpolation="nearest", extent=(0, 1, 1, 0), aspect="auto")
        if classes is not None:
            rows, columns = classes.shape
            _write_numbers(axes, numbers_of(classes, _NUMBER_ROOM * columns / width), rows, columns)
    if cell.caption:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 2, "alpha": 0.85}
        text = wrapped(cell.caption, column - 0.15, _TITLE - 1, 4)
        axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=_TITLE - 1, bbox=box)


def _write_numbers(axes, places: Mapping[int, tuple[int, int]], rows: int, columns: int) -> None:
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.75}
    for value, (row, column) in places.items():
        where = ((column + 0.5) / columns, (row + 0.5) / rows)
        axes.text(*where, str(value), ha="center", va="center", fontsize=_NUMBER, bbox=box)


def _fitted(picture: np.ndarray, classes: np.ndarray | None, columns: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Images larger than the paper can show are averaged, class maps thinned out; small ones keep their pixels."""
    if picture.shape[1] <= columns:
        return picture, classes
    size = (columns, max(round(picture.shape[0] * columns / picture.shape[1]), 1))
    if classes is None:
        return cv2.resize(picture, size, interpolation=cv2.INTER_AREA), None
    nearest = lambda array: cv2.resize(array, size, interpolation=cv2.INTER_NEAREST)
    return nearest(picture), nearest(classes.astype(np.uint8))


def fitting_cell(columns: int, titles: Sequence[str], most: float = 16.0) -> float:
    """Inches of a cell so that a figure is not too wide and its titles need few lines.

    >>> fitting_cell(2, ["input", "semseg"]) > fitting_cell(9, ["input", "semseg"])
    True
    """
    wanted = max([1.6, *(text_width(text, _TITLE) / 2 for text in titles)])
    return float(np.clip(most / max(columns, 1) - _GAP, 1.0, min(wanted + 0.2, 2.4)))


# One image with the predictions of all tasks.


# From so many tasks on, the images take two rows.
_ONE_ROW = 4


def draw_panel(image: np.ndarray, prediction: Mapping[str, np.ndarray], tasks: Sequence[Task], title: str = ""):
    """A figure of an image beside the predictions of its tasks, with a key of their colours.

    Args:
      image: uint8 `[H, W, 3]`.
      prediction: by task, at the image's size.
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
      value: `[H, W]` or `[H, W, 3]`, or a class of the image.
      value_range: that colours span, where the task has one.
      image: the image, whose shape a class of the image takes on.
      title: of the cell.
    """
    picture = task.picture(value, value_range)
    if not task.is_map:
        picture = _spread(picture, image.shape[:2])
    return Cell(picture, title, task.range_note(value_range), task.caption(value), task.class_ids(value))


def _spread(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A drawing of any size at that of an image, without new colours."""
    rows, columns = (np.arange(to) * have // to for to, have in zip(size, picture.shape[:2], strict=True))
    return picture[rows][:, columns]


def panel_png(image: np.ndarray, prediction: Mapping[str, np.ndarray], tasks: Sequence[Task], title: str = "") -> bytes:
    """`draw_panel` as a PNG file."""
    return to_bytes(draw_panel(image, prediction, tasks, title))
