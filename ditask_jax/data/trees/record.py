"""One example as its files hold it, and how that becomes the labels of a source.

What is read from a tree is kept compact (class ids, colours, disparities: small integers), for a prepared set stores
exactly these arrays; both ways of reading then go through `finish`, which is why they agree to the last bit.

| form | stored | label |
|---|---|---|
| classes | uint8 [H, W] | the same; 255 = ignore |
| colours | uint8 [H, W, 3] | directions float32 [H, W, 3] = 2 v / 255 - 1; black and mid-grey = missing |
| vectors | float32 [H, W, 3] | the same; zero = missing |
| distances | float32 [H, W] | the same; 0 = missing |
| disparity | uint16 [H, W] | float32 [H, W]: pixels (v - 1) / 256, or metres factor / pixels; 0 = missing |
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ditask_jax.data import files
from ditask_jax.errors import DataError

DTYPES = {
    "classes": np.uint8,
    "colours": np.uint8,
    "vectors": np.float32,
    "distances": np.float32,
    "disparity": np.uint16,
}
"""Type of the numbers of each form."""
DEPTH_FACTOR = "depth_factor"
"""Constant of an example: baseline times focal length, which over the disparity is the depth in metres."""


@dataclasses.dataclass
class Record:
    """One example in stored form.

    Attributes:
      name: its id.
      image: uint8 [H, W, 3].
      content: the picture's file, where any decoder reads it alike; else None.
      values: stored form of each label.
      constants: numbers that belong to the example.
      origins: what to call each label (and "image") in messages.
    """

    name: str
    image: np.ndarray
    content: bytes | None
    values: dict[str, np.ndarray]
    constants: dict[str, float]
    origins: dict[str, Path | str]


def finish(record: Record, forms: Mapping[str, str], resizes_labels: bool) -> dict:
    """The example `{"image", "id", task: label}` of a record.

    Args:
      record: what was read.
      forms: form of each label, see this module.
      resizes_labels: a label of another size is resized (nearest; directions cubic) if its aspect ratio agrees.

    Raises:
      DataError: a label does not fit its picture.
    """
    example: dict = {"image": record.image, "id": record.name}
    size = record.image.shape[:2]
    for task, values in record.values.items():
        label = expand(forms[task], values, record.constants)
        if label.shape[:2] != size:
            if not resizes_labels:
                raise DataError(
                    f"data: {record.origins[task]} is {label.shape[0]}x{label.shape[1]} (height x width), expected "
                    f"{size[0]}x{size[1]}, the size of its picture {record.origins['image']}"
                )
            label = files.fit_label(label, size, label.ndim == 3, record.origins[task])
        example[task] = label
    return example


def expand(form: str, values: np.ndarray, constants: Mapping[str, float]) -> np.ndarray:
    """A label from its stored form.

    >>> expand("disparity", np.array([[0, 1, 257]], np.uint16), {}).tolist()
    [[0.0, 0.0, 1.0]]
    >>> expand("disparity", np.array([[0, 1, 257]], np.uint16), {DEPTH_FACTOR: 500.0}).tolist()
    [[0.0, 0.0, 500.0]]
    """
    if form == "colours":
        return files.colours_to_vectors(values)
    if form == "disparity":
        factor = constants.get(DEPTH_FACTOR)
        return _PIXELS[values] if factor is None else _INVERSE_PIXELS[values] * np.float32(factor)
    return values


_PIXELS = np.maximum(np.arange(1 << 16, dtype=np.float32) - 1, 0) / np.float32(256)
_INVERSE_PIXELS = np.divide(1, _PIXELS, out=np.zeros_like(_PIXELS), where=_PIXELS > 0)
