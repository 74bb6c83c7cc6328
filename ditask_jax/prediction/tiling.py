"""An image of any size through a network of one size, by resizing or overlapping tiles, and back to its own size."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import cv2
import jax
import numpy as np

from ditask_jax.errors import ConfigError
from ditask_jax.labels import IGNORE
from ditask_jax.tasks import Task
from ditask_jax.tasks.base import check_decoded

# From logits to a prediction of an image's own size, in strips, so that memory stays small for any image.


Block = tuple[int, np.ndarray]
"""First row of a strip of a map, and the strip `[rows, W, C]`."""

# Pixels decoded at a time: one shape for all images, so that every task is compiled once.
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


# An image of any size through a network of one size: overlapping tiles, blended so that no seam shows.


Forward = Callable[[Sequence[np.ndarray]], list[Mapping[str, np.ndarray]]]
"""Images of the network's size to logits `[h, w, C]` by task, image by image."""


def check_overlap(overlap: float) -> None:
    """Raises ConfigError unless the overlap is a fraction of a tile that leaves something to move on by.

    >>> check_overlap(0.25)
    """
    if not 0 <= overlap <= 0.9:
        raise ConfigError(f"predict: overlap: got {overlap}, expected a fraction of a tile from 0 to 0.9")


def starts(length: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin along one axis: evenly spread, overlapping by at least the asked fraction of a tile.

    >>> starts(100, 40, 0.25), starts(30, 40, 0.25)
    ([0, 30, 60], [0])
    """
    if length <= tile:
        return [0]
    step = max(tile * (1 - overlap), 1)
    count = math.ceil((length - tile) / step) + 1
    return [round(k * (length - tile) / (count - 1)) for k in range(count)]


def ramp(tile: int, overlap: float) -> np.ndarray:
    """Weights along one axis of a tile: 1 inside, falling over the overlap towards the edges, never 0.

    >>> ramp(5, 0.4).tolist()
    [0.5, 1.0, 1.0, 1.0, 0.5]
    """
    distance = np.minimum(np.arange(tile), np.arange(tile)[::-1]) + 1
    return np.minimum(distance / max(round(tile * overlap), 1), 1.0).astype(np.float32)


def tiled(
    image: np.ndarray, forward: Forward, tile: tuple[int, int], overlap: float, batch: int
) -> Iterator[dict[str, Block]]:
    """Strips of logits of an image at its own scale, top to bottom, by task.

    An image smaller than a tile is continued by its mirror image. Memory holds one row of tiles, whatever the height.

    Args:
      image: uint8 `[H, W, 3]`.
      forward: the network.
      tile: its (height, width).
      overlap: least overlap of neighbours, as a fraction of a tile.
      batch: tiles per call of `forward`.
    """
    height, width = image.shape[:2]
    padding = [max(side - have, 0) for side, have in zip(tile, (height, width), strict=True)]
    if any(padding):
        image = cv2.copyMakeBorder(image, 0, padding[0], 0, padding[1], cv2.BORDER_REFLECT_101)
    tops, lefts = (starts(n, side, overlap) for n, side in zip(image.shape[:2], tile, strict=True))
    down, across = ramp(tile[0], overlap), ramp(tile[1], overlap)
    weights_down, weights_across = (
        _total(n, places, weights)
        for n, places, weights in zip(image.shape[:2], (tops, lefts), (down, across), strict=True)
    )
    sums: dict[str, np.ndarray] = {}
    for row, top in enumerate(tops):
        pieces = [image[top : top + tile[0], left : left + tile[1]] for left in lefts]
        for first in range(0, len(pieces), batch):
            found = forward(pieces[first : first + batch])
            for left, logits in zip(lefts[first : first + batch], found, strict=True):
                for name, values in logits.items():
                    if name not in sums:
                        sums[name] = np.zeros((tile[0], image.shape[1], values.shape[-1]), np.float32)
                    sums[name][:, left : left + tile[1]] += values * (down[:, None] * across)[..., None]
        # No later tile reaches above its own top: those rows are done.
        end = tops[row + 1] if row + 1 < len(tops) else image.shape[0]
        done = end - top
        weight = (weights_down[top:end, None] * weights_across)[..., None]
        keep = slice(0, max(min(end, height) - top, 0))
        yield {name: (top, (total[:done] / weight)[keep, :width]) for name, total in sums.items()}
        for total in sums.values():
            total[: tile[0] - done] = total[done:].copy()
            total[tile[0] - done :] = 0


def _total(length: int, places: Sequence[int], weights: np.ndarray) -> np.ndarray:
    total = np.zeros(length, np.float32)
    for place in places:
        total[place : place + len(weights)] += weights
    return total
