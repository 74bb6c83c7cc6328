"""LoRA and DoRA: low-rank changes of frozen kernels, and what they share with MTLoRA."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from ditask_jax.adapters.method_registry import LAYERS, PHOTOGRAPHS, SCENES, PerStage, Tuned, check_layers, pick
from ditask_jax.adapters.plan import ROLES, LayerPlan, Site
from ditask_jax.adapters.wrap import UnfrozenMethod, unfrozen_option
from ditask_jax.nn.context import Context, Scope
from ditask_jax.nn.linear import SHARED, LayerAdapter, Linear, apply_kernel, pick_streams
from ditask_jax.nn.stochastic import drop_shared
from ditask_jax.options import RATE, by_stage, option

# What LoRA, DoRA and MTLoRA share: products of two thin matrices beside a frozen kernel, by stream.


def low_rank_shapes(shape: tuple[int, int], stream: str, rank: int, scale_trains: bool) -> dict[str, tuple[int, ...]]:
    """Shapes of one stream's parameters: `a` `[in, r]`, `b` `[r, out]`, and its scale where that trains.

    >>> low_rank_shapes((6, 8), "shared", 2, False)
    {'a_shared': (6, 2), 'b_shared': (2, 8)}
    """
    shapes = {f"a_{stream}": (shape[0], rank), f"b_{stream}": (rank, shape[1])}
    return shapes | ({f"scale_{stream}": ()} if scale_trains else {})


def low_rank_start(plan: LayerPlan, scales: Mapping[str, float], seed: int) -> dict[str, jax.Array]:
    """Starting values: `a` uniform in +-1/sqrt(in), `b` zero (so that nothing changes), scales as they are given."""
    scope = Scope(seed=seed, path=plan.info.path)
    values = {}
    for name, shape in plan.parameters.items():
        kind, _, stream = name.partition("_")
        if kind == "a":
            values[name] = scope.uniform(name, shape, 1 / math.sqrt(plan.shape[0]))
        elif kind == "b":
            values[name] = scope.zeros(shape)
        elif kind == "scale":
            values[name] = jnp.asarray(scales[stream], jnp.float32)
    return values


class LowRankAdapter(LayerAdapter):
    """`x W + scale x A B` on every stream, with matrices of a stream's own where it has them.

    Where streams leave that a task owns, the frozen kernel acts on the *shared* stream for all of them, as in MTLoRA:
    `y_t = x_shared W + scale_t x_t A_t B_t`; with `adds_shared` also plus the shared stream's change.

    Attributes:
      streams: streams that leave the layer, empty for "those that enter".
      scales: by stream, of those that do not train.
    """

    def __init__(
        self,
        plan: LayerPlan,
        parameters: Mapping[str, jax.Array],
        scales: Mapping[str, float],
        dropout: float,
        adds_shared: bool = False,
    ):
        self.path = plan.info.path
        self.streams = plan.streams
        self.dropout_rate = dropout
        self.adds_shared = adds_shared
        self.has_shared = f"a_{SHARED}" in parameters
        self.scales = tuple(sorted((s, float(v)) for s, v in scales.items() if f"scale_{s}" not in parameters))
        for name, value in parameters.items():
            setattr(self, name, nnx.Param(value, decay=not name.startswith("scale_")))

    @property
    def owners(self) -> tuple[str, ...]:
        """Task streams, which have matrices of their own."""
        return tuple(stream for stream in self.streams if stream != SHARED)

    def streams_out(self, streams: tuple[str, ...]) -> tuple[str, ...]:
        return self.streams or streams

    def matrices(self, stream: str) -> tuple[jax.Array, jax.Array]:
        """`A` `[in, r]` and `scale B` `[r, out]` of one stream, float32."""
        trained = getattr(self, f"scale_{stream}", None)
        scale = dict(self.scales)[stream] if trained is None else trained[...]
        return getattr(self, f"a_{stream}")[...], getattr(self, f"b_{stream}")[...] * scale

    def shared_change(self, x: jax.Array, context: Context) -> jax.Array:
        """`scale x A B` with the shared matrices, on every stream of `x`."""
        a, b = (matrix.astype(context.dtype) for matrix in self.matrices(SHARED))
        return apply_kernel(apply_kernel(x, a), b)

    def task_changes(self, x: jax.Array, streams: tuple[str, ...], context: Context) -> jax.Array:
        """`scale_t x_t A_t B_t` of every task, `[T, ..., out]`; one stream serves all."""
        pairs = [self.matrices(stream) for stream in self.owners]
        rank = max(a.shape[1] for a, _ in pairs)
        # Tasks of a smaller rank are padded with zeros, so that all of them make one product.
        a = jnp.stack([jnp.pad(a, ((0, 0), (0, rank - a.shape[1]))) for a, _ in pairs]).astype(context.dtype)
        b = jnp.stack([jnp.pad(b, ((0, rank - b.shape[0]), (0, 0))) for _, b in pairs]).astype(context.dtype)
        return apply_kernel(apply_kernel(pick_streams(x, streams, self.owners), a), b)

    def __call__(self, linear: Linear, x: jax.Array, streams: tuple[str, ...], context: Context) -> jax.Array:
        dropped = drop_shared(x, self.dropout_rate, context, self.path, streams)
        kernel = linear.kernel[...].astype(context.dtype)
        # Wide: rounded before a small change is added, it would swallow that.
        if not self.owners:
            return apply_kernel(x, kernel, context.wide) + self.shared_change(dropped, context)
        base = apply_kernel(x[:1], kernel, context.wide)
        shared = self.shared_change(dropped[:1], context) if self.has_shared else None
        tasks = base + self.task_changes(dropped, streams, context)
        if self.adds_shared and shared is not None:
            tasks = tasks + shared
        if SHARED not in self.streams:
            return tasks
        return jnp.concatenate([base if shared is None else base + shared, tasks])

    def merged_kernel(self, linear: Linear, prepared: None) -> jax.Array:
        """What each stream's own input is multiplied by; see `merged_shared_kernel` for the rest."""
        if not self.owners:
            return linear.kernel[...] + self._product(SHARED)
        nothing = jnp.zeros(linear.kernel[...].shape, jnp.float32)
        own = [self._product(stream) for stream in self.owners]
        if SHARED in self.streams:
            own.insert(0, self._product(SHARED) if self.has_shared and not self.adds_shared else nothing)
        return jnp.stack(own)

    def merged_shared_kernel(self, linear: Linear, prepared: None) -> jax.Array | None:
        """What the shared input is multiplied by on every stream's behalf."""
        if not self.owners:
            return None
        return linear.kernel[...] + (self._product(SHARED) if self.adds_shared and self.has_shared else 0)

    def _product(self, stream: str) -> jax.Array:
        a, b = self.matrices(stream)
        return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


