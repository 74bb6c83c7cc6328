"""From logits to a prediction of a picture's own size, in strips, so that memory stays small for any picture."""

import functools
from collections.abc import Iterator

import jax
import numpy as np

from ditask_jax.labels import IGNORE
from ditask_jax.tasks import Task
from ditask_jax.tasks.base import check_decoded

Block = tuple[int, np.ndarray]
"""First row of a strip of a map, and the strip `[rows, W, C]`."""

# Pixels decoded at a time: one shape for all pictures, so that every task is compiled once.
_PIXELS = 1 << 16


def upsampled(logits: np.ndarray, size: tuple[int, int]) -> Iterator[Block]:
    """Strips of a map resized to (height, width), bilinearly: half-pixel, no anti-aliasing, as scores are taken.

    Args:
      logits: float32 `[h, w, C]`.
      size: of the result.

    >>> [(row, strip[..., 0].tolist()) for row, strip in upsampled(np.array([[[0.0], [8.0]]], np.float32), (1, 4))]
    [(0, [[0.0, 2.0, 6.0, 8.0]])]
    """
    height, width = size
    low, high, part = _places(logits.shape[1], width)
    wide = logits
    if width != logits.shape[1]:
        wide = logits[:, low] + (logits[:, high] - logits[:, low]) * part[:, None]
    low, high, part = _places(logits.shape[0], height)
    rows = max(_PIXELS // width, 1)
    for start in range(0, height, rows):
        here = slice(start, min(start + rows, height))
        yield start, wide[low[here]] + (wide[high[here]] - wide[low[here]]) * part[here, None, None]


def _places(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every target cell the two source cells around it, and how far it lies on the way to the second."""
    place = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    low = np.floor(place).astype(int)
    return low, np.minimum(low + 1, source - 1), (place - low).astype(np.float32)


class MapBuilder:
    """The decoded map of a task, put together from strips of logits.

    Args:
      task: what decodes.
      size: (height, width) of the map.

    Attributes:
      map: `[H, W]` or `[H, W, K]` as the task decodes, class ids as uint8: in the units of the label.

    Raises:
      ConfigError: the task decodes to no map.
    """

    def __init__(self, task: Task, size: tuple[int, int]):
        self._task = task
        found = check_decoded(task, (1, 1, _PIXELS))
        # Class ids are as small as labels hold them.
        is_class = np.issubdtype(found.dtype, np.integer) and 0 < task.label_spec.num_values <= IGNORE
        self.map = np.empty((*size, *found.shape[3:]), np.uint8 if is_class else found.dtype)

    def add(self, row: int, logits: np.ndarray) -> None:
        """Decodes a strip `[rows, W, C]` that begins at a row of the map."""
        place = self.map[row : row + len(logits)]
        place[...] = _decode(self._task, logits).reshape(place.shape)


def resized_map(task: Task, logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The decoded map of a task at another size than its logits `[h, w, C]`; see `MapBuilder.map`."""
    builder = MapBuilder(task, size)
    for row, strip in upsampled(logits, size):
        builder.add(row, strip)
    return builder.map


def _decode(task: Task, block: np.ndarray) -> np.ndarray:
    """Decodes `[rows, W, C]`, pixel by pixel the same whatever stands beside it."""
    flat = block.reshape(-1, block.shape[-1])
    found = []
    for start in range(0, len(flat), _PIXELS):
        part = flat[start : start + _PIXELS]
        padded = np.zeros((1, 1, _PIXELS, flat.shape[1]), np.float32)
        padded[0, 0, : len(part)] = part
        found.append(np.asarray(_decoder(task)(padded))[0, 0, : len(part)])
    return np.concatenate(found)


@functools.lru_cache(maxsize=64)
def _decoder(task: Task):
    return jax.jit(task.decode)
