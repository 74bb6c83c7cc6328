"""SVFT: a sparse matrix between the singular vectors of a frozen kernel, here a band around its diagonal.

References: Lingam et al., "SVFT: Parameter-Efficient Fine-Tuning with Singular Vectors", NeurIPS 2024.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from ditask_jax.adapters.execution import EXECUTIONS
from ditask_jax.adapters.method_registry import PerStage, pick
from ditask_jax.adapters.methods.svf import SVF
from ditask_jax.adapters.per_stream import SPLIT_QKV_HELP, PerStreamMethod
from ditask_jax.adapters.plan import LayerPlan, Site
from ditask_jax.adapters.spectral import SpectralAdapter, spectral_plan
from ditask_jax.factors import Factors
from ditask_jax.nn.context import Context, Scope
from ditask_jax.nn.linear import Linear, apply_kernel
from ditask_jax.nn.stochastic import drop_shared
from ditask_jax.options import RATE, by_stage, one_of, option


def band_size(rank: int, width: int) -> int:
    """Entries of a `rank x rank` matrix no more than `width` places off its diagonal.

    >>> band_size(4, 0), band_size(4, 1), band_size(4, 9)
    (4, 10, 16)
    """
    width = min(width, rank - 1)
    return rank * (2 * width + 1) - width * (width + 1)


def banded(entries: jax.Array, rank: int, width: int) -> jax.Array:
    """Matrices from their entries near the diagonal: `[..., band_size]` to `[..., rank, rank]`.

    The diagonal comes first, then the diagonals below and above it by turns.

    >>> banded(jnp.arange(1.0, 8.0), 3, 1).tolist()
    [[1.0, 6.0, 0.0], [4.0, 2.0, 7.0], [0.0, 5.0, 3.0]]
    """
    offsets = sorted(range(-min(width, rank - 1), min(width, rank - 1) + 1), key=lambda k: (abs(k), k))
    rows = np.concatenate([np.arange(rank - abs(offset)) + max(-offset, 0) for offset in offsets])
    columns = rows + np.repeat(offsets, [rank - abs(offset) for offset in offsets])
    empty = jnp.zeros((*entries.shape[:-1], rank, rank), entries.dtype)
    return empty.at[..., rows, columns].set(entries)


class BandedAdapter(SpectralAdapter):
    """`U (diag(sigma) + M) V` in place of a kernel, with a banded `M` for each stream that has its own."""

    prefix = "band"
    width: int

    @classmethod
    def prepare(cls, adapters: Sequence["BandedAdapter"]) -> list[jax.Array]:
        """The matrices `M` of every layer, `[S, P, R, R]`."""
        found = []
        for adapter in adapters:
            parts, rank = adapter.singular_values.shape
            made = {name: banded(getattr(adapter, name)[...], rank, adapter.width) for name in adapter.names if name}
            still = jnp.zeros((parts, rank, rank), jnp.float32)
            found.append(jnp.stack([made[name] if name else still for name in adapter.names]))
        return found

    def __call__(self, linear: Linear, x: jax.Array, streams: tuple[str, ...], context: Context) -> jax.Array:
        change = context.prepared[self.path]
        if self.execution == "materialised":
            return super().__call__(linear, x, streams, context)
        x = drop_shared(x, self.dropout_rate, context, self.path, streams)
        left, right = self.left[...].astype(context.dtype), self.right[...]
        own = lambda kernel: kernel if self.streams else kernel[0]
        outputs = []
        for part, (vectors, values) in enumerate(zip(left, self.singular_values[...], strict=True)):
            coordinates = apply_kernel(x, vectors)
            unmoved = values[:, None] * right[part]
            moved = jnp.einsum("sij,jo->sio", change[:, part], right[part], precision=jax.lax.Precision.HIGHEST)
            if context.wide == context.dtype:
                outputs.append(apply_kernel(coordinates, own(unmoved[None] + moved)))
                continue
            # Apart: rounded together to a narrow dtype, a small change would be lost.
            still = apply_kernel(coordinates, unmoved.astype(context.dtype), context.wide)
            outputs.append(still + apply_kernel(coordinates, own(moved).astype(context.dtype)))
        return outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=-1)

    def merged_kernel(self, linear: Linear, prepared: jax.Array) -> jax.Array:
        kernel = jnp.einsum("pir,sprq,pqo->sipo", self.left[...], prepared, self.right[...])
        kernel = self.base_kernel(linear)[None] + rearrange(kernel, "s i p o -> s i (p o)")
        return kernel if self.streams else kernel[0]


@dataclasses.dataclass(frozen=True)
class SVFT(PerStreamMethod):
    """Singular vectors stay, and what stands between them gets trained entries near its diagonal."""

    name = "svft"
    tuned = SVF.analogy()

    bandwidth: PerStage = option(
        1, "d: diagonals on each side of the main one; 0 moves the singular values alone.", by_stage(0)
    )
    split_qkv: bool = option(False, SPLIT_QKV_HELP)
    execution: str = option(
        "auto", "How products are computed: auto chooses by shape and tokens; all ways agree.", one_of(*EXECUTIONS)
    )
    dropout: float = option(0.05, "Dropout rate on the input of adapted layers.", RATE)

    def needs_factors(self) -> bool:
        return True

    def stream_shapes(self, site: Site, stream: str) -> dict[str, tuple[int, ...]]:
        parts = site.info.parts
        rank = min(site.shape[0], site.shape[1] // parts)
        return {BandedAdapter.prefix: (parts, band_size(rank, pick(self.bandwidth, site.info.stage)))}

    def layer_plan(self, site: Site, streams: tuple[str, ...], shapes: Mapping[str, tuple[int, ...]]) -> LayerPlan:
        return spectral_plan(site, self.fan, streams, shapes, self.execution)

    def attach(self, linear: Linear, plan: LayerPlan, factors: Factors, seed: int) -> BandedAdapter:
        bands = {name: Scope().zeros(shape) for name, shape in plan.parameters.items()}
        adapter = BandedAdapter(plan, self.dropout, bands, factors)
        adapter.width = pick(self.bandwidth, plan.info.stage)
        return adapter
