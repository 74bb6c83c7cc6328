"""FAAR: low-rank changes of direction and length, shared and per task, whose ranks shrink while they train.

References: "FAAR" (CVPR 2026). Its decoder is the head `tspd`.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from ditask_jax.adapters.method_registry import (
    LAYERS,
    TASK_BLOCKS_HELP,
    TASK_LAYERS,
    TASK_LAYERS_HELP,
    PerStage,
    pick,
)
from ditask_jax.adapters.methods.lora import LowRankAdapter, column_lengths, low_rank_shapes, low_rank_start
from ditask_jax.adapters.plan import ROLES, LayerPlan, Site
from ditask_jax.adapters.wrap import PUBLISHED, StreamMethod, unfrozen_option
from ditask_jax.errors import ConfigError
from ditask_jax.nn.context import Context
from ditask_jax.nn.linear import SHARED, Linear, apply_kernel, pick_streams
from ditask_jax.nn.state import Statistic
from ditask_jax.nn.stochastic import drop_shared, random_bits
from ditask_jax.options import FRACTION, NOT_NEGATIVE, RATE, by_stage, integer, one_of, option

# How far a length moves with its parameter, which is a logarithm.
LENGTH_RATE = 0.1
# Importances beyond so many times the median of those that were drawn are cut.
OUTLIER = 100.0


class ShrinkingAdapter(LowRankAdapter):
    """`x W + x (W_s - W)` for the shared stream and `x_shared W + x_t (W_t - W)` for a task's.

    `W_s = mu v`, column by column: `v` is the direction of `W / n + scale A B` of length 1, with the lengths `n` of the
    frozen columns, and `mu = n exp(0.1 (theta - log n))` a trained length. In the form "lora" `W_s - W` is
    `scale A B` itself.

    In training the first b ranks take part, b uniform in 1 .. cap for every stream and step; otherwise all up to the
    cap. `observe` keeps how important every rank has been, `end_epoch` sorts them and lowers the cap.

    Attributes:
      cap_{stream}, importance_{stream}: statistics, float32 `[]` and `[r]`; ranks are sorted at the ends of epochs.
    """

    def __init__(
        self, plan: LayerPlan, parameters: Mapping[str, jax.Array], scales: Mapping[str, float], method: "FAAR"
    ):
        super().__init__(plan, parameters, scales, method.dropout)
        self.options = method
        self.with_lengths = method.form == "dora"
        for stream in self.changed:
            rank = plan.parameters[f"a_{stream}"][1]
            setattr(self, f"cap_{stream}", Statistic(jnp.asarray(rank, jnp.float32)))
            setattr(self, f"importance_{stream}", Statistic(jnp.zeros(rank, jnp.float32)))

    @property
    def changed(self) -> tuple[str, ...]:
        """Streams with matrices of their own."""
        return (SHARED, *self.owners) if self.has_shared else self.owners

    def mask(self, stream: str, context: Context | None) -> jax.Array:
        """Which ranks take part, `[r]`: a prefix."""
        cap = getattr(self, f"cap_{stream}")[...]
        if context is not None and context.train:
            bits = random_bits(context.key_for(f"{self.path}/rank", stream), (1,))[0]
            # As a float of 32 bits the greatest of these numbers is rounded to 1.
            cap = jnp.minimum(1 + jnp.floor(bits.astype(jnp.float32) * (cap / 2.0**32)), cap)
        places = jnp.arange(getattr(self, f"importance_{stream}").shape[0], dtype=jnp.float32)
        return (places < cap).astype(jnp.float32)

    def change(self, linear: Linear, stream: str, context: Context | None = None) -> jax.Array:
        """`W_s - W` of one stream, `[in, out]`, float32."""
        a, b = self.matrices(stream)
        product = jnp.matmul(a * self.mask(stream, context)[None], b, precision=jax.lax.Precision.HIGHEST)
        if not self.with_lengths:
            return product
        kernel = linear.kernel[...]
        lengths = column_lengths(kernel)
        direction = kernel / lengths[None] + product
        # Differentiated through the length, unlike DoRA's.
        return direction * (self.length(stream, lengths) / column_lengths(direction))[None] - kernel

    def length(self, stream: str, lengths: jax.Array) -> jax.Array:
        """The trained lengths of the columns, `[out]`."""
        return lengths * jnp.exp(LENGTH_RATE * (getattr(self, f"magnitude_{stream}")[...] - jnp.log(lengths)))

    def _added(self, linear: Linear, x: jax.Array, names: Sequence[str], context: Context) -> jax.Array:
        """`x (W_s - W)` for these streams, `[len(names) or S, ..., out]`; one name serves all of `x`."""
        if self.with_lengths:
            changes = [self.change(linear, name, context).astype(context.dtype) for name in names]
            return apply_kernel(x, changes[0] if len(changes) == 1 else jnp.stack(changes))
        a, b = zip(*(self.matrices(name) for name in names), strict=True)
        a = [matrix * self.mask(name, context)[None] for name, matrix in zip(names, a, strict=True)]
        a, b = (matrices[0] if len(names) == 1 else jnp.stack(matrices) for matrices in (list(a), list(b)))
        return apply_kernel(apply_kernel(x, a.astype(context.dtype)), b.astype(context.dtype))

    def __call__(self, linear: Linear, x: jax.Array, streams: tuple[str, ...], context: Context) -> jax.Array:
        dropped = drop_shared(x, self.dropout_rate, context, self.path, streams)
        kernel = linear.kernel[...].astype(context.dtype)
        # Wide: rounded before a small change is added, it would swallow that.
        if not self.owners:
            return apply_kernel(x, kernel, context.wide) + self._added(linear, dropped, (SHARED,), context)
        base = apply_kernel(x[:1], kernel, context.wide)
        own = pick_streams(dropped, streams, self.owners)
        tasks = base + self._added(linear, own, self.owners, context)
        if SHARED not in self.streams:
            return tasks
        shared = base + self._added(linear, dropped[:1], (SHARED,), context) if self.has_shared else base
        return jnp.concatenate([shared, tasks])

    def merged_kernel(self, linear: Linear, prepared: None) -> jax.Array:
        if not self.owners:
            return linear.kernel[...] + self.change(linear, SHARED)
        own = [self.change(linear, stream) for stream in self.owners]
        if SHARED in self.streams:
            own.insert(0, self.change(linear, SHARED) if self.has_shared else jnp.zeros_like(own[0]))
        return jnp.stack(own)

    # What happens beside the layer's computation; see `ditask_jax.training.optim.method_hooks`.

    def penalty(self, linear: Linear) -> jax.Array:
        """Mean squared relative change of the shared lengths."""
        if not self.with_lengths or not self.has_shared:
            return jnp.zeros((), jnp.float32)
        lengths = column_lengths(linear.kernel[...])
        return self.options.penalty * jnp.mean((self.length(SHARED, lengths) / lengths - 1) ** 2)

    def observe(self, gradients: Mapping[str, jax.Array]) -> None:
        """Moves the averages of what every rank means to the loss, to first order."""
        for stream in self.changed:
            terms = []
            for kind, axis in (("a", 0), ("b", 1)):
                name = f"{kind}_{stream}"
                terms.append(jnp.abs(jnp.sum(getattr(self, name)[...] * gradients[name], axis=axis)))
            drawn = jnp.nan_to_num((terms[0] + terms[1]) / 2, posinf=0.0)
            # Ranks that were not drawn have no gradient: they would make the median 0.
            median = jnp.nanmedian(jnp.where(drawn > 0, drawn, jnp.nan))
            drawn = jnp.where(median > 0, jnp.minimum(drawn, OUTLIER * median), drawn)
            kept, average = self.options.momentum, getattr(self, f"importance_{stream}")
            average[...] = kept * average[...] + (1 - kept) * drawn

    def end_epoch(self) -> Callable[[Mapping[str, jax.Array]], dict[str, jax.Array]]:
        """Sorts ranks by importance, lowers caps, and zeroes what is beyond them."""
        orders = {}
        for stream in self.changed:
            average, cap = (getattr(self, f"{kind}_{stream}") for kind in ("importance", "cap"))
            new = lower_cap(average[...], cap[...], self.options.share, self.options.floor)
            order = jnp.argsort(-average[...], stable=True)
            kept = (jnp.arange(order.size) < new).astype(jnp.float32)
            average[...], cap[...] = average[...][order] * kept, new
            orders[stream] = order, kept

        def changed(arrays: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
            found = {}
            for stream, (order, kept) in orders.items():
                found[f"a_{stream}"] = arrays[f"a_{stream}"][:, order] * kept[None]
                found[f"b_{stream}"] = arrays[f"b_{stream}"][order] * kept[:, None]
            return found

        return changed

    def measures(self) -> dict[str, jax.Array]:
        """The mean cap of its streams."""
        return {"rank": sum(getattr(self, f"cap_{stream}")[...] for stream in self.changed) / len(self.changed)}


def lower_cap(importance: jax.Array, cap: jax.Array, share: float, floor: int) -> jax.Array:
    """The cap behind an epoch: one more than the fewest ranks that have this share of all importance.

    It never rises, and does not fall below `floor`. Without any importance it stays.

    >>> [float(lower_cap(jnp.array([1.0, 8.0, 1.0, 0.0]), jnp.float32(cap), 0.8, 2)) for cap in (4, 2)]
    [2.0, 2.0]
    >>> float(lower_cap(jnp.array([1.0, 8.0, 1.0, 0.0]), jnp.float32(4), 0.95, 2))
    4.0
    """
    total = importance.sum()
    gathered = jnp.cumsum(-jnp.sort(-importance))
    # Compared as sums: a share of 1 must not be missed by the rounding of a quotient.
    enough = 1 + jnp.sum(gathered < share * gathered[-1])
    lowered = jnp.maximum(min(floor, importance.size), jnp.minimum(cap, enough + 1))
    return jnp.where(total > 0, jnp.minimum(lowered, cap), cap).astype(cap.dtype)


@dataclasses.dataclass(frozen=True)
class FAAR(StreamMethod):
    """Low-rank changes of directions and lengths, shared and per task, that lose unimportant ranks epoch by epoch."""

    name = "faar"
    reads_shared = True  # a task's layer multiplies the shared stream by the frozen kernel
    published = tuple(group for group in PUBLISHED if group != "reduction")

    rank: PerStage = option(64, "Rank of all matrices at the start.", by_stage(1))
    form: str = option(
        "dora", "Directions and lengths of columns (dora), or a plain low-rank change (lora).", one_of("dora", "lora")
    )
    share: float = option(0.95, "Share of all importance that the ranks kept at the end of an epoch have.", FRACTION)
    floor: int = option(2, "The least rank that shrinking leaves.", integer(1))
    momentum: float = option(0.98, "What importances keep of their average in a step.", RATE)
    penalty: float = option(1e-4, "Factor of the penalty on relative changes of shared lengths.", NOT_NEGATIVE)
    scale: PerStage = option(4.0, "Factor of the low-rank change.", by_stage(None))
    shared_layers: tuple[str, ...] = option(ROLES, "Roles of layers with shared matrices, in every block.", LAYERS)
    reductions: bool = option(True, "Whether dense layers between stages (patch merging) have shared matrices too.")
    task_layers: tuple[str, ...] = option(TASK_LAYERS, TASK_LAYERS_HELP, LAYERS)
    task_blocks: int = option(1, TASK_BLOCKS_HELP, integer(1))
    dropout: float = option(0.05, "Dropout rate on the shared stream's input of the changes.", RATE)
    unfrozen: tuple[str, ...] | None = unfrozen_option()

    def check(self, tasks: Sequence[str], stages: int | None = None) -> None:
        super().check(tasks, stages)
        if self.reductions and "reduction" in self.unfrozen:
            raise ConfigError(
                "config: method.unfrozen: 'reduction' has matrices beside its frozen weights; leave it out, or set "
                "method.reductions=false"
            )

    def plan_layer(self, site: Site) -> LayerPlan | None:
        if not site.in_block:
            return self._plan(site, (), [SHARED] if self.reductions else [])
        return self._plan(site, self.fan.streams(site), self.owners(site))

    def _plan(self, site: Site, streams: tuple[str, ...], owners: Sequence[str]) -> LayerPlan | None:
        shapes: dict[str, tuple[int, ...]] = {}
        for stream in owners:
            shapes |= self.stream_shapes(site, stream)
        return LayerPlan(site.info, site.shape, streams, shapes, "beside") if shapes else None

    def stream_shapes(self, site: Site, stream: str) -> dict[str, tuple[int, ...]]:
        """What trains for one stream of a layer, by name."""
        shapes = low_rank_shapes(site.shape, stream, pick(self.rank, site.info.stage), False)
        return shapes | ({f"magnitude_{stream}": site.shape[1:]} if self.form == "dora" else {})

    def attach(self, linear: Linear, plan: LayerPlan, factors, seed: int) -> ShrinkingAdapter:
        streams = (SHARED, *(stream for stream in plan.streams if stream != SHARED))
        scale = float(pick(self.scale, plan.info.stage))
        scales = {stream: scale for stream in streams if f"a_{stream}" in plan.parameters}
        adapter = ShrinkingAdapter(plan, low_rank_start(plan, scales, seed), scales, self)
        for stream in adapter.changed if self.form == "dora" else ():
            # Of the weights as they were loaded: at the start nothing changes.
            lengths = jnp.log(column_lengths(linear.kernel[...]))
            setattr(adapter, f"magnitude_{stream}", nnx.Param(lengths, decay=False))
        return adapter

    def upstream_extra(self, sites: Sequence[Site]) -> dict[str, int]:
        """The shared parameters of the very last layer: no task reads the stream that they change."""
        dead = sum(
            math.prod(shape)
            for site in self.unread_shared(sites)
            for shape in self.stream_shapes(site, SHARED).values()
        )
        return {"shared matrices and lengths, last layer (unused)": dead} if dead else {}
