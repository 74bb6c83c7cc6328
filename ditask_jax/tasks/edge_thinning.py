"""Thinning an edge map to lines one pixel wide.

A pixel survives if its value is not exceeded one pixel to either side across the edge (non-maximum suppression). The
direction across is the main axis of the structure tensor, the smoothed outer product of the gradient of the smoothed
map, which is well defined on ridges, where the gradient itself vanishes. What survives can still be more than one pixel
wide: staircases, and the plateaus of saturated or binary maps. It is eroded from alternate sides wherever a pixel is
redundant among the neighbours that are at least as strong, so that lines stay connected at every threshold.

References:
  Z. Guo, R. Hall. Parallel thinning with two-subiteration algorithms. Communications of the ACM, 1989.
"""

import cv2
import numpy as np

_SMOOTHING = 1.0
_TENSOR_SMOOTHING = 2.0
_RING = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
"""Steps (row, column) to the eight neighbours, clockwise from above."""


def thin(values: np.ndarray, threshold: float) -> np.ndarray:
    """Mask `[H, W]` of the lines of a map among its pixels of at least `threshold` (above 0).

    >>> band = np.zeros((9, 9), np.float32); band[3:6] = 1
    >>> thin(band, 0.5).sum(axis=1).tolist()
    [0, 0, 0, 0, 7, 0, 0, 0, 0]
    """
    values = np.ascontiguousarray(values, np.float32)
    return _erode(_local_maxima(values) & (values >= threshold), values)


def _local_maxima(values: np.ndarray) -> np.ndarray:
    """Pixels not exceeded by the map, interpolated bilinearly, one pixel to either side across the edge."""
    height, width = values.shape
    smooth = cv2.GaussianBlur(values, (0, 0), _SMOOTHING)
    dx, dy = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    xx, xy, yy = (cv2.GaussianBlur(product, (0, 0), _TENSOR_SMOOTHING) for product in (dx * dx, dx * dy, dy * dy))
    across = 0.5 * np.arctan2(2 * xy, xx - yy)
    step_x, step_y = np.cos(across), np.sin(across)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    highest = np.zeros_like(values)
    for sign in (-1, 1):
        x, y = columns + sign * step_x, rows + sign * step_y
        beside = cv2.remap(values, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        highest = np.maximum(highest, beside)
    # The tolerance covers the rounding of the interpolation on plateaus.
    return values >= highest * (1 - 1e-5)


def _deletable_codes() -> np.ndarray:
    """For each of the two sub-iterations, which of the 256 neighbourhoods let the centre be deleted."""
    codes = np.arange(256)
    n, ne, e, se, s, sw, w, nw = (((codes >> bit) & 1).astype(bool) for bit in range(8))
    pieces = np.sum([~n & (ne | e), ~e & (se | s), ~s & (sw | w), ~w & (nw | n)], axis=0)
    turned_left = np.sum([nw | n, ne | e, se | s, sw | w], axis=0)
    turned_right = np.sum([n | ne, e | se, s | sw, w | nw], axis=0)
    width = np.minimum(turned_left, turned_right)
    inner = (pieces == 1) & (width >= 2) & (width <= 3)
    return np.stack([inner & ~((s | sw | ~nw) & w), inner & ~((n | ne | ~se) & e)])


_DELETABLE = _deletable_codes()


def _erode(lines: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Deletes redundant line pixels until nothing changes."""
    level = np.pad(np.where(lines, values, -1.0), 1, constant_values=-1.0)
    steps = [row * level.shape[1] + column for row, column in _RING]
    level = level.reshape(-1)
    pixels = np.flatnonzero(level >= 0)
    changed = True
    while changed:
        changed = False
        for deletable in _DELETABLE:
            own = level[pixels]
            code = np.zeros(len(pixels), np.uint8)
            for bit, step in enumerate(steps):
                code |= (level[pixels + step] >= own).astype(np.uint8) << np.uint8(bit)
            doomed = deletable[code]
            level[pixels[doomed]] = -1.0
            pixels = pixels[~doomed]
            changed |= bool(doomed.any())
    height, width = lines.shape
    return level.reshape(height + 2, width + 2)[1:-1, 1:-1] >= 0
