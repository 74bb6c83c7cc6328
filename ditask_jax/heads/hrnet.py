"""The high-resolution head of MTLoRA and DiTASK."""

from collections.abc import Sequence

import jax

from ditask_jax.heads.head_registry import Head, NeckOptions
from ditask_jax.heads.neck import Pointwise
from ditask_jax.nn.context import Context, Scope
from ditask_jax.nn.norm import BatchNorm


class HrnetHead(Head):
    """Upsamples all maps to the first one's size, joins them and classifies every position.

    `concat -> 1x1 (4x wider) -> BatchNorm -> ReLU -> 1x1 -> outputs`.

    Shapes: a list of `[B, h_i, w_i, channels_i]` to `[B, h_0, w_0, outputs]`, float32.
    """

    is_map = True
    has_neck = True
    options = NeckOptions

    def __init__(self, channels: Sequence[int], outputs: int, scope: Scope, options: NeckOptions):
        del options  # the widths of the neck are the channels
        joined = sum(channels)
        self.widen = Pointwise(joined, 4 * joined, scope / "widen")
        self.norm = BatchNorm(4 * joined, scope / "norm")
        self.classify = Pointwise(4 * joined, outputs, scope / "classify")

    def __call__(self, maps: Sequence[jax.Array], context: Context) -> jax.Array:
        hidden = self.widen.of_enlarged(maps, maps[0].shape[1:3], context)
        hidden = jax.nn.relu(self.norm(hidden, context))
        return self.classify.wide(hidden, context)
