"""What the colours of prediction pictures say: entries of a key, and how they are laid out under a figure."""

import dataclasses
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from ditask_jax.pictures.sheet import drawable, text_width
from ditask_jax.tasks import Task

SIZE = 7.0
ROW = 0.175
_SWATCH = 0.13
_BAR = 0.55
_GAP = 0.16
_UNLABELLED = 255
_MOST_ENTRIES = 40


@dataclasses.dataclass(frozen=True)
class Entry:
    """One entry of a key.

    Attributes:
      text: what stands beside the swatch.
      colours: uint8 triples: one for a swatch, several for a bar; none for plain text.
    """

    text: str
    colours: tuple[tuple[int, int, int], ...] = ()

    @property
    def width(self) -> float:
        """Inches, with the gap behind it."""
        swatch = 0.0 if not self.colours else (_SWATCH if len(self.colours) == 1 else _BAR) + 0.05
        return swatch + text_width(self.text, SIZE) + _GAP


def key_of(task: Task, values: Sequence[np.ndarray]) -> list[Entry]:
    """The key of a task for the predictions and labels that a figure shows; its name comes first.

    >>> from ditask_jax.tasks import Saliency
    >>> [entry.text for entry in key_of(Saliency(), [np.array([[0.5]])])]
    ['sal:', 'probability 0 to 1']
    """
    entries = [Entry(drawable(swatch.text), swatch.colours) for swatch in task.colour_key(values)]
    if len(entries) > _MOST_ENTRIES:
        entries = [*entries[:_MOST_ENTRIES], Entry(f"and {len(entries) - _MOST_ENTRIES} more")]
    return [Entry(f"{task.name}:"), *entries] if entries else []


def key_rows(keys: Sequence[Sequence[Entry]], width: float) -> list[list[Entry]]:
    """Entries in rows of at most so many inches; what belongs to one task stays in one row if it fits into one."""
    rows: list[list[Entry]] = []
    room = 0.0
    for entries in filter(None, keys):
        if sum(entry.width for entry in entries) > room:
            rows.append([])
            room = width
        for entry in entries:
            if rows[-1] and entry.width > room:
                rows.append([Entry("")])
                room = width - _GAP
            rows[-1].append(entry)
            room -= entry.width
    return rows


def draw_key(figure, rows: Sequence[Sequence[Entry]], left: float, top: float) -> None:
    """Draws rows of entries, in inches from the figure's left and bottom edges; `top` is that of the first row."""
    from matplotlib.patches import Rectangle

    width, height = figure.get_size_inches()
    for number, row in enumerate(rows):
        x, y = left, top - ROW * (number + 1)
        for entry in row:
            start = x
            if entry.colours:
                total = _SWATCH if len(entry.colours) == 1 else _BAR
                colours = _steps(entry.colours)
                piece = total / len(colours)
                for k, colour in enumerate(colours):
                    place = ((x + k * piece) / width, (y + 0.02) / height)
                    face = np.array(colour) / 255
                    figure.add_artist(
                        Rectangle(place, piece / width, 0.11 / height, transform=figure.transFigure,
                                  facecolor=face, edgecolor="none")
                    )  # fmt: skip
                frame = Rectangle((x / width, (y + 0.02) / height), total / width, 0.11 / height, fill=False,
                                  transform=figure.transFigure, edgecolor="0.4", linewidth=0.5)  # fmt: skip
                figure.add_artist(frame)
                x += total + 0.05
            if entry.text:
                figure.text(x / width, (y + 0.03) / height, entry.text, fontsize=SIZE, ha="left", va="baseline")
            x = start + entry.width


def _steps(colours: Sequence[tuple[int, int, int]]) -> list:
    """A bar of two colours as a smooth one."""
    if len(colours) != 2:
        return list(colours)
    mix = np.linspace(0, 1, 16)[:, None]
    return list(np.array(colours[0]) * (1 - mix) + np.array(colours[1]) * mix)


def numbers_of(classes: np.ndarray, room: float) -> Mapping[int, tuple[int, int]]:
    """Where the number of a class fits into its largest area: class id to (row, column).

    Args:
      classes: class ids `[H, W]`.
      room: pixels that must be free around the middle of a number.
    """
    found = {}
    for value in np.unique(classes):
        if value == _UNLABELLED:
            continue
        # A frame of zeros: beyond the picture's edge there is no room.
        mask = np.pad((classes == value).astype(np.uint8), 1)
        distance = cv2.distanceTransform(mask, cv2.DIST_L2, 3)[1:-1, 1:-1]
        row, column = np.unravel_index(np.argmax(distance), distance.shape)
        if distance[row, column] >= room:
            found[int(value)] = (int(row), int(column))
    return found
