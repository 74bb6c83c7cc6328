"""Convolutions over maps with any number of leading axes (streams, examples)."""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import lax

from ditask_jax.nn.context import Context, Scope
from ditask_jax.nn.norm import LayerNorm
from ditask_jax.nn.products import product
from ditask_jax.numerics import widened


def convolved_side(side: int, size: int, stride: int, padding: int) -> int:
    """Length of a map's side behind a convolution: rows that do not fill a window are dropped, as in PyTorch.

    >>> convolved_side(224, 7, 4, 3), convolved_side(57, 2, 2, 0)
    (56, 28)
    """
    return max((side + 2 * padding - size) // stride + 1, 0)


class Conv(nnx.Module):
    """A convolution with zero padding: `[..., H, W, in]` to `[..., h, w, out]`, kernel `[size, size, in, out]`."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int, padding: int, scope: Scope):
        self.size, self.stride, self.padding = size, stride, padding
        self.kernel = nnx.Param(scope.fan_in_uniform("kernel", (size, size, inputs, outputs)), decay=True)
        self.bias = nnx.Param(scope.zeros((outputs,)), decay=False)

    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        x, kernel = x.astype(context.dtype), self.kernel[...].astype(context.dtype)
        if self.stride == self.size and not self.padding:
            out = product(_patches(x, self.size), rearrange(kernel, "i j c o -> (i j c) o"), context.wide)
        else:
            maps = x.reshape((-1, *x.shape[-3:]))
            edges = ((self.padding, self.padding),) * 2
            strides = (self.stride, self.stride)
            axes = ("NHWC", "HWIO", "NHWC")
            out = lax.conv_general_dilated(
                maps, kernel, strides, edges, dimension_numbers=axes, preferred_element_type=context.wide
            )
            out = out.reshape((*x.shape[:-3], *out.shape[1:]))
        # Rounded behind the sum: what training does to a bias may be less than a step of a narrow dtype.
        out = out + self.bias[...].astype(context.wide).reshape((1,) * (out.ndim - 1) + (-1,))
        return out.astype(context.dtype)


def _patches(x: jax.Array, size: int) -> jax.Array:
    """`[..., H, W, C]` to non-overlapping windows `[..., h, w, size * size * C]`; a remainder is cut off."""
    rows, columns = x.shape[-3] // size * size, x.shape[-2] // size * size
    return rearrange(x[..., :rows, :columns, :], "... (h i) (w j) c -> ... h w (i j c)", i=size, j=size)


class PatchEmbed(Conv):
    """A convolution that cuts a map into patches, and LayerNorm behind it where there is one."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        scope: Scope,
        *,
        stride: int | None = None,
        padding: int = 0,
        norm: bool = True,
    ):
        super().__init__(inputs, outputs, size, stride or size, padding, scope)
        if norm:
            self.norm = LayerNorm(outputs, scope / "norm")

    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        out = super().__call__(x, context)
        return self.norm(out) if hasattr(self, "norm") else out


class DepthwiseConv(nnx.Module):
    """Every channel by a window of its own, size kept: `[..., H, W, C]` to the same; kernel `[size, size, 1, C]`.

    Written as shifted products, which XLA fuses into one pass: its grouped convolutions are slow on CPUs.
    """

    def __init__(self, channels: int, size: int, scope: Scope):
        self.kernel = nnx.Param(scope.fan_in_uniform("kernel", (size, size, 1, channels)), decay=True)
        self.bias = nnx.Param(scope.zeros((channels,)), decay=False)

    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        height, width = x.shape[-3:-1]
        per_channel = lambda vector: vector.reshape((1,) * (x.ndim - 1) + (-1,))
        kernel = self.kernel[...]
        size = kernel.shape[0]
        edges = [(0, 0)] * (x.ndim - 3) + [(size // 2, size // 2)] * 2 + [(0, 0)]
        padded = jnp.pad(x.astype(context.dtype), edges)
        # Nine terms are summed in float32, whatever dtype flows through.
        out = per_channel(self.bias[...])
        for i in range(size):
            for j in range(size):
                window = padded[..., i : i + height, j : j + width, :]
                out = out + widened(window) * per_channel(kernel[i, j, 0])
        return out.astype(context.dtype)
