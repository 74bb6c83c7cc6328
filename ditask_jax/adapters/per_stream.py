"""What methods share that give every stream a kernel of its own: whose parameters act on it, and low-rank changes.

As in DiTASK, a task's layers read that task's stream alone: behind the split nothing looks at the shared one.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from ditask_jax.adapters.method_registry import (
    LAYERS,
    TASK_BLOCKS_HELP,
    TASK_LAYERS,
    TASK_LAYERS_HELP,
)
from ditask_jax.adapters.plan import ROLES, LayerPlan, Site
from ditask_jax.adapters.wrap import StreamMethod, unfrozen_option
from ditask_jax.nn.context import Context
from ditask_jax.nn.linear import SHARED, LayerAdapter, Linear, apply_kernel
from ditask_jax.nn.stochastic import drop_shared
from ditask_jax.options import integer, option

SPLIT_QKV_HELP = "Whether a packed q, k, v is three matrices with parameters of their own each, or one matrix."
DROPOUT_HELP = "Dropout rate on the shared stream's input of what is added."


@dataclasses.dataclass(frozen=True)
class PerStreamMethod(StreamMethod):
    """A method whose layers have parameters for the shared stream, and where streams are split for every task's.

    A subclass says by `stream_shapes` what a stream has, and attaches the adapters.
    """

    shared_layers: tuple[str, ...] = option(ROLES, "Roles of layers with shared parameters, in every block.", LAYERS)
    task_layers: tuple[str, ...] = option(TASK_LAYERS, TASK_LAYERS_HELP, LAYERS)
    task_blocks: int = option(1, TASK_BLOCKS_HELP, integer(1))
    unfrozen: tuple[str, ...] | None = unfrozen_option()

    def stream_shapes(self, site: Site, stream: str) -> dict[str, tuple[int, ...]]:
        """What trains for one stream of a layer: shapes by kind; a parameter's name is `{kind}_{stream}`."""
        raise TypeError(f"method '{self.name}' does not say what a stream has")

    def seen(self, site: Site) -> Site:
        """The layer as the method sees it: without `split_qkv`, all its outputs are one matrix."""
        if getattr(self, "split_qkv", True):
            return site
        return dataclasses.replace(site, info=dataclasses.replace(site.info, parts=1))

    def named_shapes(self, site: Site, streams: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Shapes of the parameters of these streams, by name."""
        kinds = {stream: self.stream_shapes(site, stream) for stream in streams}
        return {f"{kind}_{stream}": shape for stream, shapes in kinds.items() for kind, shape in shapes.items()}

    def plan_layer(self, site: Site) -> LayerPlan | None:
        if not site.in_block:
            return None
        site = self.seen(site)
        shapes = self.named_shapes(site, self.owners(site))
        return self.layer_plan(site, self.fan.streams(site), shapes) if shapes else None

    def layer_plan(self, site: Site, streams: tuple[str, ...], shapes: Mapping[str, tuple[int, ...]]) -> LayerPlan:
        """The plan of a layer that has parameters."""
        return LayerPlan(site.info, site.shape, streams, shapes, "beside")

    def upstream_extra(self, sites: Sequence[Site]) -> dict[str, int]:
        """Shared parameters behind the last split: no head reads the stream that they change."""
        dead = sum(
            LayerPlan(site.info, site.shape, (), self.named_shapes(self.seen(site), [SHARED]), "").trainable
            for site in self.unread_shared(sites)
        )
        return {"shared parameters, last block (unused)": dead} if dead else {}


class PerStreamAdapter(LayerAdapter):
    """What acts on which stream: its own parameters, the shared ones where it has none, or nothing.

    Attributes:
      streams: streams that leave the layer, empty for "those that enter".
      sources: for each of `streams` the stream whose parameters act on it, or "". With empty `streams` one entry serves
        all.
    """

    def __init__(self, plan: LayerPlan, parameters: Mapping[str, jax.Array], decay: Sequence[str] = ()):
        """Takes the parameters by name; weight decay applies to those of the kinds in `decay`."""
        self.path = plan.info.path
        self.streams = plan.streams
        owners = dict.fromkeys(name.partition("_")[2] for name in plan.parameters)
        shared = SHARED if SHARED in owners else ""
        self.sources = tuple(stream if stream in owners else shared for stream in plan.streams or (SHARED,))
        for name, value in parameters.items():
            setattr(self, name, nnx.Param(value, decay=name.partition("_")[0] in decay))

    def streams_out(self, streams: tuple[str, ...]) -> tuple[str, ...]:
        return self.streams or streams

    @property
    def owners(self) -> tuple[str, ...]:
        """Streams that have parameters here, each once."""
        return tuple(dict.fromkeys(source for source in self.sources if source))

    def of(self, kind: str, owner: str) -> jax.Array:
        """A parameter of a stream."""
        return getattr(self, f"{kind}_{owner}")[...]

    def per_stream(self, values: Mapping[str, jax.Array], otherwise: jax.Array) -> jax.Array:
        """Arrays by owner in the order of `sources`, `[S, ...]`; `otherwise` for a stream on which nothing acts."""
        return jnp.stack([values[source] if source else otherwise for source in self.sources])


class LowRankChange(PerStreamAdapter):
    """`x W + (x D) E` on every stream, with a frozen `W`. A subclass defines `factors`."""

    def __init__(self, plan: LayerPlan, dropout: float, parameters: Mapping[str, jax.Array], decay: Sequence[str] = ()):
        super().__init__(plan, parameters, decay)
        self.dropout_rate = dropout

    def factors(self, linear: Linear, prepared: Any) -> tuple[jax.Array, jax.Array]:
        """`D` `[1 or S, P, in, R]` and `E` `[S, P, R, out/P]` of the P parts of the kernel, float32."""
        raise TypeError(f"{type(self).__name__} does not define factors")

    def __call__(self, linear: Linear, x: jax.Array, streams: tuple[str, ...], context: Context) -> jax.Array:
        # Wide: rounded before a small change is added, it would swallow that.
        y = apply_kernel(x, linear.kernel[...].astype(context.dtype), context.wide)
        down, up = (f.astype(context.dtype) for f in self.factors(linear, context.prepared.get(self.path)))
        # A single set of factors serves any number of streams.
        of_part = lambda factor, part: factor[0, part] if factor.shape[0] == 1 else factor[:, part]
        x = drop_shared(x, self.dropout_rate, context, self.path, streams)
        changes = [apply_kernel(apply_kernel(x, of_part(down, p)), of_part(up, p)) for p in range(up.shape[1])]
        return y + (changes[0] if len(changes) == 1 else jnp.concatenate(changes, axis=-1))

    def merged_kernel(self, linear: Linear, prepared: Any) -> jax.Array:
        down, up = self.factors(linear, prepared)
        down = jnp.broadcast_to(down, (up.shape[0], *down.shape[1:]))
        change = jnp.einsum("spir,spro->sipo", down, up, precision=jax.lax.Precision.HIGHEST)
        kernel = linear.kernel[...][None] + rearrange(change, "s i p o -> s i (p o)")
        return kernel if self.streams else kernel[0]


def padded(matrix: jax.Array, rows: int, columns: int) -> jax.Array:
    """A matrix with zeros behind its last two axes up to this size, so that streams of other ranks share a product.

    >>> padded(jnp.ones((1, 1)), 2, 2).tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    *leading, height, width = matrix.shape
    return jnp.pad(matrix, [(0, 0)] * len(leading) + [(0, rows - height), (0, columns - width)])


def grouped(arrays: Sequence[jax.Array], compute) -> list[jax.Array]:
    """`compute` of a stack of arrays of one shape, once for every shape, and the results one by one.

    What layers of a model compute with small matrices is then a few programs, not hundreds.

    >>> [x.tolist() for x in grouped([jnp.ones(2), jnp.ones(1), jnp.zeros(2)], lambda stack: stack + 1)]
    [[2.0, 2.0], [2.0], [1.0, 1.0]]
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, array in enumerate(arrays):
        groups.setdefault(array.shape, []).append(index)
    found: list[Any] = [None] * len(arrays)
    for indices in groups.values():
        results = compute(jnp.stack([arrays[index] for index in indices]))
        for row, index in enumerate(indices):
            found[index] = results[row]
    return found
