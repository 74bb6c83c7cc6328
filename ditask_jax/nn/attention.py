"""Scaled dot-product attention over the stream axis, with a backward pass that keeps the weights and nothing else."""

import jax
import jax.numpy as jnp
from einops import rearrange

from ditask_jax.nn.custom_vjp import custom_vjp
from ditask_jax.precision import widened


def attend(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """`softmax(q k^T / sqrt(D) + bias) v`, heads joined; the softmax in float32.

    Shapes: `q [S, B, N, L, D]`; `k`, `v [S, B, N, M, D]`; `bias` broadcasts to `[S, B, N, L, M]`; to `[S, B, L, N*D]`.
    One stream of either side serves all streams of the other.

    >>> x = jnp.ones((1, 2, 3, 5, 4))
    >>> attend(x, x[..., :2, :], x[..., :2, :]).shape
    (1, 2, 5, 12)
    """
    streams = max(q.shape[0], k.shape[0])
    q, k, v = (jnp.broadcast_to(part, (streams, *part.shape[1:])) for part in (q, k, v))
    return rearrange(_attend(q, k, v, bias), "s b n l d -> s b l (n d)")


def _forward(q, k, v, bias):
    logits = widened(jnp.einsum("sbnqd,sbnkd->sbnqk", _scaled(q), k))
    if bias is not None:
        logits = logits + bias
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("sbnqk,sbnkd->sbnqd", weights, v), (q, k, v, bias, weights)


def _backward(kept, gradient):
    q, k, v, bias, weights = kept
    towards_v = jnp.einsum("sbnqk,sbnqd->sbnkd", weights, gradient)
    towards_weights = widened(jnp.einsum("sbnqd,sbnkd->sbnqk", gradient, v))
    wide = widened(weights)
    towards_logits = wide * (towards_weights - jnp.sum(wide * towards_weights, axis=-1, keepdims=True))
    towards_bias = None if bias is None else _summed_like(towards_logits, bias)
    narrow = towards_logits.astype(q.dtype)
    towards_q = _scaled(jnp.einsum("sbnqk,sbnkd->sbnqd", narrow, k))
    towards_k = jnp.einsum("sbnqk,sbnqd->sbnkd", narrow, _scaled(q))
    return towards_q, towards_k, towards_v, towards_bias


def _scaled(x):
    """By `1 / sqrt(D)`, before it is rounded: that factor itself need not be a number of a narrow dtype."""
    return (widened(x) * x.shape[-1] ** -0.5).astype(x.dtype)


@custom_vjp(_forward, _backward)
def _attend(q, k, v, bias):
    return _forward(q, k, v, bias)[0]


def _summed_like(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Sums over the axes along which a bias was broadcast."""
    axes = tuple(axis for axis, size in enumerate(bias.shape) if size == 1 and x.shape[axis] != 1)
    return jnp.sum(x, axes, keepdims=True).astype(bias.dtype)


def _split(qkv, heads):
    q, k, v = (rearrange(part, "s b l (n d) -> s b n l d", n=heads) for part in jnp.split(qkv, 3, axis=-1))
    return q, k, v


def _split_backward(heads, _, gradients):
    # Joined once; the gradient of a slice would be padded with zeros, and three such arrays added.
    return (jnp.concatenate([rearrange(part, "s b n l d -> s b l (n d)") for part in gradients], axis=-1),)


@custom_vjp(lambda qkv, heads: (_split(qkv, heads), None), _split_backward, static=(1,))
def split_heads(qkv: jax.Array, heads: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries, keys and values `[S, B, N, L, D]` of a packed product `[S, B, L, 3*N*D]`.

    >>> [part.shape for part in split_heads(jnp.ones((1, 2, 5, 24)), 4)]
    [(1, 2, 4, 5, 2), (1, 2, 4, 5, 2), (1, 2, 4, 5, 2)]
    """
    return _split(qkv, heads)
