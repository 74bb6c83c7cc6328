"""The linear classifier of fine-tuning benchmarks: one class per picture from the backbone's last features."""

from collections.abc import Sequence

import jax
from flax import nnx

from ditask_jax.nn.context import Context, Scope
from ditask_jax.nn.linear import Dense
from ditask_jax.nn.norm import LayerNorm
from ditask_jax.numerics import widened


class LinearHead(nnx.Module):
    """LayerNorm, mean over positions and one dense layer, on the last tap alone.

    A backbone with a class token gives that token as its last tap, a map of one position.

    Shapes: a list of `[B, h_i, w_i, channels_i]` to `[B, outputs]`, float32.
    """

    has_neck = False
    is_map = False

    def __init__(self, channels: Sequence[int], outputs: int, scope: Scope):
        self.norm = LayerNorm(channels[-1], scope / "norm")
        self.classify = Dense(channels[-1], outputs, scope / "classify")

    def __call__(self, maps: Sequence[jax.Array], context: Context) -> jax.Array:
        del context  # a single small product: always float32
        return self.classify(self.norm(widened(maps[-1])).mean((1, 2)))
