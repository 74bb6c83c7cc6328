"""SVF: a free factor for every singular value of a frozen kernel. What DiTASK restricts to a diffeomorphism.

References: Sun et al., "Singular Value Fine-tuning: Few-shot Segmentation requires Few-parameters Fine-tuning",
NeurIPS 2022.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import jax

from ditask_jax.adapters.execution import EXECUTIONS
from ditask_jax.adapters.method_registry import (
    LAYERS,
    PHOTOGRAPHS,
    SCENES,
    TASK_BLOCKS_HELP,
    TASK_LAYERS,
    TASK_LAYERS_HELP,
    Tuned,
)
from ditask_jax.adapters.plan import ROLES, LayerPlan, Site
from ditask_jax.adapters.spectral import SpectralAdapter, spectral_plan
from ditask_jax.adapters.wrap import StreamMethod, unfrozen_option
from ditask_jax.factors import Factors
from ditask_jax.nn.context import Scope
from ditask_jax.nn.linear import Linear
from ditask_jax.options import RATE, integer, one_of, option


class FreeAdapter(SpectralAdapter):
    """Singular values times `1 + gain`, with gains `[P, R]` for each stream that has its own."""

    prefix = "gain"

    @classmethod
    def prepare(cls, adapters: Sequence["FreeAdapter"]) -> list[jax.Array]:
        changes = lambda a: {name: getattr(a, name)[...] * a.singular_values[...] for name in a.names if name}
        return [adapter.per_stream(changes(adapter)) for adapter in adapters]


@dataclasses.dataclass(frozen=True)
class SVF(StreamMethod):
    """A free gain for every singular value: nothing keeps them in order, positive, or together."""

    name = "svf"
    tuned: ClassVar[Mapping[str, Tuned]] = {
        PHOTOGRAPHS: Tuned(
            {"adapters": 10.0, "pretrained": 0.03}, "gains alone: mIoU 23.3 at 10, frozen 21.1 and 20.8", unfrozen=()
        ),
        SCENES: Tuned({"adapters": 10.0}, "gains alone: delta_m -16.8 at 10, frozen -25.3", unfrozen=()),
    }

    shared_layers: tuple[str, ...] = option(ROLES, "Roles of layers with shared gains, in every block.", LAYERS)
    task_layers: tuple[str, ...] = option(TASK_LAYERS, TASK_LAYERS_HELP, LAYERS)
    task_blocks: int = option(1, TASK_BLOCKS_HELP, integer(1))
    execution: str = option(
        "auto", "How products are computed: auto chooses by shape and tokens; all ways agree.", one_of(*EXECUTIONS)
    )
    dropout: float = option(0.05, "Dropout rate on the input of adapted layers.", RATE)
    unfrozen: tuple[str, ...] | None = unfrozen_option()

    def needs_factors(self) -> bool:
        return True

    def plan_layer(self, site: Site) -> LayerPlan | None:
        owners = self.owners(site) if site.in_block else ()
        if not owners:
            return None
        parts = site.info.parts
        shape = (parts, min(site.shape[0], site.shape[1] // parts))
        shapes = {f"{FreeAdapter.prefix}_{stream}": shape for stream in owners}
        return spectral_plan(site, self.fan, self.fan.streams(site), shapes, self.execution)

    def attach(self, linear: Linear, plan: LayerPlan, factors: Factors, seed: int) -> FreeAdapter:
        gains = {name: Scope().zeros(shape) for name, shape in plan.parameters.items()}
        return FreeAdapter(plan, self.dropout, gains, factors)
