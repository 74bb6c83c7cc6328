"""The linear classifier of fine-tuning benchmarks: one class per image from the backbone's last features."""

from collections.abc import Sequence

import jax

from ditask_jax.heads.head_registry import Head, HeadOptions
from ditask_jax.nn.context import Context, Scope
from ditask_jax.nn.linear import Dense
from ditask_jax.nn.norm import LayerNorm
from ditask_jax.numerics import widened


class LinearHead(Head):
    """LayerNorm, mean over positions and one dense layer, on the last map.

    Of a backbone with a class token that is the token, a map of one position.

    Shapes: a list of one `[B, h, w, channels]` to `[B, outputs]`, float32.
    """

    is_map = False

    def __init__(self, channels: Sequence[int], outputs: int, scope: Scope, options: HeadOptions):
        del options  # it has none
        self.norm = LayerNorm(channels[-1], scope / "norm")
        self.classify = Dense(channels[-1], outputs, scope / "classify")

    def __call__(self, maps: Sequence[jax.Array], context: Context) -> jax.Array:
        del context  # a single small product: always float32
        return self.classify(self.norm(widened(maps[-1])).mean((1, 2)))
