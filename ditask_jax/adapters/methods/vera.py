"""VeRA: random matrices that all layers share, frozen, and trained factors between and behind them.

References: Kopiczko et al., "VeRA: Vector-based Random Matrix Adaptation", ICLR 2024.
"""

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from ditask_jax.adapters.method_registry import PerStage, pick
from ditask_jax.adapters.methods.svf import SVF
from ditask_jax.adapters.per_stream import DROPOUT_HELP, LowRankChange, PerStreamMethod
from ditask_jax.adapters.plan import LayerPlan, Site
from ditask_jax.nn.context import Scope
from ditask_jax.nn.linear import LayerAdapter, Linear
from ditask_jax.nn.state import FrozenParam
from ditask_jax.options import RATE, by_stage, integer, number, option


class RandomBasisAdapter(LowRankChange):
    """`x W + (((x A) * inner) B) * outer`, with `inner` `[r]` and `outer` `[out]` of a stream's own.

    Attributes:
      left, right: `A` and `B`, the same two variables in all layers of a model; a layer uses their first rows and
        columns.
    """

    left: FrozenParam
    right: FrozenParam

    def factors(self, linear: Linear, prepared: None) -> tuple[jax.Array, jax.Array]:
        rank = self.of("inner", self.owners[0]).shape[0]
        left, right = self.left[...][: linear.inputs, :rank], self.right[...][:rank, : linear.outputs]
        up = {owner: self.of("inner", owner)[:, None] * right * self.of("outer", owner)[None] for owner in self.owners}
        return left[None, None], self.per_stream(up, jnp.zeros_like(right))[:, None]


@dataclasses.dataclass(frozen=True)
class VeRA(PerStreamMethod):
    """Two frozen random matrices for all layers; a layer trains a factor per rank and one per output."""

    name = "vera"
    tuned = SVF.analogy()

    rank: PerStage = option(256, "Rank r of the random matrices.", by_stage(1))
    inner_start: float = option(0.1, "Initial factor of every rank.", number("other than 0", lambda x: x != 0))
    projection_seed: int = option(0, "Seed of the random matrices; adapter files hold it in their place.", integer(0))
    dropout: float = option(0.05, DROPOUT_HELP, RATE)

    def stream_shapes(self, site: Site, stream: str) -> dict[str, tuple[int, ...]]:
        return {"inner": (pick(self.rank, site.info.stage),), "outer": site.shape[1:]}

    def attach(self, linear: Linear, plan: LayerPlan, factors, seed: int) -> RandomBasisAdapter:
        scope = Scope(seed=seed, path=plan.info.path)
        start = lambda name, shape: (
            scope.full(shape, self.inner_start) if name.startswith("inner_") else scope.zeros(shape)
        )
        return RandomBasisAdapter(plan, self.dropout, {n: start(n, shape) for n, shape in plan.parameters.items()})

    def connect(self, layers: Mapping[str, Linear], adapters: Mapping[str, LayerAdapter]) -> None:
        """Draws the random matrices, as large as the largest layer needs, and hands them to all layers."""
        if not adapters:
            return
        rank = max(a.of("inner", a.owners[0]).shape[0] for a in adapters.values())
        inputs, outputs = (max(getattr(layers[path], side) for path in adapters) for side in ("inputs", "outputs"))
        # He et al.'s uniform distribution, of variance 2 / inputs.
        scope, bound = Scope(seed=self.projection_seed, path="vera"), lambda fan_in: math.sqrt(6 / fan_in)
        left = FrozenParam(scope.uniform("A", (inputs, rank), bound(inputs)))
        right = FrozenParam(scope.uniform("B", (rank, outputs), bound(rank)))
        for adapter in adapters.values():
            adapter.left, adapter.right = left, right
