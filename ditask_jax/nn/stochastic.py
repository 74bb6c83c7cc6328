"""Dropout and drop path over the stream axis."""

import jax
import jax.numpy as jnp

from ditask_jax.nn.context import Context


def dropout(x: jax.Array, rate: float, context: Context, purpose: str, stream: str = "shared") -> jax.Array:
    """Zeroes entries of one stream with probability `rate` and rescales the rest.

    Draws 16 random bits an entry instead of 32: the rate is exact to 2**-16 and the generator, which dominates on
    CPUs, costs half.

    Shapes: `[1, B, ..., C]` to the same.
    """
    if not context.train or rate == 0.0:
        return x
    bits = jax.random.bits(context.key_for(f"{purpose}/dropout", stream), x.shape, jnp.uint16)
    keep = bits >= jnp.uint16(round(rate * 65536))
    return jnp.where(keep, x / jnp.asarray(1 - rate, x.dtype), jnp.zeros_like(x))


def drop_path(x: jax.Array, rate: float, context: Context, purpose: str, streams: tuple[str, ...]) -> jax.Array:
    """Drops the residual branch of whole examples, drawn for every stream on its own (stochastic depth).

    Shapes: `[S, B, ..., C]` to the same, `S == len(streams)`.

    References: Huang et al. 2016; independent draws for the shared and each task path as in MTLoRA and DiTASK.
    """
    if not context.train or rate == 0.0:
        return x
    examples = x.shape[1]
    draw = [jax.random.bernoulli(context.key_for(f"{purpose}/drop_path", s), 1 - rate, (examples,)) for s in streams]
    keep = jnp.stack(draw).reshape((len(streams), examples) + (1,) * (x.ndim - 2))
    return x * (keep.astype(x.dtype) / jnp.asarray(1 - rate, x.dtype))
