"""LoRA: a product of two thin matrices beside every frozen kernel, shared by all tasks.

References: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022.
"""

import dataclasses
from collections.abc import Sequence

from ditask_jax.adapters.low_rank import LowRankAdapter, low_rank_shapes, low_rank_start
from ditask_jax.adapters.options import (
    PerStage,
    check_dropout,
    check_layers,
    check_option,
    is_count,
    is_scale,
    pick,
    plain,
)
from ditask_jax.adapters.plan import LayerPlan
from ditask_jax.adapters.registry import Method
from ditask_jax.adapters.site import ROLES, Site
from ditask_jax.adapters.unfrozen import PUBLISHED, check_unfrozen, is_unfrozen
from ditask_jax.nn.linear import SHARED, Linear


@dataclasses.dataclass(frozen=True)
class LoRA(Method):
    """Options of LoRA: `y = x W + scale x A B`, no stream of a task's own.

    Attributes:
      rank: r; an int, or one per stage.
      scale: of the change; a number, or one per stage.
      layers: roles that get matrices, in every block.
      scale_trains: whether the scale is a parameter.
      dropout: rate on the input of `A`.
      unfrozen: groups of backbone weights that train too; see `adapters.unfrozen`.
    """

    name = "lora"

    rank: PerStage = 4
    scale: PerStage = 4.0
    layers: tuple[str, ...] = ROLES
    scale_trains: bool = False
    dropout: float = 0.05
    unfrozen: tuple[str, ...] = PUBLISHED

    @classmethod
    def from_config(cls, config) -> "LoRA":
        return cls(
            rank=plain(config.shared_rank),
            scale=plain(config.shared_scale),
            layers=tuple(config.shared_layers),
            scale_trains=config.train_scales,
            dropout=float(config.dropout),
            unfrozen=tuple(config.unfrozen),
        )

    def check(self, tasks: Sequence[str], stages: int | None = None) -> None:
        check_layers(self.layers, (), 1)
        check_option("shared_rank", self.rank, (), stages, is_count(1), "a whole number >= 1")
        check_option("shared_scale", self.scale, (), stages, is_scale, "a finite number")
        check_dropout(self.dropout)
        check_unfrozen(self.unfrozen)

    def trains(self, path: str) -> bool:
        return is_unfrozen(path, self.unfrozen)

    def plan_layer(self, site: Site) -> LayerPlan | None:
        if site.info.role not in self.layers:
            return None
        shapes = low_rank_shapes(site.shape, SHARED, pick(self.rank, site.info.stage), self.scale_trains)
        return LayerPlan(site.info, site.shape, (), shapes, "beside")

    def attach(self, linear: Linear, plan: LayerPlan, factors, seed: int) -> LowRankAdapter:
        scales = {SHARED: float(pick(self.scale, plan.info.stage))}
        return LowRankAdapter(plan, low_rank_start(plan, scales, seed), scales, self.dropout)
