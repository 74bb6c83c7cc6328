"""Predictions as files that other tools open; what a file holds is the task's to say (`Task.raw_form`)."""

import io
from typing import Any

import numpy as np
from PIL import Image

from ditask_jax.data.files import encode_png
from ditask_jax.errors import ConfigError, check_known, defined_in
from ditask_jax.files import json_text
from ditask_jax.tasks import Task
from ditask_jax.tasks.base import RawForm

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
      prediction: of one picture; see `Prediction`.
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
