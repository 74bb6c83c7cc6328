"""The factored product `((x @ U) * s) @ V` with a backward pass of its own.

What its gradient needs is one array: the coordinates `x @ U`. Scales are multiplied into whichever is smaller, tokens
or the factor behind them, and the backward pass has one product with `V` for the scales' gradient and the input's.
"""

import jax
import jax.numpy as jnp

from ditask_jax.nn.product import fan_out_product
from ditask_jax.precision import widened


@jax.custom_vjp
def factored_product(x: jax.Array, left: jax.Array, scale: jax.Array, right: jax.Array) -> jax.Array:
    """`((x @ left) * scale) @ right` for every stream; a single input or a single scale serves all streams.

    Differentiable in `x` and `scale`. The factors are constants: no gradient reaches them.

    Shapes: x `[S, ..., in]`; left `[P, in, R]`; scale `[S', P, R]`; right `[P, R, out/P]`; to `[max(S, S'), ..., out]`.

    >>> factored_product(jnp.ones((1, 5, 2)), jnp.ones((1, 2, 2)), jnp.ones((3, 1, 2)), jnp.ones((1, 2, 4))).shape
    (3, 5, 4)
    """
    return _forward(x, left, scale, right)[0]


def _forward(x, left, scale, right):
    streams, rows = x.shape[0], x.shape[1:-1]
    tokens = x.reshape(streams, -1, x.shape[-1])
    coordinates = tuple(tokens @ factor for factor in left)
    found = [_scaled_product(c, scale[:, p], right[p]) for p, c in enumerate(coordinates)]
    out = found[0] if len(found) == 1 else jnp.concatenate(found, axis=-1)
    return out.reshape(out.shape[0], *rows, -1), (coordinates, left, scale, right, rows)


def _backward(kept, gradient):
    coordinates, left, scale, right, rows = kept
    streams, tokens, _ = coordinates[0].shape
    leaving, width = gradient.shape[0], right.shape[-1]
    gradient = gradient.reshape(leaving, tokens, -1)
    towards_scale, towards_x = [], 0
    for p, inner in enumerate(coordinates):
        own = gradient if len(coordinates) == 1 else gradient[..., p * width : (p + 1) * width]
        returned = own @ right[p].T
        towards_scale.append(_scale_gradient(inner, returned, scale.shape[0]))
        if leaving == streams:
            found = _scaled_product(returned, scale[:, p], left[p].T)
        else:
            # Term by term: one pass over all streams, where a sum over the leading axis would be several on CPUs.
            factors = scale[:, p].astype(returned.dtype)
            found = sum(returned[s] * factors[s].reshape(1, -1) for s in range(leaving)) @ left[p].T
        towards_x = towards_x + found.reshape(streams, *rows, -1)
    return towards_x, None, jnp.stack(towards_scale, axis=1).astype(scale.dtype), None


factored_product.defvjp(_forward, _backward)


def _scaled_product(x: jax.Array, scale: jax.Array, factor: jax.Array) -> jax.Array:
    """`(x * scale) @ factor`: `[S, N, R]`, `[S', R]`, `[R, out]` to `[max(S, S'), N, out]`."""
    scale = scale.astype(x.dtype)
    if x.shape[1] < factor.shape[1]:
        return (x * scale[:, None]) @ factor
    if scale.shape[0] == 1:
        return x @ (scale[0][:, None] * factor)
    kernels = scale[:, :, None] * factor[None]
    if x.shape[0] == 1:
        return fan_out_product(x[0], kernels)
    return jnp.einsum("snr,sro->sno", x, kernels)


def _scale_gradient(coordinates: jax.Array, returned: jax.Array, scales: int) -> jax.Array:
    """Sums of products over tokens, and over streams that share a scale: to `[S', R]`, in float32 or wider."""
    # Stream by stream: broadcast into a joint sum, a single input would be read in strides on CPUs.
    inputs = [coordinates[s % coordinates.shape[0]] for s in range(returned.shape[0])]
    sums = [jnp.sum(widened(c) * widened(g), axis=0) for c, g in zip(inputs, returned, strict=True)]
    return jnp.stack([sum(sums)] if scales == 1 else sums)
