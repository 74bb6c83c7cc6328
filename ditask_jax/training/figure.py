"""One picture of what a model does: images, and per task the target beside the prediction."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ditask_jax.files import atomic_write_bytes
from ditask_jax.pictures.sheet import settings
from ditask_jax.tasks import Task


@settings()
def draw_predictions(
    path: Path, images: np.ndarray, labels: Mapping, predicted: Mapping, tasks: Sequence[Task], title: str
) -> Path:
    """Writes a PNG with one row per image: input, then target and prediction of every task.

    Args:
      path: file to write.
      images: uint8 `[N, H, W, 3]`.
      labels, predicted: by task, `[N, ...]`, in the units of the label.
      tasks: columns.
      title: one line above.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = len(images), 1 + 2 * len(tasks)
    height, width = images.shape[1:3]
    cell = 1.35
    figure = Figure(figsize=(cell * columns, cell * height / width * rows + 0.75), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for row in range(rows):
        pictures, captions = [("input", images[row])], {}
        for task in tasks:
            label, prediction = labels[task.name][row], predicted[task.name][row]
            scale = task.value_range(label)
            for kind, value in (("target", label), ("prediction", prediction)):
                captions[len(pictures)] = task.caption(value)
                pictures.append((f"{task.name}\n{kind}", task.picture(value, scale)))
        for column, (axis, (name, picture)) in enumerate(zip(axes[row], pictures, strict=True)):
            # One extent for all: a picture of another shape (a class's field of colour) fills its cell as well.
            axis.imshow(picture, interpolation="nearest", extent=(0, width, height, 0))
            if caption := captions.get(column):
                axis.text(width / 2, height / 2, caption, ha="center", va="center", fontsize=7, wrap=True,
                          bbox={"facecolor": "white", "edgecolor": "none", "pad": 2})  # fmt: skip
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(name, fontsize=7)
    figure.suptitle(title, fontsize=9)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return atomic_write_bytes(path, buffer.getvalue())
