"""The two ways of computing an adapted product, and which is cheaper."""

import jax
import jax.numpy as jnp

from ditask_jax.errors import check_known
from ditask_jax.nn.custom_vjp import custom_vjp
from ditask_jax.nn.products import fan_out_product
from ditask_jax.numerics import widened

# How an adapted product is computed, and the rule that picks the cheapest way.
#
# *Materialised* builds `W + U diag(delta) V` for every stream and multiplies once; its backward pass has a third
# product, the weight gradient. *Factored* multiplies by `U`, scales by the deformed singular values and multiplies by
# `V`: no weight gradient, and streams that leave one input share the first product.


# "merged" means plain kernels: evaluation always uses them, and training, which cannot, resolves it like "auto".
EXECUTIONS = ("auto", "materialised", "factored", "merged")


def multiply_adds(
    execution: str, shape: tuple[int, int], parts: int, rank: int, streams_in: int, streams_out: int, rows: int
) -> int:
    """Multiply-adds of one layer, forward and backward (towards the input and theta), for `rows` tokens per stream.

    Per token C -> 4C this is 12 C^2 materialised and 10 C^2 factored; square, 3 C^2 and 4 C^2 (DESIGN of the package:
    a frozen product costs 8 C^2 and 2 C^2).

    >>> multiply_adds("factored", (8, 32), 1, 8, 1, 1, 1) / 8**2
    10.0
    """
    inputs, outputs = shape
    if execution == "factored":
        return 2 * rows * (streams_in * inputs * parts * rank + streams_out * rank * outputs)
    build = 2 * streams_out * inputs * rank * outputs
    return 3 * rows * streams_out * inputs * outputs + build


def choose_execution(
    asked: str, shape: tuple[int, int], parts: int, rank: int, streams_in: int, streams_out: int, rows: int
) -> str:
    """Resolves "auto" (and "merged") to the way with fewer multiply-adds; the two ways pass through after a check.

    >>> choose_execution("auto", (96, 96), 1, 96, 1, 1, 12544), choose_execution("auto", (96, 384), 1, 96, 1, 1, 12544)
    ('materialised', 'factored')
    """
    check_known("config: method.execution", asked, EXECUTIONS)
    if asked in ("materialised", "factored"):
        return asked
    cost = lambda way: multiply_adds(way, shape, parts, rank, streams_in, streams_out, rows)
    return min(("factored", "materialised"), key=cost)


# The factored product `((x @ U) * (values + change)) @ V` with a backward pass of its own.
#
# What its gradient needs is one array: the coordinates `x @ U`. Scales are multiplied into whichever is smaller, tokens
# or the factor behind them, and the backward pass has one product with `V` for the scales' gradient and the input's.
#
# In a narrow dtype the change has a product of its own. Rounded together with what it changes, `values + change` would
# move in steps of 0.4 to 0.8 % in bfloat16, and what training does to a spectrum is often less.


def _forward(x, left, values, change, right):
    streams, rows = x.shape[0], x.shape[1:-1]
    tokens = x.reshape(streams, -1, x.shape[-1])
    coordinates = tuple(tokens @ factor for factor in left)
    found = [_moved_product(c, values[p], change[:, p], right[p]) for p, c in enumerate(coordinates)]
    out = found[0] if len(found) == 1 else jnp.concatenate(found, axis=-1)
    return out.reshape(out.shape[0], *rows, -1), (coordinates, left, values, change, right, rows)


