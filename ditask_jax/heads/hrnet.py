"""The high-resolution head of MTLoRA and DiTASK, with its per-task necks."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from ditask_jax.nn.context import Context
from ditask_jax.nn.norm import BatchNorm
from ditask_jax.nn.product import product
from ditask_jax.nn.resize import resize_bilinear
from ditask_jax.nn.scope import Scope
from ditask_jax.precision import widened


class Pointwise(nnx.Module):
    """A 1x1 convolution on `[B, H, W, C]`, started as PyTorch starts convolutions."""

    def __init__(self, inputs: int, outputs: int, scope: Scope, use_bias: bool = True):
        self.kernel = nnx.Param(scope.fan_in_uniform("kernel", (inputs, outputs)))
        if use_bias:
            self.bias = nnx.Param(scope.uniform("bias", (outputs,), inputs**-0.5))

    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        y = product(x.astype(context.dtype), self.kernel[...].astype(context.dtype))
        if hasattr(self, "bias"):
            y = y + self.bias[...].astype(context.dtype).reshape(1, 1, 1, -1)
        return y


class Neck(nnx.Module):
    """Per-stage bias-free 1x1 convolutions of one task: the originals' downsampler."""

    def __init__(self, channels: Sequence[int], widths: Sequence[int], scope: Scope):
        pairs = enumerate(zip(channels, widths, strict=True))
        self.convs = nnx.List([Pointwise(c, w, scope / stage, use_bias=False) for stage, (c, w) in pairs])

    def __call__(self, features: Sequence[jax.Array], context: Context) -> list[jax.Array]:
        return [conv(x, context) for conv, x in zip(self.convs, features, strict=True)]


class HrnetHead(nnx.Module):
    """Upsamples all maps to the first one's size, joins them and classifies every position.

    `concat -> 1x1 (4x wider) -> BatchNorm -> ReLU -> 1x1 -> outputs`.

    Shapes: a list of `[B, h_i, w_i, width_i]` to `[B, h_0, w_0, outputs]`, float32.
    """

    has_neck = True
    is_map = True

    def __init__(self, widths: Sequence[int], outputs: int, scope: Scope):
        joined = sum(widths)
        self.widen = Pointwise(joined, 4 * joined, scope / "widen")
        self.norm = BatchNorm(4 * joined, scope / "norm")
        self.classify = Pointwise(4 * joined, outputs, scope / "classify")

    def __call__(self, maps: Sequence[jax.Array], context: Context) -> jax.Array:
        size = maps[0].shape[1:3]
        joined = jnp.concatenate([resize_bilinear(m, size) for m in maps], axis=-1)
        hidden = jax.nn.relu(self.norm(self.widen(joined, context), context))
        return widened(self.classify(hidden, context))
