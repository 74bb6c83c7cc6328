"""Scaled dot-product attention over the stream axis."""

import jax
import jax.numpy as jnp
from einops import rearrange

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
    scale = jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
    logits = widened(jnp.einsum("sbnqd,sbnkd->sbnqk", q * scale, k))
    if bias is not None:
        logits = logits + bias
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return rearrange(jnp.einsum("sbnqk,sbnkd->sbnqd", weights, v), "s b n l d -> s b l (n d)")
