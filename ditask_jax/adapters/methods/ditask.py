"""DiTASK: frozen singular vectors, and a small diffeomorphism of the singular values, shared and per task.

References: Mantri et al., "DiTASK: Multi-Task Fine-Tuning with Diffeomorphic Transformations", CVPR 2025.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp

from ditask_jax import cpab
from ditask_jax.adapters.execution import EXECUTIONS
from ditask_jax.adapters.method_registry import (
    LAYERS,
    PHOTOGRAPHS,
    SCENES,
    TASK_BLOCKS_HELP,
    TASK_LAYERS,
    TASK_LAYERS_HELP,
    PerStage,
    PerTask,
    Tuned,
    pick,
    words,
)
from ditask_jax.adapters.plan import ROLES, LayerPlan, Site
from ditask_jax.adapters.spectral import SpectralAdapter, spectral_plan
from ditask_jax.adapters.wrap import StreamMethod, unfrozen_option
from ditask_jax.errors import ConfigError
from ditask_jax.factors import Factors
from ditask_jax.nn.context import Scope
from ditask_jax.nn.linear import Linear
from ditask_jax.options import RATE, by_stage, integer, number, one_of, option

# In a packed q, k, v the reference implementations' task thetas exist too, but what they produce is unused.
DEAD_ROLE = "qkv"


class DiffeomorphicAdapter(SpectralAdapter):
    """Singular values moved by `f_theta`, with one theta per stream that has its own."""

    def __init__(self, plan: LayerPlan, method: "DiTASK", thetas: Mapping[str, jax.Array], factors: Factors):
        super().__init__(plan, method.dropout, thetas, factors)
        self.domain = method.domain
        self.headroom = method.headroom

    @classmethod
    def prepare(cls, adapters: Sequence["DiffeomorphicAdapter"]) -> list[jax.Array]:
        """Changes of all singular values, `[S, P, R]` for each layer, from one CPAB call per tessellation."""
        batches = defaultdict(list)
        for index, adapter in enumerate(adapters):
            by_size = defaultdict(list)
            for name in dict.fromkeys(adapter.names):
                if name:
                    by_size[getattr(adapter, name)[...].shape[0]].append(name)
            for size, names in by_size.items():
                batches[size, adapter.domain, adapter.headroom].append((index, names))
        found: list[dict[str, jax.Array]] = [{} for _ in adapters]
        for (size, domain, headroom), entries in batches.items():
            deltas = cpab.spectrum_displacements(
                [jnp.stack([getattr(adapters[i], name)[...] for name in names]) for i, names in entries],
                [adapters[i].singular_values[...] for i, _ in entries],
                cpab.Tessellation(size + 1),
                domain,
                headroom,
            )
            for (index, names), delta in zip(entries, deltas, strict=True):
                found[index].update({name: delta[row] for row, name in enumerate(names)})
        return [adapter.per_stream(changes) for adapter, changes in zip(adapters, found, strict=True)]


@dataclasses.dataclass(frozen=True)
class DiTASK(StreamMethod):
    """Singular values of frozen kernels moved by diffeomorphisms, shared and per task.

    >>> DiTASK(shared_cells=64, task_cells={"semseg": 16, "depth": (8, 8, 32, 32)}).cells("theta_depth", stage=2)
    32
    """

    name = "ditask"
    tuned: ClassVar[Mapping[str, Tuned]] = {
        PHOTOGRAPHS: Tuned(
            {"adapters": 30.0, "pretrained": 0.03},
            "thetas alone: mIoU 23.1 and 23.3 (two seeds) at 30, 22.1 at 100; frozen 21.1 and 20.8; norms and patch "
            "embedding too, all at one rate: 7.8",
            unfrozen=(),
        ),
        SCENES: Tuned({}, "the published set at 1: delta_m -15.7; thetas alone -24.8, -23.9, -23.5 at 1, 10, 30"),
    }

    shared_cells: PerStage = option(
        64, "Cells of the shared tessellation of [0, 1]: a transform has cells - 1 parameters.", by_stage(2)
    )
    task_cells: PerTask = option(64, "Cells of every task's tessellation.", by_stage(2, by_task=True))
    shared_layers: tuple[str, ...] = option(
        ROLES, "Roles of layers with a shared transform, in every block; nothing: task-specific ones only.", LAYERS
    )
    task_layers: tuple[str, ...] = option(TASK_LAYERS, TASK_LAYERS_HELP, LAYERS)
    task_blocks: int = option(1, TASK_BLOCKS_HELP, integer(1))
    domain: str = option(
        "value",
        "What is transformed: the singular values, or the index of their order, as in the released code.",
        one_of("value", "index"),
    )
    headroom: float = option(
        1.0,
        "c: the transform acts on [0, c * largest singular value]; 1 pins the largest, more lets it move.",
        number("at least 1", lambda c: c >= 1),
    )
    init: str = option(
        "identity",
        "Initial transform: the identity, or uniform in +-1/sqrt(cells - 1) as in the released code (upstream).",
        one_of("identity", "upstream"),
    )
    execution: str = option(
        "auto", "How products are computed: auto chooses by shape and tokens; all ways agree.", one_of(*EXECUTIONS)
    )
    dropout: float = option(0.05, "Dropout rate on the input of adapted layers.", RATE)
    unfrozen: tuple[str, ...] | None = unfrozen_option()

    @property
    def identity_at_start(self) -> bool:
        return self.init == "identity"

    def cells(self, name: str, stage: int) -> int:
        """Cells of the tessellation of one theta, by its name."""
        shared = name == "theta_shared"
        return pick(self.shared_cells, stage) if shared else pick(self.task_cells, stage, name.removeprefix("theta_"))

    def describe(self) -> str:
        return (
            f"singular values moved by diffeomorphisms: {words(self.shared_cells)} cells shared, "
            f"{words(self.task_cells)} per task, domain `{self.domain}`, headroom {self.headroom:g}"
        )

    def check(self, tasks: Sequence[str], stages: int | None = None) -> None:
        super().check(tasks, stages)
        if self.headroom != 1 and self.domain == "index":
            raise ConfigError(
                f"config: method.headroom: got {self.headroom} with domain 'index', which keeps the spectrum's ends; "
                "use headroom=1 or domain='value'"
            )

    def needs_factors(self) -> bool:
        return True

    def plan_layer(self, site: Site) -> LayerPlan | None:
        owners = self.owners(site) if site.in_block else ()
        if not owners:
            return None
        names = [f"theta_{stream}" for stream in owners]
        shapes = {name: (self.cells(name, site.info.stage) - 1,) for name in names}
        return spectral_plan(site, self.fan, self.fan.streams(site), shapes, self.execution)

    def attach(self, linear: Linear, plan: LayerPlan, factors: Factors, seed: int) -> DiffeomorphicAdapter:
        scope = Scope(seed=seed, path=plan.info.path)
        start = lambda name, shape: (
            scope.zeros(shape) if self.init == "identity" else scope.uniform(name, shape, shape[0] ** -0.5)
        )
        thetas = {name: start(name, shape) for name, shape in plan.parameters.items()}
        return DiffeomorphicAdapter(plan, self, thetas, factors)

    def upstream_extra(self, sites: Sequence[Site]) -> dict[str, int]:
        """Dead thetas: per task in every q, k, v and in unused stages; shared behind the last fan-out."""
        if not self.task_layers or self.task_blocks != 1:
            return {}
        size = lambda site, name: self.cells(name, site.info.stage) - 1
        dead_task = sum(
            size(site, f"theta_{task}") for site in sites if site.info.role == DEAD_ROLE for task in site.tasks
        )
        dead_shared = sum(size(site, "theta_shared") for site in self.unread_shared(sites))
        ends = {site.info.stage: site.info.block for site in sites if site.info.role in self.task_layers}
        dead_stage = sum(
            size(site, f"theta_{task}")
            for site in sites
            if site.info.role in self.task_layers
            and site.blocks_behind is None
            and site.info.block == ends[site.info.stage]
            for task in site.tasks
        )
        extra = {
            "theta per task of q, k, v (unused)": dead_task,
            "theta shared, last block (unused)": dead_shared,
        }
        return extra | ({"theta per task of stages without a reader": dead_stage} if dead_stage else {})
