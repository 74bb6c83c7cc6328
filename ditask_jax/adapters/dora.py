"""DoRA: a kernel's columns as length times direction; lengths train, directions change by a low-rank product.

References: Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", ICML 2024.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from ditask_jax.adapters.low_rank import LowRankAdapter, SharedLowRank, low_rank_start
from ditask_jax.adapters.options import PerStage, plain
from ditask_jax.adapters.plan import LayerPlan
from ditask_jax.adapters.site import ROLES, Site
from ditask_jax.adapters.unfrozen import PUBLISHED
from ditask_jax.nn.context import Context
from ditask_jax.nn.linear import SHARED, Linear

# Under the root of a column's squared length: a column of zeros has length 0 and would divide by it.
SMALLEST = 1e-12


class MagnitudeAdapter(LowRankAdapter):
    """`(x W + scale x A B) * magnitude / ||W + scale A B||`, the lengths taken over the inputs of every output."""

    def factor(self, linear: Linear) -> jax.Array:
        """By what every output is multiplied, `[out]`, float32; lengths are not differentiated (section 4.3)."""
        length = column_lengths(jax.lax.stop_gradient(self._direction(linear)))
        return self.magnitude_shared[...] / length

    def _direction(self, linear: Linear) -> jax.Array:
        return linear.kernel[...] + self._product(SHARED)

    def __call__(self, linear: Linear, x: jax.Array, streams: tuple[str, ...], context: Context) -> jax.Array:
        y = super().__call__(linear, x, streams, context)
        return y * self.factor(linear).reshape((1,) * (y.ndim - 1) + (-1,))

    def merged_kernel(self, linear: Linear, prepared: None) -> jax.Array:
        return self._direction(linear) * self.factor(linear)[None]


def column_lengths(kernel: jax.Array) -> jax.Array:
    """The length of every column of a kernel `[in, out]`.

    >>> column_lengths(jnp.array([[3.0, 0.0], [4.0, 2.0]])).tolist()
    [5.0, 2.0]
    """
    return jnp.sqrt(jnp.sum(kernel * kernel, axis=0) + SMALLEST)


@dataclasses.dataclass(frozen=True)
class DoRA(SharedLowRank):
    """Options of DoRA.

    Attributes:
      rank: of the change of direction; an int, or one per stage.
      scale: of that change; a number, or one per stage.
      layers: roles that it applies to, in every block.
      dropout: rate on the input of the low-rank product.
      unfrozen: groups of backbone weights that train too; see `adapters.unfrozen`.
    """

    name = "dora"

    rank: PerStage = 4
    scale: PerStage = 1.0
    layers: tuple[str, ...] = ROLES
    dropout: float = 0.05
    unfrozen: tuple[str, ...] = PUBLISHED

    @classmethod
    def from_config(cls, config) -> "DoRA":
        return cls(
            rank=plain(config.shared_rank),
            scale=plain(config.shared_scale),
            layers=tuple(config.shared_layers),
            dropout=float(config.dropout),
            unfrozen=tuple(config.unfrozen),
        )

    def plan_layer(self, site: Site) -> LayerPlan | None:
        return self.plan_beside(site, scale_trains=False, magnitude_shared=site.shape[1:])

    def attach(self, linear: Linear, plan: LayerPlan, factors, seed: int) -> MagnitudeAdapter:
        scales = self.scales(plan)
        adapter = MagnitudeAdapter(plan, low_rank_start(plan, scales, seed), scales, self.dropout)
        adapter.magnitude_shared = nnx.Param(column_lengths(linear.kernel[...]))
        return adapter
