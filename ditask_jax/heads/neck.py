"""The neck of one task: 1x1 convolutions that narrow a backbone's maps before its head."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ditask_jax.nn.context import Context, Scope
from ditask_jax.nn.products import product
from ditask_jax.nn.resize import resize_bilinear
from ditask_jax.numerics import widened


class Pointwise(nnx.Module):
    """A 1x1 convolution on `[B, H, W, C]`, started as PyTorch starts convolutions."""

    def __init__(self, inputs: int, outputs: int, scope: Scope, use_bias: bool = True):
        self.kernel = nnx.Param(scope.fan_in_uniform("kernel", (inputs, outputs)), decay=True)
        if use_bias:
            self.bias = nnx.Param(scope.uniform("bias", (outputs,), inputs**-0.5), decay=False)

    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        return self.wide(x, context).astype(context.dtype)

    def wide(self, x: jax.Array, context: Context) -> jax.Array:
        """The same in float32 or wider: the sum is not rounded."""
        y = product(x.astype(context.dtype), self.kernel[...].astype(context.dtype), context.wide)
        return self._with_bias(y)

    def of_enlarged(self, maps: Sequence[jax.Array], size: tuple[int, int], context: Context) -> jax.Array:
        """The convolution of maps resized to one size and joined: `[B, h_i, w_i, inputs_i]` to `[B, *size, outputs]`.

        Resizing and convolution are linear and commute: small maps are convolved first where that is less work.
        """
        parts = jnp.split(self.kernel[...].astype(context.dtype), np.cumsum([m.shape[-1] for m in maps])[:-1])
        # By the size at which they are convolved: one product for each.
        joined: dict[tuple[int, int], list[tuple[jax.Array, jax.Array]]] = {}
        for m, part in zip(maps, parts, strict=True):
            m = m.astype(context.dtype)
            m = m if convolves_first(m.shape[1:], size) else resize_bilinear(m, size)
            joined.setdefault(m.shape[1:3], []).append((m, part))
        terms = []
        for place, pairs in joined.items():
            found, kernels = zip(*pairs, strict=True)
            term = product(jnp.concatenate(found, axis=-1), jnp.concatenate(kernels))
            # Resizing keeps constants, so the bias goes where adding it is the least work: into the smallest map.
            term = self._with_bias(widened(term)).astype(context.dtype) if place == min(joined) else term
            terms.append(resize_bilinear(term, size))
        return functools.reduce(jnp.add, terms)

    def _with_bias(self, y: jax.Array) -> jax.Array:
        return y + self.bias[...].reshape(1, 1, 1, -1) if hasattr(self, "bias") else y


def convolves_first(shape: tuple[int, int, int], size: tuple[int, int]) -> bool:
    """Whether `[h, w, channels]` costs less to convolve and then resize to `size` than the other way round.

    Counted in multiply-adds per output; narrow as they are, the maps themselves cost little to resize.

    >>> [convolves_first(shape, (56, 56)) for shape in ((56, 56, 18), (28, 28, 36), (14, 14, 72))]
    [False, False, True]
    """
    (height, width, channels), (tall, wide) = shape, size
    return width * height * channels + height * width * wide + height * tall * wide < tall * wide * channels


class Neck(nnx.Module):
    """Per-stage bias-free 1x1 convolutions of one task: the reference implementation's downsampler."""

    def __init__(self, channels: Sequence[int], widths: Sequence[int], scope: Scope):
        pairs = enumerate(zip(channels, widths, strict=True))
        self.convs = nnx.List([Pointwise(c, w, scope / stage, use_bias=False) for stage, (c, w) in pairs])

    def __call__(self, features: Sequence[jax.Array], context: Context) -> list[jax.Array]:
        return [conv(x, context) for conv, x in zip(self.convs, features, strict=True)]
