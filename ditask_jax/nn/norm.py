"""LayerNorm and BatchNorm with float32 statistics, whatever dtype flows through, and LayerScale."""

import jax
import jax.numpy as jnp
from flax import nnx

from ditask_jax.nn.context import Context, Scope
from ditask_jax.nn.custom_vjp import custom_vjp
from ditask_jax.nn.state import Statistic
from ditask_jax.numerics import by_backend, fusion_barrier, widened


def _per_channel(vector: jax.Array, ndim: int) -> jax.Array:
    return vector.reshape((1,) * (ndim - 1) + (-1,))


def _normalise(x, scale, bias, epsilon):
    wide = widened(x)
    mean = wide.mean(-1, keepdims=True)
    centred = wide - mean
    # Apart: fused with what follows, the reduction would write this number as often as the row is long, and that array
    # would be kept for the backward pass.
    spread = jax.lax.rsqrt(fusion_barrier(jnp.mean(centred * centred, -1, keepdims=True)) + epsilon)
    out = centred * spread * _per_channel(scale, x.ndim) + _per_channel(bias, x.ndim)
    return out.astype(x.dtype), (x, mean, spread, scale)


def _normalise_backward(epsilon, kept, gradient):
    x, mean, spread, scale = kept
    normed = (x.astype(mean.dtype) - mean) * spread
    gradient = gradient.astype(mean.dtype)
    rows = tuple(range(x.ndim - 1))
    scaled = gradient * _per_channel(scale, x.ndim)
    towards_x = spread * (scaled - _row_means(gradient, scale) - normed * _row_means(gradient * normed, scale))
    return towards_x.astype(x.dtype), jnp.sum(gradient * normed, rows), jnp.sum(gradient, rows)


def _row_means(x: jax.Array, scale: jax.Array) -> jax.Array:
    """Means of `x * scale` over the last axis, kept as an axis of 1.

    On CPUs as a product with a column: between the other passes of this backward rule, XLA's reductions there take
    twice as long as the whole rule does so.
    """

    def product(x, scale):
        column = (scale / x.shape[-1]).astype(x.dtype)[:, None]
        return (x.reshape(-1, x.shape[-1]) @ column).reshape(*x.shape[:-1], 1)

    def mean(x, scale):
        return (x * _per_channel(scale, x.ndim)).mean(-1, keepdims=True)

    return by_backend(x, scale, cpu=product, elsewhere=mean)


@custom_vjp(_normalise, _normalise_backward, static=(3,))
def normalise(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float = 1e-5) -> jax.Array:
    """Layer normalisation of the last axis: statistics in float32 or wider, the result in the dtype of `x`.

    Its backward pass is written out: it keeps `x` and two numbers per row, and reads each array once.

    >>> [round(float(v), 3) for v in normalise(jnp.array([1.0, 3.0]), jnp.ones(2), jnp.zeros(2))]
    [-1.0, 1.0]
    """
    return _normalise(x, scale, bias, epsilon)[0]


class LayerNorm(nnx.Module):
    """Normalises the last axis; statistics in float32, output in the input's dtype.

    `flax.nnx.LayerNorm` would return float32 for bfloat16 inputs with float32 parameters.
    """

    def __init__(self, channels: int, scope: Scope, epsilon: float = 1e-5):
        self.epsilon = epsilon
        self.scale = nnx.Param(scope.ones((channels,)), decay=False)
        self.bias = nnx.Param(scope.zeros((channels,)), decay=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        return normalise(x, self.scale[...], self.bias[...], self.epsilon)


class BatchNorm(nnx.Module):
    """PyTorch's BatchNorm: biased variance to normalise, unbiased variance in the running statistic, momentum 0.1.

    Statistics are those of the global batch, of which a device adds up its rows and then the devices theirs.
    """

    def __init__(self, channels: int, scope: Scope, epsilon: float = 1e-5, momentum: float = 0.1):
        self.epsilon = epsilon
        self.momentum = momentum
        self.scale = nnx.Param(scope.ones((channels,)), decay=False)
        self.bias = nnx.Param(scope.zeros((channels,)), decay=False)
        self.mean = Statistic(scope.zeros((channels,)))
        self.variance = Statistic(scope.ones((channels,)))

    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        wide = widened(x)
        if context.train:
            axes = tuple(range(x.ndim - 1))
            mean = context.mean_over_devices(wide.mean(axes))
            centred = wide - _per_channel(mean, x.ndim)
            variance = context.mean_over_devices(jnp.mean(centred * centred, axes))
            count = x.size // x.shape[-1] * context.devices
            unbiased = variance * (count / max(count - 1, 1))
            # The running statistics carry no gradient, and their update must not hold the forward pass's activations.
            new_mean, new_variance = jax.lax.stop_gradient((mean, unbiased))
            self.mean[...] = (1 - self.momentum) * self.mean[...] + self.momentum * new_mean
            self.variance[...] = (1 - self.momentum) * self.variance[...] + self.momentum * new_variance
        else:
            mean, variance = self.mean[...], self.variance[...]
            centred = wide - _per_channel(mean, x.ndim)
        scale = self.scale[...] * jax.lax.rsqrt(variance + self.epsilon)
        out = centred * _per_channel(scale, x.ndim) + _per_channel(self.bias[...], x.ndim)
        return out.astype(x.dtype)


class LayerScale(nnx.Module):
    """A factor per channel of a residual branch: `[..., C]` to the same.

    Args:
      value: of all factors at the start.

    References: Touvron et al., "Going deeper with Image Transformers", ICCV 2021.
    """

    def __init__(self, channels: int, value: float, scope: Scope):
        self.gamma = nnx.Param(scope.full((channels,), value), decay=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        return (widened(x) * _per_channel(self.gamma[...], x.ndim)).astype(x.dtype)
