"""Resizing maps, and normalising images."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Bilinear resizing as two small matrix products, with exact gradients.


@functools.cache
def bilinear_matrix(source: int, target: int) -> np.ndarray:
    """The `[target, source]` matrix of half-pixel bilinear interpolation without anti-aliasing.

    Equals PyTorch's `interpolate(mode="bilinear", align_corners=False)` along one axis.

    >>> bilinear_matrix(2, 4).tolist()
    [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    """
    position = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    low = np.floor(position).astype(int)
    high = np.minimum(low + 1, source - 1)
    matrix = np.zeros((target, source), np.float64)
    np.add.at(matrix, (np.arange(target), low), 1 - (position - low))
    np.add.at(matrix, (np.arange(target), high), position - low)
    return matrix.astype(np.float32)


def resize_bilinear(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resizes `[B, H, W, C]` to `[B, *size, C]`; the identity when the size is already right.

    >>> resize_bilinear(jnp.ones((1, 2, 2, 3)), (4, 6)).shape
    (1, 4, 6, 3)
    """
    height, width = x.shape[1:3]
    if width != size[1]:
        x = jnp.einsum("bhwc,ow->bhoc", x, jnp.asarray(bilinear_matrix(width, size[1]), x.dtype))
    if height != size[0]:
        # A product per image, rows of pixels as columns: no axis changes its place. Contracting the axis in the middle,
        # XLA turns the array round before and after on CPUs: 1.1 to 1.6 times the time, gradient included.
        batch, _, *row = x.shape
        matrix = jnp.asarray(bilinear_matrix(height, size[0]), x.dtype)
        x = jnp.broadcast_to(matrix[None], (batch, *matrix.shape)) @ x.reshape(batch, height, -1)
        x = x.reshape(batch, size[0], *row)
    return x


@functools.cache
def adaptive_mean_matrix(source: int, target: int) -> np.ndarray:
    """The `[target, source]` matrix of adaptive average pooling along one axis.

    Output i averages cells floor(i s/t) to ceil((i+1) s/t), as PyTorch's `AdaptiveAvgPool2d` does; a target larger than
    the source repeats cells.

    >>> adaptive_mean_matrix(4, 2).tolist()
    [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
    """
    matrix = np.zeros((target, source), np.float32)
    for row in range(target):
        first, last = row * source // target, -((-(row + 1) * source) // target)
        matrix[row, first:last] = 1 / (last - first)
    return matrix


def adaptive_mean(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Averages `[..., H, W, C]` down (or repeats up) to `[..., *size, C]`.

    >>> adaptive_mean(jnp.ones((1, 2, 9, 8, 3)), (7, 7)).shape
    (1, 2, 7, 7, 3)
    """
    rows, columns = (
        jnp.asarray(adaptive_mean_matrix(s, t), x.dtype) for s, t in zip(x.shape[-3:-1], size, strict=True)
    )
    return jnp.einsum("...hwc,yh,xw->...yxc", x, rows, columns)


# From pixels to what a pretrained backbone expects.


def normalise_images(
    images: jax.Array, mean: Sequence[float], std: Sequence[float], dtype: Any = jnp.float32
) -> jax.Array:
    """uint8 pixels (or floats in 0..255) `[B, H, W, 3]` to `(pixel / 255 - mean) / std`, in float32 or a wider `dtype`.

    >>> normalise_images(jnp.full((1, 1, 1, 3), 255, jnp.uint8), (0.5,) * 3, (0.5,) * 3).ravel().tolist()
    [1.0, 1.0, 1.0]
    """
    dtype = jnp.promote_types(dtype, jnp.float32)
    mean, std = (jnp.asarray(values, dtype).reshape(1, 1, 1, 3) for values in (mean, std))
    return (images.astype(dtype) / 255 - mean) / std
