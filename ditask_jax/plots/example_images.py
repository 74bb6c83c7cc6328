"""Examples with targets and predictions: in one figure, and in a file per image for the reader of a report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ditask_jax.errors import CheckpointError, format_number
from ditask_jax.files import atomic_write_bytes, atomic_write_json, parse_json
from ditask_jax.plots.panels import Cell, picture_grid, prediction_cell
from ditask_jax.plots.sheet import to_bytes
from ditask_jax.tasks import Task

EXAMPLES_NAME = "examples.json"
FORMAT = "ditask_jax/examples/1"
MOST_EXAMPLES = 8
_JPEG_QUALITY = 92


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
    rows = []
    for row, image in enumerate(images):
        cells = [Cell(image, "" if row else "input")]
        for task in tasks:
            label, prediction = labels[task.name][row], predicted[task.name][row]
            # Both on the scale of the label.
            scale = task.value_range(label)
            for kind, value in (("target", label), ("prediction", prediction)):
                cells.append(prediction_cell(task, value, scale, image, "" if row else f"{task.name} {kind}"))
        rows.append(cells)
    return atomic_write_bytes(path, to_bytes(picture_grid(rows, title=title, cell_width=1.35)))


def write_examples(
    folder: Path, batch: Mapping, predicted: Mapping[str, np.ndarray], tasks: Sequence[Task], step: int
) -> Path:
    """Writes input, target and prediction of the first examples of a batch, and a list of them, written last.

    Args:
      folder: where to.
      batch: of the validation split, its first one.
      predicted: by task, `[N, ...]`, in the units of the label.
      tasks: in order.
      step: steps behind the predictions.

    Returns:
      The list, `examples.json`.
    """
    shown = min(MOST_EXAMPLES, int(batch["valid"].sum()))
    return atomic_write_json(
        folder / EXAMPLES_NAME,
        {
            "format": FORMAT,
            "step": step,
            "tasks": [task.name for task in tasks],
            "examples": [_example(folder, batch, predicted, tasks, row) for row in range(shown)],
        },
    )


def _example(folder: Path, batch: Mapping, predicted: Mapping, tasks: Sequence[Task], row: int) -> dict[str, Any]:
    number = int(batch["index"][row])
    entry: dict[str, Any] = {"index": number, "input": f"{number:06d}_input.jpg", "tasks": {}}
    _write(folder / entry["input"], batch["image"][row], ".jpg", [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    for task in tasks:
        label, prediction = batch["labels"][task.name][row], predicted[task.name][row]
        scale = task.value_range(label)
        found = {}
        for kind, value in (("target", label), ("prediction", prediction)):
            name = f"{number:06d}_{task.name}_{kind}.png"
            _write(folder / name, task.picture(value, scale), ".png")
            found[kind] = {"file": name, "caption": task.caption(value)}
        entry["tasks"][task.name] = found
    return entry


def _write(path: Path, picture: np.ndarray, ending: str, options: Sequence[int] = ()) -> None:
    whole, encoded = cv2.imencode(ending, np.ascontiguousarray(picture[..., ::-1]), list(options))
    if not whole:
        raise ValueError(f"{path.name}: an image {picture.shape} {picture.dtype} cannot be encoded")
    atomic_write_bytes(path, encoded.tobytes())


def read_examples(folder: Path) -> dict[str, Any] | None:
    """The list of a folder's examples; None where there is none or it cannot be read.

    Raises:
      CheckpointError: it is of a newer format.
    """
    path = folder / EXAMPLES_NAME
    if not path.is_file():
        return None
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    if not isinstance(found, dict) or not isinstance(found.get("examples"), list):
        return None
    format_number(found.get("format"), FORMAT, f"run: '{path}'", CheckpointError)
    return found
