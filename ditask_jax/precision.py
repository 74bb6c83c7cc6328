"""The least precision of statistics, softmax and losses, whatever dtype flows through."""

import jax
import jax.numpy as jnp


def widened(x: jax.Array) -> jax.Array:
    """The array in float32, or as it is where it is wider.

    >>> widened(jnp.ones(1, jnp.bfloat16)).dtype.name
    'float32'
    """
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
