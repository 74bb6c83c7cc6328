"""Window partition, shifts and relative positions of Swin attention; index tables are NumPy constants."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange


def partition(x: jax.Array, window: int, shift: int) -> jax.Array:
    """`[S, B, H, W, C]` to windows `[S, B*nH*nW, window*window, C]`, after a cyclic shift towards the origin."""
    if shift:
        x = jnp.roll(x, (-shift, -shift), axis=(2, 3))
    return rearrange(x, "s b (nh wh) (nw ww) c -> s (b nh nw) (wh ww) c", wh=window, ww=window)


def reverse(x: jax.Array, window: int, shift: int, grid: tuple[int, int]) -> jax.Array:
    """The inverse of `partition`."""
    rows, columns = grid[0] // window, grid[1] // window
    x = rearrange(x, "s (b nh nw) (wh ww) c -> s b (nh wh) (nw ww) c", nh=rows, nw=columns, wh=window, ww=window)
    if shift:
        x = jnp.roll(x, (shift, shift), axis=(2, 3))
    return x


@functools.cache
def relative_position_index(window: int) -> np.ndarray:
    """`[L, L]` index into the `(2 window - 1)**2` rows of a bias table, `L = window**2`."""
    row, column = np.divmod(np.arange(window * window), window)
    down = row[:, None] - row[None, :] + window - 1
    right = column[:, None] - column[None, :] + window - 1
    return down * (2 * window - 1) + right


@functools.cache
def shift_mask(grid: tuple[int, int], window: int, shift: int) -> np.ndarray:
    """`[windows, L, L]`: -100 between positions that only the cyclic shift brought together, else 0."""

    def region(length: int) -> np.ndarray:
        index = np.arange(length)
        return np.where(index < length - window, 0, np.where(index < length - shift, 1, 2))

    label = region(grid[0])[:, None] * 3 + region(grid[1])[None, :]
    label = rearrange(label, "(nh wh) (nw ww) -> (nh nw) (wh ww)", wh=window, ww=window)
    return np.where(label[:, :, None] != label[:, None, :], np.float32(-100), np.float32(0))
