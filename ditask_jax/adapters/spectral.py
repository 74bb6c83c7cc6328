"""What methods share that move singular values and keep singular vectors: three equal ways to form the product."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from ditask_jax.adapters.execution import choose_execution, factored_product
from ditask_jax.adapters.plan import FanOut, LayerPlan, Site
from ditask_jax.factors import Factors
from ditask_jax.nn.context import Context
from ditask_jax.nn.linear import SHARED, LayerAdapter, Linear, apply_kernel
from ditask_jax.nn.state import FrozenParam
from ditask_jax.nn.stochastic import drop_shared


class SpectralAdapter(LayerAdapter):
    """Replaces a frozen kernel by `U diag(sigma + change) V`, with a change for every stream that has its own.

    A subclass defines `prepare`, which gives the changes `[S, P, R]` of the singular values.

    Attributes:
      prefix: a stream's parameter is called `{prefix}_{stream}`.
      streams: streams that leave the layer, empty for "those that enter".
      names: for each of `streams` the name of its parameter, or "" for the unchanged spectrum. With empty `streams`
        one entry serves all.
      left, singular_values, right: frozen factors `[P, in, R]`, `[P, R]`, `[P, R, out/P]`.
    """

    prefix = "theta"

    def __init__(self, plan: LayerPlan, dropout: float, parameters: Mapping[str, jax.Array], factors: Factors):
        self.path = plan.info.path
        self.streams = plan.streams
        self.execution = plan.execution
        self.dropout_rate = dropout
        shared = f"{self.prefix}_{SHARED}" if f"{self.prefix}_{SHARED}" in plan.parameters else ""
        own = [f"{self.prefix}_{stream}" for stream in plan.streams or (SHARED,)]
        self.names = tuple(name if name in plan.parameters else shared for name in own)
        # Nobody else writes to factors, so that JAX may keep their memory in place of a copy.
        left, values, right = jax.device_put(factors, may_alias=True)
        self.left, self.singular_values, self.right = FrozenParam(left), FrozenParam(values), FrozenParam(right)
        for name, value in parameters.items():
            setattr(self, name, nnx.Param(value, decay="thetas"))

    def streams_out(self, streams: tuple[str, ...]) -> tuple[str, ...]:
        return self.streams or streams

    @property
    def moving(self) -> dict[str, tuple[int, str]]:
        """The streams whose spectrum moves: its row in the changes, and the name of the parameter that moves it."""
        own = zip(self.streams or (SHARED,), self.names, strict=True)
        return {stream: (row, name) for row, (stream, name) in enumerate(own) if name}

    def __call__(self, linear: Linear, x: jax.Array, streams: tuple[str, ...], context: Context) -> jax.Array:
        # As upstream, dropout falls on the shared stream only: a task's own input is never dropped.
        x = drop_shared(x, self.dropout_rate, context, self.path, streams)
        change = context.prepared[self.path]
        if self.execution == "materialised":
            return apply_kernel(x, self.merged_kernel(linear, change).astype(context.dtype), context.wide)
        left, right = self.left[...].astype(context.dtype), self.right[...].astype(context.dtype)
        return factored_product(x, left, self.singular_values[...], change, right)

    def base_kernel(self, linear: Linear) -> jax.Array:
        """The kernel itself, or where the factors took its place their product."""
        if hasattr(linear, "kernel"):
            return linear.kernel[...]
        left, right = self.left[...] * self.singular_values[...][:, None, :], self.right[...]
        # Accelerators multiply float32 in fewer bits unless told otherwise: more is lost than small changes amount to.
        kernel = jnp.einsum("pir,pro->ipo", left, right, precision=jax.lax.Precision.HIGHEST)
        return rearrange(kernel, "i p o -> i (p o)")

    def merged_kernel(self, linear: Linear, prepared: jax.Array) -> jax.Array:
        """`W + U diag(change) V`: exactly `W` where nothing changes. `[in, out]`, or `[S, in, out]`, in float32."""
        kernel = jnp.einsum("spir,pro->sipo", self.left[...][None] * prepared[:, :, None, :], self.right[...])
        kernel = self.base_kernel(linear)[None] + rearrange(kernel, "s i p o -> s i (p o)")
        return kernel if self.streams else kernel[0]

    def per_stream(self, changes: Mapping[str, jax.Array]) -> jax.Array:
        """Changes by parameter name, in the order of `names`: `[P, R]` each to `[S, P, R]`."""
        still = jnp.zeros_like(self.singular_values[...])
        return jnp.stack([changes[name] if name else still for name in self.names])


def spectral_plan(
    site: Site, fan: FanOut, streams: tuple[str, ...], shapes: Mapping[str, tuple[int, ...]], asked: str
) -> LayerPlan:
    """The plan of a layer whose singular values move, with the cheapest way to form the product."""
    inputs, outputs = site.shape
    streams_in = 1 if not streams or fan.splits(site) else len(streams)
    rank = min(inputs, outputs // site.info.parts)
    rows = site.info.tokens * site.examples
    way = choose_execution(asked, site.shape, site.info.parts, rank, streams_in, len(streams) or 1, rows)
    return LayerPlan(site.info, site.shape, streams, shapes, way)
