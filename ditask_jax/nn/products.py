"""Products and GELU with backward passes that keep and read as little as possible."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from ditask_jax.nn.custom_vjp import custom_vjp
from ditask_jax.numerics import by_backend, fusion_barrier, widened

# `x @ kernel` over the last axis, with a backward pass that the backends run well.


def _forward(x, kernel, dtype):
    return jnp.matmul(x, kernel, preferred_element_type=dtype), (x, kernel)


def _backward(dtype, kept, gradient):
    x, kernel = kept
    gradient = gradient.astype(x.dtype)
    # Apart: where a kernel is made of singular values, XLA would take this product and the next into their reduction.
    return gradient @ kernel.T, fusion_barrier(token_product(x, gradient))


@custom_vjp(_forward, _backward, static=(2,))
def product(x: jax.Array, kernel: jax.Array, dtype: jnp.dtype | None = None) -> jax.Array:
    """`x @ kernel` for tokens of any number of leading axes, in their dtype or in a wider one.

    A wider one is for sums: a small change that is added to a product rounded to bfloat16 is lost, where it is less
    than half a step of that dtype.

    Axes are never merged here, so that a batch spread over devices stays where it is.

    Shapes: x `[..., in]`; kernel `[in, out]`; to `[..., out]`.

    >>> product(jnp.ones((5, 3, 2)), jnp.ones((2, 4))).shape
    (5, 3, 4)
    """
    return _forward(x, kernel, dtype)[0]


def fan_out_product(x: jax.Array, kernels: jax.Array, dtype: jnp.dtype | None = None) -> jax.Array:
    """One input times the kernel of every stream, as one product with the kernels side by side.

    Left to einsum, the tokens' axis would come last, and whatever reads the result would do so in strides.

    Shapes: x `[..., in]`; kernels `[S, in, out]`; to `[S, ..., out]`.

    >>> fan_out_product(jnp.ones((7, 2)), jnp.ones((3, 2, 4))).shape
    (3, 7, 4)
    """
    joined = jnp.moveaxis(kernels, 0, 1)
    found = product(x, joined.reshape(joined.shape[0], -1), dtype)
    return jnp.moveaxis(found.reshape(*x.shape[:-1], *joined.shape[1:]), -2, 0)


def token_product(x: jax.Array, y: jax.Array) -> jax.Array:
    """Sums of outer products over all tokens: the gradient of a kernel.

    On CPUs the narrower side is turned round first: as a plain product the rest runs a third faster than XLA's product
    of two columns, which turns the second one round or computes on one core.

    Shapes: `[..., in]` and `[..., out]` to `[in, out]`.

    >>> token_product(jnp.ones((5, 3, 2)), jnp.ones((5, 3, 4))).tolist()
    [[15.0, 15.0, 15.0, 15.0], [15.0, 15.0, 15.0, 15.0]]
    """
    axes = tuple(range(x.ndim - 1))

    def turned(x, y):
        column = lax.optimization_barrier(jnp.moveaxis(x, -1, 0))
        return lax.dot_general(column, y, ((tuple(axis + 1 for axis in axes), axes), ((), ())))

    def on_cpu(x, y):
        return turned(x, y) if x.shape[-1] <= y.shape[-1] else turned(y, x).T

    def elsewhere(x, y):
        return lax.dot_general(x, y, ((axes, axes), ((), ())))

    return by_backend(x, y, cpu=on_cpu, elsewhere=elsewhere)


# The exact GELU with a backward pass of one read: what it keeps is its input, and nothing else.


_ROOT_HALF = 2**-0.5
_DENSITY = (2 * math.pi) ** -0.5


def _phi(x: jax.Array) -> jax.Array:
    return 0.5 + 0.5 * jax.lax.erf(x * _ROOT_HALF)


def _gelu_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    wide = widened(x)
    return (wide * _phi(wide)).astype(x.dtype), x


def _gelu_backward(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    # Without the barrier XLA would find that erf was computed before, and keep its result as well as x.
    wide = widened(jax.lax.optimization_barrier(x))
    slope = _phi(wide) + wide * _DENSITY * jnp.exp(-0.5 * wide * wide)
    return ((widened(gradient) * slope).astype(x.dtype),)


@custom_vjp(_gelu_forward, _gelu_backward)
def gelu(x: jax.Array) -> jax.Array:
    """`x Phi(x)` with the normal distribution's Phi by erf, computed in float32 or wider, in the dtype of `x`.

    `jax.nn.gelu(approximate=False)` goes by erfc, whose gradient keeps several arrays of the input's size and costs
    twice as much on CPUs; erf's error, 1e-7 of |x|, is float32's own.

    >>> [round(float(v), 4) for v in gelu(jnp.array([-1.0, 0.0, 1.0]))]
    [-0.1587, 0.0, 0.8413]
    """
    return _gelu_forward(x)[0]


def gated_silu(x: jax.Array) -> jax.Array:
    """`silu(gate) * value` of a packed product `[..., gate value]`, in float32 or wider, in the dtype of `x`.

    >>> [round(float(v), 4) for v in gated_silu(jnp.array([1.0, -1.0, 2.0, 3.0]))]
    [1.4621, -0.8068]
    """
    gate, value = jnp.split(widened(x), 2, axis=-1)
    return (jax.nn.silu(gate) * value).astype(x.dtype)
