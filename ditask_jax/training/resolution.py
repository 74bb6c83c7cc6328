"""Scores at the labels' own resolution: logits of the network's size resized to every picture's size."""

import jax
import jax.numpy as jnp


def resize_to_own(logits: jax.Array, sizes: jax.Array, canvas: tuple[int, int]) -> jax.Array:
    """Resizes each map to its own size, bilinearly (half-pixel, no anti-aliasing), in the corner of a common canvas.

    Args:
      logits: float32 `[B, h, w, C]`.
      sizes: int32 `[B, 2]`, heights and widths, at most those of the canvas.
      canvas: height and width of the result; labels are ignored outside of each map's size, what stands there is
        arbitrary.

    Returns:
      float32 `[B, *canvas, C]`.

    >>> resize_to_own(jnp.array([[[[0.0], [8.0]]]]), jnp.array([[1, 4]]), (1, 5))[0, 0, :4, 0].tolist()
    [0.0, 2.0, 6.0, 8.0]
    """
    rows = jax.vmap(lambda size: _weights(logits.shape[1], size, canvas[0]))(sizes[:, 0])
    columns = jax.vmap(lambda size: _weights(logits.shape[2], size, canvas[1]))(sizes[:, 1])
    highest = jax.lax.Precision.HIGHEST
    wide = jnp.einsum("bhwc,bow->bhoc", logits, columns, precision=highest)
    return jnp.einsum("bhoc,bph->bpoc", wide, rows, precision=highest)


def _weights(source: int, target: jax.Array, length: int) -> jax.Array:
    """The `[length, source]` matrix of which the first `target` rows interpolate `source` values at `target` places."""
    ratio = source / jnp.maximum(target, 1).astype(jnp.float32)
    places = (jnp.arange(length, dtype=jnp.float32) + 0.5) * ratio - 0.5
    places = jnp.clip(places, 0.0, source - 1.0)
    distance = jnp.abs(places[:, None] - jnp.arange(source, dtype=jnp.float32)[None])
    return jnp.maximum(1.0 - distance, 0.0)
