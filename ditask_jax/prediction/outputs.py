"""The folder of predictions: colour images, raw files in the units of the labels, panels, and a record of them."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ditask_jax.data.image_files import encode_png
from ditask_jax.errors import ConfigError, check_known, defined_in
from ditask_jax.files import atomic_write_bytes, atomic_write_json, json_text, user_path
from ditask_jax.prediction.image_inputs import PANELS, PICTURES, RAW, PictureFile
from ditask_jax.prediction.predictor import Prediction, Predictor
from ditask_jax.tasks import Task
from ditask_jax.tasks.base import RawForm

# Predictions as files that other tools open; what a file holds is the task's to say (`Task.raw_form`).


FORMATS = ("npy", "png")
ENDINGS = (".npy", ".png", ".json")


def check_format(name: str) -> None:
    """Raises ConfigError unless the format of maps of real numbers is known.

    >>> check_format("npy")
    """
    check_known("command line: --raw", name, FORMATS)


def raw_ending(task: Task, format: str) -> str:
    """The ending of a task's raw files."""
    return task.raw_form(format).ending


def describe_raw(task: Task, format: str) -> dict[str, Any]:
    """What a task's raw files hold, for people and programs."""
    return dict(task.raw_form(format).describes)


def encode_raw(task: Task, prediction: np.ndarray, format: str) -> bytes:
    """The content of a raw file.

    Args:
      task: what was predicted.
      prediction: of one image; see `Prediction`.
      format: "npy" or "png", of depth, normals and other maps of real numbers.

    Raises:
      ConfigError: the task's form fits none of the kinds of files.
    """
    form = task.raw_form(format)
    content = form.encode(prediction)
    if form.ending == ".json":
        return (json_text(_plain(content)) + "\n").encode()
    if form.ending == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(content), allow_pickle=False)
        return buffer.getvalue()
    return _png(task, form, np.asarray(content))


def _png(task: Task, form: RawForm, levels: np.ndarray) -> bytes:
    if form.ending != ".png":
        raise ConfigError(
            f"task '{task.name}' ({defined_in(task)}): raw_form has the ending '{form.ending}', expected one of "
            f"{' '.join(ENDINGS)}"
        )
    colours = levels.ndim == 3 and levels.shape[-1] == 3 and form.palette is None
    if levels.dtype not in (np.uint8, np.uint16) or not (levels.ndim == 2 or colours):
        raise ConfigError(
            f"task '{task.name}' ({defined_in(task)}): raw_form encodes to {levels.dtype} {list(levels.shape)}, but a "
            "PNG holds uint8 or uint16 [H, W] or [H, W, 3]; use the ending '.npy' for other arrays"
        )
    if form.palette is None:
        return encode_png(levels)
    image = Image.fromarray(levels.astype(np.uint8))
    image.putpalette(form.palette.ravel().tolist())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _plain(value: Any) -> Any:
    """Arrays and NumPy numbers as lists and numbers."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


# The folder of predictions: per task a colour image and a raw file, panels, and a description.


FORMAT = "ditask_jax/predictions/2"
DESCRIPTION = "predictions.json"


def check_folder(path: str | Path) -> None:
    """Raises ConfigError where something else than a folder is in the place of the results."""
    path = user_path(path, "predict: out")
    if path.exists() and not path.is_dir():
        raise ConfigError(f"predict: --out: '{path}' is a file; give a folder")


class ResultFolder:
    """Writes predictions under a folder:

        raw/TASK/ID.png|.npy|.json   the prediction itself, in the units of the labels
        pictures/TASK/ID.png         in colour
        panels/ID.png                the image and all tasks
        predictions.json             what the files hold, which image they are of, and what was skipped; written last

    ID is the name of the image's file below the input's folder, as `find_pictures` makes it.
    Every file appears whole or not at all, and replaces one of the same name.

    Args:
      path: the folder.
      predictor: what predicts.
      format: "npy" or "png", of raw depth and normals.
      panels: whether panels are drawn.
    """

    def __init__(self, path: str | Path, predictor: Predictor, format: str = "npy", panels: bool = True):
        check_folder(path)
        self.path = user_path(path, "predict: out")
        self._predictor, self._format, self._panels = predictor, format, panels
        self._done: list[dict] = []
        self._skipped: list[dict] = []
        # It would describe files of another time until the new one is written.
        (self.path / DESCRIPTION).unlink(missing_ok=True)

    def add(self, file: PictureFile, image: np.ndarray, prediction: Prediction) -> None:
        """Writes the files of one image.

        Raises:
          OSError: one of them cannot be written; those that were are removed again.
        """
        outputs: dict[str, Any] = {}
        written: list[Path] = []
        try:
            for kind, task, name, content in self._contents(file, image, prediction):
                written.append(atomic_write_bytes(self.path / name, content))
                if task is None:
                    outputs[kind] = name
                else:
                    outputs.setdefault(kind, {})[task] = name
        except OSError:
            for path in written:
                path.unlink(missing_ok=True)
            raise
        height, width = image.shape[:2]
        entry = {"id": file.id, "file": str(file.path), "height": height, "width": width}
        self._done.append(entry | {"outputs": outputs})

    def _contents(
        self, file: PictureFile, image: np.ndarray, prediction: Prediction
    ) -> Iterator[tuple[str, str | None, str, bytes]]:
        """Folder, task, path and content of every file of an image."""
        for task in self._predictor.tasks:
            value = prediction[task.name]
            name = f"{RAW}/{task.name}/{file.id}{raw_ending(task, self._format)}"
            yield RAW, task.name, name, encode_raw(task, value, self._format)
            yield PICTURES, task.name, f"{PICTURES}/{task.name}/{file.id}.png", encode_png(task.picture(value))
        if self._panels:
            from ditask_jax.plots.panels import panel_png

            content = panel_png(image, prediction, self._predictor.tasks, title=file.id)
            yield PANELS, None, f"{PANELS}/{file.id}.png", content

    def skip(self, file: PictureFile, reason: str) -> None:
        """Remembers a file that could not be read."""
        self._skipped.append({"file": str(file.path), "reason": reason})

    @property
    def counts(self) -> tuple[int, int]:
        """Images predicted, and files skipped."""
        return len(self._done), len(self._skipped)

    def finish(self) -> Path:
        """Writes the description; returns its path."""
        predictor = self._predictor
        height, width = predictor.image_size
        how = f"tiles of {height}x{width}, overlapping by at least {predictor.overlap:g} of a tile"
        if not predictor.tile:
            how = f"resized to {height}x{width}, predictions resized back"
        content = {
            "format": FORMAT,
            "model": predictor.source,
            "how": how,
            "tasks": {task.name: self._describe(task) for task in predictor.tasks},
            "pictures": self._done,
            "skipped": self._skipped,
        }
        return atomic_write_json(self.path / DESCRIPTION, content)

    def _describe(self, task) -> dict:
        raw = f"{RAW}/{task.name}/ID{raw_ending(task, self._format)}"
        return {"raw": raw, "picture": f"{PICTURES}/{task.name}/ID.png"} | describe_raw(task, self._format)
