"""Predictions as files that other tools open: class maps with a palette, 16-bit PNG, `.npy`."""

import io
from typing import Any

import numpy as np
from PIL import Image

from ditask_jax.data.files import encode_png
from ditask_jax.errors import check_known
from ditask_jax.files import json_text
from ditask_jax.tasks import Task
from ditask_jax.tasks.class_map import ClassMapTask

FORMATS = ("npy", "png")
_MOST = 65535
# Depth in 16 bits: the factor, and what is added to all but zero, as the data sets' own files have it.
_DEPTH = {"metres": (1000.0, 0), "pixels": (256.0, 1), "inverse": (float(_MOST), 0)}


def check_format(name: str) -> None:
    """Raises ConfigError unless the format of depth and normals is known.

    >>> check_format("npy")
    """
    check_known("command line: --raw", name, FORMATS)


def raw_ending(task: Task, format: str) -> str:
    """The ending of a task's raw files."""
    if not task.is_map:
        return ".json"
    return f".{format}" if task.name in ("depth", "normals") else ".png"


def encode_raw(task: Task, prediction: np.ndarray, format: str) -> bytes:
    """The content of a raw file.

    Args:
      task: what was predicted.
      prediction: of one picture; see `Prediction`.
      format: "npy" or "png", of depth and normals.
    """
    if isinstance(task, ClassMapTask):
        return _palette_png(prediction, task.palette)
    if not task.is_map:
        return (json_text({"class": int(prediction), "name": task.caption(prediction)}) + "\n").encode()
    if raw_ending(task, format) == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, prediction)
        return buffer.getvalue()
    if task.name == "depth":
        factor, offset = _DEPTH[task.unit]
        levels = np.round(prediction.astype(np.float64) * factor) + offset * (prediction > 0)
    elif task.name == "normals":
        levels = np.round((prediction.astype(np.float64) + 1) / 2 * _MOST)
    else:
        levels = np.round(prediction.astype(np.float64) * _MOST)
    return encode_png(levels.clip(0, _MOST).astype(np.uint16))


def describe_raw(task: Task, format: str) -> dict[str, Any]:
    """What a task's raw files hold, for people and programs."""
    if isinstance(task, ClassMapTask):
        colours = task.palette[: task.num_outputs].tolist()
        return {"holds": "class id per pixel, 8-bit palette", "classes": list(task.class_names), "colours": colours}
    if not task.is_map:
        return {"holds": "number and name of the class", "classes": list(task.class_names)}
    if task.name == "depth":
        factor, offset = _DEPTH[task.unit]
        shift = f", plus {offset}; 0 for no depth" if offset else ""
        kind = "float32 [H, W]" if format == "npy" else f"16-bit: depth times {factor:g}{shift}"
        return {"holds": kind, "unit": task.unit}
    if task.name == "normals":
        kind = "float32 [H, W, 3]" if format == "npy" else "16-bit RGB: v = 2 RGB / 65535 - 1"
        return {"holds": f"{kind}; unit vectors (x, y, z)", "unit": "1"}
    return {"holds": "16-bit: probability times 65535", "unit": "1"}


def _palette_png(classes: np.ndarray, palette: np.ndarray) -> bytes:
    image = Image.fromarray(classes)
    image.putpalette(palette.ravel().tolist())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
