"""Dropout and drop path over the stream axis, from a counter-based generator.

A bit pattern is a hash of (key, position): no state, no loop, the same on one device and on eight. `jax.random`'s
Threefry would do as well, but every draw of it is a program of its own: in a small model with dropout in each dense
layer it took most of the compile time, and on CPUs most of the forward pass.
"""

import jax
import jax.numpy as jnp
from jax import lax

from ditask_jax.nn.context import Context
from ditask_jax.nn.custom_vjp import custom_vjp
from ditask_jax.numerics import widened


def _mix(x: jax.Array) -> jax.Array:
    """Wellons' `lowbias32`: every input bit flips every output bit with probability one half, almost exactly."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def random_bits(key: jax.Array, shape: tuple[int, ...], rows: jax.Array | None = None, axis: int = 0) -> jax.Array:
    """Random uint32 of a shape from a key of two uint32.

    With `rows`, int32 `[B]`, the axis holds B examples side by side (of one or several positions each) that stand at
    these places of a larger array: they get what they would have got there.

    >>> bits = random_bits(jnp.array([1, 2], jnp.uint32), (4,))
    >>> bits.dtype.name, len(set(bits.tolist()))
    ('uint32', 4)
    >>> part = random_bits(jnp.array([1, 2], jnp.uint32), (2,), jnp.array([1, 3]))
    >>> part.tolist() == bits[1::2].tolist()
    True
    """
    position, stride = jnp.zeros(shape, jnp.uint32), 1
    for here in reversed(range(len(shape))):
        if rows is None or here != axis:
            place = lax.broadcasted_iota(jnp.uint32, shape, here)
        else:
            each = shape[here] // rows.size
            places = rows.astype(jnp.uint32).reshape(-1, 1) * each + jnp.arange(each, dtype=jnp.uint32).reshape(1, -1)
            place = lax.broadcast_in_dim(places.reshape(-1), shape, (here,))
        position = position + place * jnp.uint32(stride % 2**32)
        stride *= shape[here]
    return _mix(_mix(position ^ key[0]) + key[1])


def _kept(context: Context, purpose: str, stream: str, rate: float, shape: tuple[int, ...], axis: int) -> jax.Array:
    bits = random_bits(context.key_for(purpose, stream), shape, context.rows, axis)
    return bits >= jnp.uint32(round(rate * 2**32))


def dropout(x: jax.Array, rate: float, context: Context, purpose: str, stream: str = "shared") -> jax.Array:
    """Zeroes entries of one stream with probability `rate` and rescales the rest.

    Shapes: `[1, B, ..., C]` to the same.
    """
    if not context.train or rate == 0.0:
        return x
    keep = _kept(context, f"{purpose}/dropout", stream, rate, x.shape, 1)
    return _thin(x, keep, rate)


def _thin(x: jax.Array, keep: jax.Array, rate: float) -> jax.Array:
    # Scaled before it is rounded: 1 - rate itself need not be a number of a narrow dtype.
    return jnp.where(keep, (widened(x) / (1 - rate)).astype(x.dtype), jnp.zeros_like(x))


def drop_shared(
    x: jax.Array, rate: float, context: Context, purpose: str, streams: tuple[str, ...], shared: str = "shared"
) -> jax.Array:
    """Dropout of the shared stream, which leads where it is there; the others pass.

    Shapes: `[S, B, ..., C]` to the same, `S == len(streams)`.
    """
    if not streams or streams[0] != shared or not context.train or rate == 0.0:
        return x
    if len(streams) == 1:
        return dropout(x, rate, context, purpose)
    keep = _kept(context, f"{purpose}/dropout", shared, rate, (1, *x.shape[1:]), 1)
    return _thin_first(x, keep, rate)


def _thin_row(x: jax.Array, keep: jax.Array, rate: float) -> jax.Array:
    is_first = lax.broadcasted_iota(jnp.int32, x.shape, 0) == 0
    return jnp.where(is_first, _thin(x, jnp.broadcast_to(keep, x.shape), rate), x)


@custom_vjp(
    lambda x, keep, rate: (_thin_row(x, keep, rate), keep),
    lambda rate, keep, gradient: (_thin_row(gradient, keep, rate), None),
    static=(2,),
)
def _thin_first(x: jax.Array, keep: jax.Array, rate: float) -> jax.Array:
    """Dropout of the first row alone; linear in x, so it is its own backward pass.

    Written as a choice for every entry, which is computed together with what stands before it: taking the row out and
    putting it back would be passes of their own over all rows.
    """
    return _thin_row(x, keep, rate)


def drop_path(x: jax.Array, rate: float, context: Context, purpose: str, streams: tuple[str, ...]) -> jax.Array:
    """Drops the residual branch of whole examples, drawn for every stream on its own (stochastic depth).

    Shapes: `[S, B, ..., C]` to the same, `S == len(streams)`.

    References: Huang et al. 2016; independent draws for the shared and each task path as in MTLoRA and DiTASK.
    """
    if not context.train or rate == 0.0:
        return x
    examples = x.shape[1]
    keep = jnp.stack([_kept(context, f"{purpose}/drop_path", stream, rate, (examples,), 0) for stream in streams])
    keep = keep.reshape((len(streams), examples) + (1,) * (x.ndim - 2))
    wide = widened(x)
    return (wide * (keep.astype(wide.dtype) / (1 - rate))).astype(x.dtype)
