"""IA3: trained factors on keys and values, and on what enters the second layer of the MLP.

References: Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning",
NeurIPS 2022.
"""

import dataclasses

import jax
import jax.numpy as jnp

from ditask_jax.adapters.method_registry import LAYERS, TASK_LAYERS_HELP
from ditask_jax.adapters.methods.svf import SVF
from ditask_jax.adapters.per_stream import PerStreamAdapter, PerStreamMethod
from ditask_jax.adapters.plan import LayerPlan, Site
from ditask_jax.nn.context import Context, Scope
from ditask_jax.nn.linear import Linear, apply_kernel
from ditask_jax.numerics import widened
from ditask_jax.options import option

# The role whose outputs are scaled; of all others the inputs are.
ATTENTION = "qkv"


class FactorAdapter(PerStreamAdapter):
    """`(x * factor) W`, or `(x W) * factor` on the last outputs; the layer's bias is left as it is."""

    scales_outputs: bool

    def vectors(self, size: int) -> jax.Array:
        """The factors of every stream, `[S, size]`: 1 where nothing is scaled."""
        owned = {owner: self.of("factor", owner) for owner in self.owners}
        whole = lambda factor: jnp.concatenate([jnp.ones(size - factor.size, jnp.float32), factor])
        return self.per_stream({o: whole(f) for o, f in owned.items()}, jnp.ones(size, jnp.float32))

    def __call__(self, linear: Linear, x: jax.Array, streams: tuple[str, ...], context: Context) -> jax.Array:
        kernel = linear.kernel[...].astype(context.dtype)
        along = lambda v: v.reshape(v.shape[0], *(1,) * (x.ndim - 2), v.shape[1])
        if self.scales_outputs:
            return apply_kernel(x, kernel, context.wide) * along(self.vectors(linear.outputs))
        scaled = widened(x) * along(self.vectors(linear.inputs))
        return apply_kernel(scaled.astype(context.dtype), kernel, context.wide)

    def merged_kernel(self, linear: Linear, prepared: None) -> jax.Array:
        if self.scales_outputs:
            kernel = linear.kernel[...][None] * self.vectors(linear.outputs)[:, None, :]
        else:
            kernel = linear.kernel[...][None] * self.vectors(linear.inputs)[:, :, None]
        return kernel if self.streams else kernel[0]


@dataclasses.dataclass(frozen=True)
class IA3(PerStreamMethod):
    """Keys, values and the hidden units of the MLP are scaled."""

    name = "ia3"
    tuned = SVF.analogy()

    shared_layers: tuple[str, ...] = option(
        ("qkv", "fc2"),
        "Roles of layers with shared factors: of qkv on the keys and values that leave, of others on what enters.",
        LAYERS,
    )
    task_layers: tuple[str, ...] = option(("fc2",), TASK_LAYERS_HELP, LAYERS)

    def stream_shapes(self, site: Site, stream: str) -> dict[str, tuple[int, ...]]:
        inputs, outputs = site.shape
        if site.info.role != ATTENTION:
            return {"factor": (inputs,)}
        # Packed with queries, keys and values are the last two of three parts; a layer of one part has queries alone.
        scaled = {1: 0, 2: outputs}.get(site.info.parts, outputs - outputs // site.info.parts)
        return {"factor": (scaled,)} if scaled else {}

    def attach(self, linear: Linear, plan: LayerPlan, factors, seed: int) -> FactorAdapter:
        ones = {name: Scope().ones(shape) for name, shape in plan.parameters.items()}
        adapter = FactorAdapter(plan, ones)
        adapter.scales_outputs = plan.info.role == ATTENTION
        return adapter
