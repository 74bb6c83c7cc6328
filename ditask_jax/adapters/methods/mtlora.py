"""MTLoRA: low-rank changes for the shared stream and for every task, on one frozen kernel.

References: Agiza et al., "MTLoRA: A Low-Rank Adaptation Approach for Efficient Multi-Task Learning", CVPR 2024.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from ditask_jax.adapters.method_registry import (
    LAYERS,
    SCENES,
    TASK_BLOCKS_HELP,
    TASK_LAYERS,
    TASK_LAYERS_HELP,
    PerStage,
    PerTask,
    Tuned,
    pick,
)
from ditask_jax.adapters.methods.lora import LowRankAdapter, low_rank_shapes, low_rank_start
from ditask_jax.adapters.plan import ROLES, LayerPlan, Site
from ditask_jax.adapters.wrap import StreamMethod, unfrozen_option
from ditask_jax.nn.context import Context
from ditask_jax.nn.linear import SHARED, Linear, apply_kernel
from ditask_jax.nn.norm import normalise
from ditask_jax.nn.stochastic import drop_shared
from ditask_jax.numerics import widened
from ditask_jax.options import RATE, by_stage, integer, one_of, option


class AdditionAdapter(LowRankAdapter):
    """Tasks as in `LowRankAdapter`; the shared stream adds the normalised sum of all tasks' outputs.

    `y_t = x_shared W + bias + scale_t x_t A_t B_t` and `y_shared = x_shared W + bias + LayerNorm(sum_t y_t)`, so that
    the start is not the identity and no kernel can stand for it.
    """

    mergeable = False

    def __call__(self, linear: Linear, x: jax.Array, streams: tuple[str, ...], context: Context) -> jax.Array:
        dropped = drop_shared(x, self.dropout_rate, context, self.path, streams)
        base = apply_kernel(x[:1], linear.kernel[...].astype(context.dtype), context.wide)
        tasks = base + self.task_changes(dropped, streams, context)
        if SHARED not in self.streams:
            return tasks
        total = widened(tasks).sum(0, keepdims=True)
        if hasattr(linear, "bias"):
            total = total + len(self.owners) * linear.bias[...].reshape((1,) * (total.ndim - 1) + (-1,))
        normed = normalise(total, self.norm_scale_shared[...], self.norm_bias_shared[...])
        return jnp.concatenate([base + normed.astype(context.dtype), tasks])


@dataclasses.dataclass(frozen=True)
class MTLoRA(StreamMethod):
    """Low-rank changes, shared and per task. The published rows have shared ranks 16, 32, 64, task rank 4, scale 4.

    >>> MTLoRA(shared_rank=64, task_rank={"semseg": 8, "depth": 4}).rank("depth", stage=0)
    4
    """

    name = "mtlora"
    reads_shared = True  # a task's layer multiplies the shared stream by the frozen kernel
    tuned: ClassVar[Mapping[str, Tuned]] = {
        SCENES: Tuned({}, "the published set, scale 4: one rate of 0.16 better than 0.032")
    }
    former_names: ClassVar[Mapping[str, str]] = {"train_scales": "scale_trains"}

    shared_rank: PerStage = option(4, "Rank of the shared matrices.", by_stage(1))
    task_rank: PerTask = option(4, "Rank of every task's matrices.", by_stage(1, by_task=True))
    shared_scale: PerStage = option(1.0, "Factor of the shared change.", by_stage(None))
    task_scale: PerTask = option(1.0, "Factor of every task's change.", by_stage(None, by_task=True))
    scale_trains: bool = option(False, "Whether the scales are trainable parameters.")
    mode: str = option(
        "matrix",
        "A task's change replaces the shared one (matrix, as published) or comes on top (matrixv2); addition: there "
        "are no shared matrices, the shared stream adds the normalised sum of all tasks' outputs.",
        one_of("matrix", "matrixv2", "addition"),
    )
    shared_layers: tuple[str, ...] = option(ROLES, "Roles of layers with shared matrices, in every block.", LAYERS)
    task_layers: tuple[str, ...] = option(TASK_LAYERS, TASK_LAYERS_HELP, LAYERS)
    task_blocks: int = option(1, TASK_BLOCKS_HELP, integer(1))
    dropout: float = option(0.05, "Dropout rate on the shared input of the low-rank matrices.", RATE)
    unfrozen: tuple[str, ...] | None = unfrozen_option()

    @property
    def identity_at_start(self) -> bool:
        return self.mode != "addition" or not self.task_layers

    def rank(self, stream: str, stage: int) -> int:
        """Rank of a stream's matrices."""
        return pick(self.shared_rank, stage) if stream == SHARED else pick(self.task_rank, stage, stream)

    def scale(self, stream: str, stage: int) -> float:
        """Scale of a stream's change, at the start where it trains."""
        return float(pick(self.shared_scale, stage) if stream == SHARED else pick(self.task_scale, stage, stream))

    def plan_layer(self, site: Site) -> LayerPlan | None:
        stage = site.info.stage
        if not site.in_block:
            return None
        streams = self.fan.streams(site)
        owners = [stream for stream in streams if stream != SHARED]
        if self._reads_shared_matrices(site, streams):
            owners.insert(0, SHARED)
        shapes: dict[str, tuple[int, ...]] = {}
        for stream in owners:
            shapes |= low_rank_shapes(site.shape, stream, self.rank(stream, stage), self.scale_trains)
        if self.mode == "addition" and SHARED in streams:
            shapes |= dict.fromkeys(("norm_scale_shared", "norm_bias_shared"), site.shape[1:])
        return LayerPlan(site.info, site.shape, streams, shapes, "beside") if shapes else None

    def _reads_shared_matrices(self, site: Site, streams: tuple[str, ...]) -> bool:
        """Whether anything behind a layer depends on shared matrices in it."""
        if self.mode == "addition" or site.info.role not in self.shared_layers:
            return False
        return not streams or SHARED in streams or self.mode == "matrixv2"

    def attach(self, linear: Linear, plan: LayerPlan, factors, seed: int) -> LowRankAdapter:
        streams = (SHARED, *(stream for stream in plan.streams if stream != SHARED))
        scales = {s: self.scale(s, plan.info.stage) for s in streams if f"a_{s}" in plan.parameters}
        values = low_rank_start(plan, scales, seed)
        if self.mode == "addition":
            adapter = AdditionAdapter(plan, values, scales, self.dropout)
            if "norm_scale_shared" in plan.parameters:
                adapter.norm_scale_shared = nnx.Param(jnp.ones(plan.shape[1:], jnp.float32), decay=False)
                adapter.norm_bias_shared = nnx.Param(jnp.zeros(plan.shape[1:], jnp.float32), decay=False)
            return adapter
        return LowRankAdapter(plan, values, scales, self.dropout, adds_shared=self.mode == "matrixv2")

    def upstream_extra(self, sites: Sequence[Site]) -> dict[str, int]:
        """The shared matrices of the very last layer: no task reads the stream that they change."""
        if self.mode != "matrix" or self.task_blocks != 1:
            return {}
        dead = sum(self.rank(SHARED, site.info.stage) * sum(site.shape) for site in self.unread_shared(sites))
        return {"low rank shared, last fc2 (unused)": dead} if dead else {}
