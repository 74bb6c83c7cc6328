"""From pixels to what a pretrained backbone expects."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def normalise_images(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """uint8 pixels (or floats in 0..255) `[B, H, W, 3]` to `(pixel / 255 - mean) / std`, float32.

    >>> normalise_images(jnp.full((1, 1, 1, 3), 255, jnp.uint8), (0.5,) * 3, (0.5,) * 3).ravel().tolist()
    [1.0, 1.0, 1.0]
    """
    mean, std = (jnp.asarray(values, jnp.float32).reshape(1, 1, 1, 3) for values in (mean, std))
    return (images.astype(jnp.float32) / 255 - mean) / std
