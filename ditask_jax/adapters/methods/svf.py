"""SVF: a free factor for every singular value of a frozen kernel. What DiTASK restricts to a diffeomorphism.

References: Sun et al., "Singular Value Fine-tuning: Few-shot Segmentation requires Few-parameters Fine-tuning",
NeurIPS 2022.
"""

import dataclasses
from collections.abc import Sequence

import jax

from ditask_jax.adapters.execution import EXECUTIONS
from ditask_jax.adapters.method_registry import check_dropout, check_layers
from ditask_jax.adapters.plan import ROLES, FanOut, LayerPlan, Site
from ditask_jax.adapters.spectral import SpectralAdapter, spectral_plan, stream_parameters
from ditask_jax.adapters.wrap import PUBLISHED, UnfrozenMethod, check_unfrozen
from ditask_jax.errors import check_known
from ditask_jax.factors import Factors
from ditask_jax.nn.context import Scope
from ditask_jax.nn.linear import Linear


class FreeAdapter(SpectralAdapter):
    """Singular values times `1 + gain`, with gains `[P, R]` for each stream that has its own."""

    prefix = "gain"

    @classmethod
    def prepare(cls, adapters: Sequence["FreeAdapter"]) -> list[jax.Array]:
        changes = lambda a: {name: getattr(a, name)[...] * a.singular_values[...] for name in a.names if name}
        return [adapter.per_stream(changes(adapter)) for adapter in adapters]


@dataclasses.dataclass(frozen=True)
class SVF(UnfrozenMethod):
    """Options of SVF. Nothing keeps the singular values in order, positive, or together.

    Attributes:
      shared_layers: roles with shared gains, in every block.
      task_layers: roles with gains per task, in the last blocks of every stage; none: shared ones only.
      task_blocks: how many of a stage's last blocks the task streams run through.
      execution: "auto", "materialised" or "factored".
      dropout: rate on the input of adapted layers.
      unfrozen: groups of backbone weights that train too; see `adapters.unfrozen`.
    """

    name = "svf"

    shared_layers: tuple[str, ...] = ROLES
    task_layers: tuple[str, ...] = ("proj", "fc1", "fc2")
    task_blocks: int = 1
    execution: str = "auto"
    dropout: float = 0.05
    unfrozen: tuple[str, ...] = PUBLISHED

    @classmethod
    def from_config(cls, config) -> "SVF":
        return cls(
            shared_layers=tuple(config.shared_layers),
            task_layers=tuple(config.task_layers),
            task_blocks=config.task_blocks,
            execution=config.execution,
            dropout=float(config.dropout),
            unfrozen=tuple(config.unfrozen),
        )

    @property
    def fan(self) -> FanOut:
        """Where task streams split off."""
        return FanOut(self.task_layers, self.task_blocks)

    @property
    def layer_roles(self) -> tuple[str, ...]:
        return (*self.shared_layers, *self.task_layers)

    def check(self, tasks: Sequence[str], stages: int | None = None) -> None:
        check_layers(self.shared_layers, self.task_layers, self.task_blocks)
        check_known("config: method.execution", self.execution, EXECUTIONS)
        check_dropout(self.dropout)
        check_unfrozen(self.unfrozen)

    def needs_factors(self) -> bool:
        return True

    def plan_layer(self, site: Site) -> LayerPlan | None:
        role, parts = site.info.role, site.info.parts
        if not site.in_block:
            return None
        streams, names = stream_parameters(site, self.fan, role in self.shared_layers, FreeAdapter.prefix)
        if not names:
            return None
        shape = (parts, min(site.shape[0], site.shape[1] // parts))
        return spectral_plan(site, self.fan, streams, dict.fromkeys(names, shape), self.execution)

    def attach(self, linear: Linear, plan: LayerPlan, factors: Factors, seed: int) -> FreeAdapter:
        gains = {name: Scope().zeros(shape) for name, shape in plan.parameters.items()}
        return FreeAdapter(plan, self.dropout, gains, factors)
