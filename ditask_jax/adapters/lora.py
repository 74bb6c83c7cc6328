"""LoRA: a product of two thin matrices beside every frozen kernel, shared by all tasks.

References: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022.
"""

import dataclasses

from ditask_jax.adapters.low_rank import LowRankAdapter, SharedLowRank, low_rank_start
from ditask_jax.adapters.options import PerStage, plain
from ditask_jax.adapters.plan import LayerPlan
from ditask_jax.adapters.site import ROLES, Site
from ditask_jax.adapters.unfrozen import PUBLISHED
from ditask_jax.nn.linear import Linear


@dataclasses.dataclass(frozen=True)
class LoRA(SharedLowRank):
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
    scale: PerStage = 1.0
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

    def plan_layer(self, site: Site) -> LayerPlan | None:
        return self.plan_beside(site, self.scale_trains)

    def attach(self, linear: Linear, plan: LayerPlan, factors, seed: int) -> LowRankAdapter:
        scales = self.scales(plan)
        return LowRankAdapter(plan, low_rank_start(plan, scales, seed), scales, self.dropout)
