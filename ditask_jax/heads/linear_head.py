"""Linear heads: of fine-tuning benchmarks, from the last features, and of DINOv2's evaluations, for maps."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ditask_jax.heads.head_registry import Head, HeadOptions
from ditask_jax.heads.neck import Pointwise
from ditask_jax.nn.context import Context, Scope
from ditask_jax.nn.linear import Dense
from ditask_jax.nn.norm import BatchNorm, LayerNorm
from ditask_jax.nn.resize import resize_bilinear
from ditask_jax.numerics import widened


class LinearMapHead(Head):
    """BatchNorm and one 1x1 convolution, on all maps at the size of the first one.

    Of a ViT these are the tapped blocks side by side: four by default, the last alone with `backbone.taps=(11,)`.

    Shapes: a list of `[B, h_i, w_i, channels_i]` to `[B, h_0, w_0, outputs]`, float32.

    References: Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", TMLR 2024, section 7.4.
    """

    is_map = True

    def __init__(self, channels: Sequence[int], outputs: int, scope: Scope, options: HeadOptions):
        del options  # it has none
        self.norm = BatchNorm(sum(channels), scope / "norm")
        self.classify = Pointwise(sum(channels), outputs, scope / "classify")

    def __call__(self, maps: Sequence[jax.Array], context: Context) -> jax.Array:
        size = maps[0].shape[1:3]
        joined = jnp.concatenate([resize_bilinear(m, size) for m in maps], axis=-1)
        return self.classify.wide(self.norm(joined, context), context)


class LinearHead(Head):
    """LayerNorm, mean over positions and one dense layer, on the last map; for maps: BatchNorm and a 1x1 convolution.

    Of a backbone with a class token that is the token, a map of one position.

    Shapes: a list of one `[B, h, w, channels]` to `[B, outputs]`, float32.
    """

    is_map = False
    other_kind = LinearMapHead

    def __init__(self, channels: Sequence[int], outputs: int, scope: Scope, options: HeadOptions):
        del options  # it has none
        self.norm = LayerNorm(channels[-1], scope / "norm")
        self.classify = Dense(channels[-1], outputs, scope / "classify")

    def __call__(self, maps: Sequence[jax.Array], context: Context) -> jax.Array:
        del context  # a single small product: always float32
        return self.classify(self.norm(widened(maps[-1])).mean((1, 2)))
