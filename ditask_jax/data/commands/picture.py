"""Draws an example with its labels: a row per version, a column per task, and below it what its colours say."""

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ditask_jax.files import atomic_write_bytes
from ditask_jax.pictures.sheet import drawable, settings
from ditask_jax.tasks import Task

_CELL = 2.3
_MOST_CLASSES = 14
_LINE = 34


@settings(**{"text.parse_math": False})  # a dollar in the name of a file is a dollar
def draw_example(path: Path, rows: Sequence[tuple[str, np.ndarray, dict]], tasks: Sequence[Task], title: str) -> Path:
    """Writes the PNG.

    Args:
      path: file to write.
      rows: (description, picture uint8 `[H, W, 3]`, labels by task).
      tasks: the columns behind the picture.
      title: one line above.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = {task.name: [label[task.name] for _, _, label in rows] for task in tasks}
    legends = [_present(task, shown[task.name]) for task in tasks]
    ratios = [picture.shape[0] / picture.shape[1] for _, picture, _ in rows]
    legend_height = max([0.45, *(0.17 * len(names) + 0.1 for names in legends)])
    heights = [_CELL * ratio for ratio in ratios] + [legend_height]
    figure = Figure(figsize=(_CELL * (1 + len(tasks)) + 0.9, sum(heights) + 0.22 * len(rows) + 0.8))
    figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.03)
    axes = figure.subplots(len(rows) + 1, 1 + len(tasks), squeeze=False, height_ratios=heights)
    for line, (description, picture, labels) in zip(axes, rows, strict=False):
        _show(line[0], picture)
        line[0].set_ylabel(description, fontsize=8)
        for axis, task in zip(line[1:], tasks, strict=True):
            scale = task.value_range(rows[0][2][task.name])
            extent = (0, picture.shape[1], picture.shape[0], 0)
            _show(axis, task.picture(labels[task.name], scale), extent, task.caption(labels[task.name]))
    for axis, name in zip(axes[0], ["picture", *(task.name for task in tasks)], strict=True):
        axis.set_title(name, fontsize=10)
    axes[-1][0].set_axis_off()
    for axis, task, names in zip(axes[-1][1:], tasks, legends, strict=True):
        _explain(axis, task, names, rows[0][2][task.name])
    figure.suptitle(drawable(title), fontsize=11)
    buffer = io.BytesIO()
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(110)
    canvas.print_png(buffer)
    return atomic_write_bytes(path, buffer.getvalue())


def _show(axis, picture: np.ndarray, extent=None, caption: str = "") -> None:
    axis.imshow(picture, interpolation="nearest" if picture.shape[0] < 300 else "antialiased", extent=extent)
    axis.set_xticks([])
    axis.set_yticks([])
    if caption:
        middle = (sum(axis.get_xlim()) / 2, sum(axis.get_ylim()) / 2)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 2}
        axis.text(*middle, caption, ha="center", va="center", fontsize=8, bbox=box)


def _present(task: Task, labels: Sequence[np.ndarray]) -> list[tuple[str, tuple]]:
    """(name, colour in 0..1) of the fields of colour that occur in labels."""
    fields = [swatch for swatch in task.colour_key(labels) if len(swatch.colours) == 1]
    entries = [(swatch.text, tuple(channel / 255 for channel in swatch.colours[0])) for swatch in fields]
    if len(entries) > _MOST_CLASSES:
        rest = len(entries) - _MOST_CLASSES + 1
        entries = [*entries[: _MOST_CLASSES - 1], (f"and {rest} more", (1.0, 1.0, 1.0))]
    return entries


def _explain(axis, task: Task, names: Sequence[tuple[str, tuple]], label: np.ndarray) -> None:
    from matplotlib.patches import Patch

    axis.set_axis_off()
    if names:
        handles = [Patch(facecolor=colour, edgecolor="0.4", linewidth=0.5, label=name) for name, colour in names]
        axis.legend(handles=handles, loc="upper left", fontsize=7, frameon=False, borderaxespad=0, handlelength=1.2)
        return
    lines = [*textwrap.wrap(task.colour_words(), _LINE), task.range_note(task.value_range(label))]
    axis.text(0, 1, "\n".join(filter(None, lines)), ha="left", va="top", fontsize=7, transform=axis.transAxes)
