"""Erodes lines to a width of one pixel and keeps them connected.

References:
  Z. Guo, R. Hall. Parallel thinning with two-subiteration algorithms. Communications of the ACM, 1989.
"""

import numpy as np

_RING = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
"""Steps (row, column) to the eight neighbours, clockwise from above."""


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


def erode_lines(lines: np.ndarray, values: np.ndarray | None = None) -> np.ndarray:
    """Deletes redundant line pixels, from alternate sides, until nothing changes.

    Args:
      lines: bool [H, W].
      values: strengths [H, W], not negative; a pixel is redundant only among neighbours at least as strong as itself.
        None: all alike, which is the plain algorithm of the reference.

    Returns:
      bool [H, W], a subset of `lines`.

    >>> band = np.zeros((7, 9), bool); band[2:5, 1:8] = True
    >>> erode_lines(band).sum(axis=1).tolist()
    [0, 0, 0, 5, 0, 0, 0]
    """
    strengths = 1.0 if values is None else values
    level = np.pad(np.where(lines, strengths, -1.0), 1, constant_values=-1.0)
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