class SharedLowRank(UnfrozenMethod):
    """A method with one product of thin matrices per layer, shared by all tasks. A subclass lists the fields."""

    former_names: ClassVar[Mapping[str, str]] = {
        "shared_rank": "rank",
        "shared_scale": "scale",
        "shared_layers": "layers",
        "train_scales": "scale_trains",
    }

    rank: PerStage
    scale: PerStage
    layers: tuple[str, ...]
    dropout: float

    @property
    def layer_roles(self) -> tuple[str, ...]:
        return self.layers

    def check(self, tasks: Sequence[str], stages: int | None = None) -> None:
        super().check(tasks, stages)
        check_layers("layers", self.layers)

    def plan_beside(self, site: Site, scale_trains: bool, **more: tuple[int, ...]) -> LayerPlan | None:
        """The plan of a layer: its matrices, and shapes of `more` parameters by name."""
        if site.info.role not in self.layers:
            return None
        shapes = low_rank_shapes(site.shape, SHARED, pick(self.rank, site.info.stage), scale_trains)
        return LayerPlan(site.info, site.shape, (), shapes | more, "beside")

    def scales(self, plan: LayerPlan) -> dict[str, float]:
        """The factor of a planned layer's product, by stream."""
        return {SHARED: float(pick(self.scale, plan.info.stage))}


# LoRA: a product of two thin matrices beside every frozen kernel, shared by all tasks.
#
# References: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022.


@dataclasses.dataclass(frozen=True)
class LoRA(SharedLowRank):
    """`y = x W + scale x A B` in every layer, no stream of a task's own."""

    name = "lora"
    tuned: ClassVar[Mapping[str, Tuned]] = {
        PHOTOGRAPHS: Tuned(
            {"adapters": 0.3, "pretrained": 0.03},
            "rank 8, matrices alone: mIoU 24.4 at a third, 20.1 at 1; frozen 21.1",
            unfrozen=(),
        ),
        SCENES: Tuned({}, "the published set, rank 4, scale 4: one rate of 0.16 better than 0.032"),
    }

    rank: PerStage = option(4, "Rank r of the matrices.", by_stage(1))
    scale: PerStage = option(1.0, "Factor of the low-rank change, as in MTLoRA's code: not alpha / r.", by_stage(None))
    layers: tuple[str, ...] = option(ROLES, "Roles of layers that get matrices, in every block.", LAYERS)
    scale_trains: bool = option(False, "Whether the scale is a trainable parameter.")
    dropout: float = option(0.05, "Dropout rate on the input of the low-rank matrices.", RATE)
    unfrozen: tuple[str, ...] | None = unfrozen_option()

    def plan_layer(self, site: Site) -> LayerPlan | None:
        return self.plan_beside(site, self.scale_trains)

    def attach(self, linear: Linear, plan: LayerPlan, factors, seed: int) -> LowRankAdapter:
        scales = self.scales(plan)
        return LowRankAdapter(plan, low_rank_start(plan, scales, seed), scales, self.dropout)


# DoRA: a kernel's columns as length times direction; lengths train, directions change by a low-rank product.
#
# References: Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", ICML 2024.


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
    """The direction of every column changes by a low-rank product, its length trains."""

    name = "dora"

    rank: PerStage = option(4, "Rank of the change of direction.", by_stage(1))
    scale: PerStage = option(1.0, "Factor of that change.", by_stage(None))
    layers: tuple[str, ...] = option(ROLES, "Roles of layers that it applies to, in every block.", LAYERS)
    dropout: float = option(0.05, "Dropout rate on the input of the low-rank matrices.", RATE)
    unfrozen: tuple[str, ...] | None = unfrozen_option()

    def plan_layer(self, site: Site) -> LayerPlan | None:
        return self.plan_beside(site, scale_trains=False, magnitude_shared=site.shape[1:])

    def attach(self, linear: Linear, plan: LayerPlan, factors, seed: int) -> MagnitudeAdapter:
        scales = self.scales(plan)
        adapter = MagnitudeAdapter(plan, low_rank_start(plan, scales, seed), scales, self.dropout)
        adapter.magnitude_shared = nnx.Param(column_lengths(linear.kernel[...]), decay=False)
        return adapter
