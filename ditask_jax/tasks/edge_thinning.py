"""Thinning an edge map to lines one pixel wide.

A pixel survives if its value is not exceeded one pixel to either side across the edge (non-maximum suppression). The
direction across is the main axis of the structure tensor, the smoothed outer product of the gradient of the smoothed
map, which is well defined on ridges, where the gradient itself vanishes. What survives can still be more than one pixel
wide: staircases, and the plateaus of saturated or binary maps. It is eroded from alternate sides wherever a pixel is
redundant among the neighbours that are at least as strong, so that lines stay connected at every threshold.
"""

import cv2
import numpy as np

from ditask_jax.line_erosion import erode_lines

_SMOOTHING = 1.0
_TENSOR_SMOOTHING = 2.0


def thin(values: np.ndarray, threshold: float) -> np.ndarray:
    """Mask `[H, W]` of the lines of a map among its pixels of at least `threshold` (above 0).

    >>> band = np.zeros((9, 9), np.float32); band[3:6] = 1
    >>> thin(band, 0.5).sum(axis=1).tolist()
    [0, 0, 0, 0, 7, 0, 0, 0, 0]
    """
    values = np.ascontiguousarray(values, np.float32)
    return erode_lines(_local_maxima(values) & (values >= threshold), values)


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
