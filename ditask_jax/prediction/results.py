"""The folder of predictions: per task a colour picture and a raw file, panels, and a description."""

from pathlib import Path

import numpy as np

from ditask_jax.data.files import encode_png
from ditask_jax.errors import ConfigError
from ditask_jax.files import atomic_write_bytes, atomic_write_json
from ditask_jax.prediction.pictures_in import PANELS, PICTURES, RAW, PictureFile
from ditask_jax.prediction.predictor import Prediction, Predictor
from ditask_jax.prediction.raw import describe_raw, encode_raw, raw_ending

FORMAT = "ditask_jax/predictions/1"
DESCRIPTION = "predictions.json"


def check_folder(path: str | Path) -> None:
    """Raises ConfigError where something else than a folder is in the place of the results."""
    path = Path(path).expanduser()
    if path.exists() and not path.is_dir():
        raise ConfigError(f"predict: --out: '{path}' is a file; give a folder")


class ResultFolder:
    """Writes predictions under a folder:

        raw/TASK/ID.png|.npy|.json   the prediction itself, in the units of the labels
        pictures/TASK/ID.png         in colour
        panels/ID.png                the picture and all tasks
        predictions.json             what the files hold, and what was skipped; written last

    Every file appears whole or not at all, and replaces one of the same name.

    Args:
      path: the folder.
      predictor: what predicts.
      format: "npy" or "png", of raw depth and normals.
      panels: whether panels are drawn.
    """

    def __init__(self, path: str | Path, predictor: Predictor, format: str = "npy", panels: bool = True):
        check_folder(path)
        self.path = Path(path).expanduser()
        self._predictor, self._format, self._panels = predictor, format, panels
        self._done: list[dict] = []
        self._skipped: list[dict] = []
        # It would describe files of another time until the new one is written.
        (self.path / DESCRIPTION).unlink(missing_ok=True)

    def add(self, file: PictureFile, image: np.ndarray, prediction: Prediction) -> None:
        """Writes the files of one picture."""
        for task in self._predictor.tasks:
            value = prediction[task.name]
            content = encode_raw(task, value, self._format)
            name = f"{file.id}{raw_ending(task, self._format)}"
            atomic_write_bytes(self.path / RAW / task.name / name, content)
            picture = encode_png(task.render(value))
            atomic_write_bytes(self.path / PICTURES / task.name / f"{file.id}.png", picture)
        if self._panels:
            from ditask_jax.pictures.panel import panel_png

            content = panel_png(image, prediction, self._predictor.tasks, title=file.id)
            atomic_write_bytes(self.path / PANELS / f"{file.id}.png", content)
        height, width = image.shape[:2]
        self._done.append({"id": file.id, "file": str(file.path), "height": height, "width": width})

    def skip(self, file: PictureFile, reason: str) -> None:
        """Remembers a file that could not be read."""
        self._skipped.append({"file": str(file.path), "reason": reason})

    @property
    def counts(self) -> tuple[int, int]:
        """Pictures predicted, and files skipped."""
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