def _backward(kept, gradient):
    coordinates, left, values, change, right, rows = kept
    streams, tokens, _ = coordinates[0].shape
    leaving, width = gradient.shape[0], right.shape[-1]
    gradient = gradient.reshape(leaving, tokens, -1).astype(coordinates[0].dtype)
    scale = values[None] + change
    towards_change, towards_x = [], 0
    for p, inner in enumerate(coordinates):
        own = gradient if len(coordinates) == 1 else gradient[..., p * width : (p + 1) * width]
        returned = own @ right[p].T
        towards_change.append(_scale_gradient(inner, returned, scale.shape[0]))
        if leaving == streams:
            found = _scaled_product(returned, scale[:, p], left[p].T)
        else:
            # Term by term: one pass over all streams, where a sum over the leading axis would be several on CPUs.
            factors = scale[:, p]
            total = sum(widened(returned[s]) * factors[s].reshape(1, -1) for s in range(leaving))
            found = total.astype(returned.dtype) @ left[p].T
        towards_x = towards_x + found.reshape(streams, *rows, -1)
    return towards_x, None, None, jnp.stack(towards_change, axis=1).astype(change.dtype), None


@custom_vjp(_forward, _backward)
def factored_product(
    x: jax.Array, left: jax.Array, values: jax.Array, change: jax.Array, right: jax.Array
) -> jax.Array:
    """`((x @ left) * (values + change)) @ right` for every stream; a single input or change serves all streams.

    Differentiable in `x` and `change`. The factors and the values are constants: no gradient reaches them. Values and
    change are float32 or wider, whatever the dtype of the rest, and so is the result, which the layer's bias is added
    to before it is rounded.

    Shapes: x `[S, ..., in]`; left `[P, in, R]`; values `[P, R]`; change `[S', P, R]`; right `[P, R, out/P]`; to
    `[max(S, S'), ..., out]`.

    >>> x, left, right = jnp.ones((1, 5, 2)), jnp.ones((1, 2, 2)), jnp.ones((1, 2, 4))
    >>> factored_product(x, left, jnp.ones((1, 2)), jnp.ones((3, 1, 2)), right).shape
    (3, 5, 4)
    """
    return _forward(x, left, values, change, right)[0]


def _moved_product(x: jax.Array, values: jax.Array, change: jax.Array, factor: jax.Array) -> jax.Array:
    """`(x * (values + change)) @ factor`: `[S, N, R]`, `[R]`, `[S', R]`, `[R, out]` to `[max(S, S'), N, out]`, wide."""
    if widened(x).dtype == x.dtype:
        return _scaled_product(x, values[None] + change, factor)
    # The unmoved part keeps float32's digits until the change is there, and the layer rounds that sum once. Rounded
    # before, it would lie on the narrow dtype's grid, where any change of less than half a step is lost.
    still = _scaled_product(x, values[None], factor, values.dtype)
    return still + _scaled_product(x, change, factor)


def _scaled_product(x: jax.Array, scale: jax.Array, factor: jax.Array, dtype: jnp.dtype | None = None) -> jax.Array:
    """`(x * scale) @ factor`: `[S, N, R]`, `[S', R]`, `[R, out]` to `[max(S, S'), N, out]`, in the dtype of `x`.

    Scaled in the scale's dtype and rounded once. With `dtype` the result has that one, where `S'` is 1.
    """
    if x.shape[1] < factor.shape[1]:
        scaled = (widened(x) * scale[:, None]).astype(x.dtype)
        return jnp.matmul(scaled, factor, preferred_element_type=dtype)
    kernels = (scale[:, :, None] * widened(factor)[None]).astype(x.dtype)
    if scale.shape[0] == 1:
        return jnp.matmul(x, kernels[0], preferred_element_type=dtype)
    if x.shape[0] == 1:
        return fan_out_product(x[0], kernels)
    return jnp.einsum("snr,sro->sno", x, kernels)


def _scale_gradient(coordinates: jax.Array, returned: jax.Array, scales: int) -> jax.Array:
    """Sums of products over tokens, and over streams that share a scale: to `[S', R]`, in float32 or wider."""
    # Stream by stream: broadcast into a joint sum, a single input would be read in strides on CPUs.
    inputs = [coordinates[s % coordinates.shape[0]] for s in range(returned.shape[0])]
    sums = [jnp.sum(widened(c) * widened(g), axis=0) for c, g in zip(inputs, returned, strict=True)]
    return jnp.stack([sum(sums)] if scales == 1 else sums)
