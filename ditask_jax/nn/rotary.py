"""Rotary positions over a grid: queries and keys turned by angles that grow with their places."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from ditask_jax.nn.custom_vjp import custom_vjp
from ditask_jax.numerics import widened


@functools.cache
def rotary_tables(grid: tuple[int, int], leading: int, width: int, base: float) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines of every position's angles, float32 `[leading + height * width, D / 2]`.

    A cell's centre has coordinates in -1..1 along either side of the grid, whatever its size. The first half of the
    angles follows the row and the second the column, in periods from 1 to almost `base`.

    Args:
      grid: (height, width).
      leading: positions in front that stand for no cell; they are not turned.
      width: D, channels of a head, divisible by 4.
      base: of the periods, `base**(4 i / D)`.

    References: Heo et al., "Rotary Position Embedding for Vision Transformer", ECCV 2024; Simeoni et al., "DINOv3",
    2025.

    >>> cosines, sines = rotary_tables((1, 2), 1, 4, 100.0)
    >>> cosines.round(3).tolist(), bool(abs(sines).max() < 1e-6)
    ([[1.0, 1.0], [1.0, -1.0], [1.0, -1.0]], True)
    """
    periods = base ** (np.arange(width // 4) * 4 / width)
    rows, columns = (2 * (np.arange(length) + 0.5) / length - 1 for length in grid)
    places = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
    angles = (2 * math.pi * places[:, :, None] / periods).reshape(len(places), -1)
    angles = np.concatenate([np.zeros((leading, angles.shape[1])), angles])
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _turned(x, cosines, sines):
    first, second = jnp.split(widened(x), 2, axis=-1)
    row = lambda table: table.reshape((1,) * (x.ndim - 2) + table.shape)
    cosines, sines = row(cosines), row(sines)
    turned = jnp.concatenate([first * cosines - second * sines, second * cosines + first * sines], axis=-1)
    return turned.astype(x.dtype)


def _turned_back(tables, gradient):
    cosines, sines = tables
    return _turned(gradient, cosines, -sines), None, None


@custom_vjp(lambda x, cosines, sines: (_turned(x, cosines, sines), (cosines, sines)), _turned_back)
def rotate(x: jax.Array, cosines: jax.Array, sines: jax.Array) -> jax.Array:
    """Channel i and channel i + D/2 of every position turned by its i-th angle, in float32 or wider.

    Shapes: x `[..., L, D]`; tables `[L, D / 2]`, of `rotary_tables`; to the shape and dtype of `x`.

    >>> rotate(jnp.array([[1.0, 2.0]]), jnp.zeros((1, 1)), jnp.ones((1, 1))).tolist()
    [[-2.0, 1.0]]
    """
    return _turned(x, cosines, sines)
