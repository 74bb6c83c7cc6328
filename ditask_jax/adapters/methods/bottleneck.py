"""Houlsby adapters: a narrow two-layer network with a residual behind the attention and behind the MLP.

References: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019.
"""

import dataclasses
import math
from collections.abc import Mapping

import jax
from flax import nnx

from ditask_jax.adapters.method_registry import PerStage, pick
from ditask_jax.adapters.plan import LayerPlan, Site
from ditask_jax.adapters.wrap import UnfrozenMethod, unfrozen_option
from ditask_jax.nn.context import Context, Scope
from ditask_jax.nn.linear import LayerAdapter, Linear, apply_kernel
from ditask_jax.nn.products import gelu
from ditask_jax.options import by_stage, option


class BottleneckAdapter(LayerAdapter):
    """`y + gelu(y D + d) U + u` behind a frozen layer's output `y`, its bias included. No kernel can stand for it."""

    mergeable = False

    def __init__(self, parameters: Mapping[str, jax.Array]):
        for name, value in parameters.items():
            setattr(self, name, nnx.Param(value, decay=value.ndim > 1))

    def __call__(self, linear: Linear, x: jax.Array, streams: tuple[str, ...], context: Context) -> jax.Array:
        cast = lambda array: array[...].astype(context.dtype)
        row = lambda vector, like: vector[...].reshape((1,) * (like.ndim - 1) + (-1,))
        # Wide: rounded before a small change is added, it would swallow that.
        y = apply_kernel(x, cast(linear.kernel), context.wide)
        # The layer adds its own bias behind the adapter, which has to see it.
        seen = y + row(linear.bias, y) if hasattr(linear, "bias") else y
        hidden = apply_kernel(seen.astype(context.dtype), cast(self.down_shared), context.wide)
        hidden = gelu((hidden + row(self.down_bias_shared, hidden)).astype(context.dtype))
        return y + apply_kernel(hidden, cast(self.up_shared)) + row(self.up_bias_shared, y)


@dataclasses.dataclass(frozen=True)
class Adapter(UnfrozenMethod):
    """Bottlenecks behind the attention and behind the MLP. In the paper the norms alone train beside them."""

    name = "adapter"

    bottleneck: PerStage = option(64, "Width of the bottlenecks.", by_stage(1))
    unfrozen: tuple[str, ...] | None = unfrozen_option()

    def plan_layer(self, site: Site) -> LayerPlan | None:
        if site.info.role not in site.roles.ends:
            return None
        width, outputs = pick(self.bottleneck, site.info.stage), site.shape[1]
        shapes = {
            "down_shared": (outputs, width),
            "down_bias_shared": (width,),
            "up_shared": (width, outputs),
            "up_bias_shared": (outputs,),
        }
        return LayerPlan(site.info, site.shape, (), shapes, "behind")

    def attach(self, linear: Linear, plan: LayerPlan, factors, seed: int) -> BottleneckAdapter:
        scope = Scope(seed=seed, path=plan.info.path)
        values = {name: scope.zeros(shape) for name, shape in plan.parameters.items()}
        bound = 1 / math.sqrt(plan.shape[1])
        values["down_shared"] = scope.uniform("down_shared", plan.parameters["down_shared"], bound)
        return BottleneckAdapter(values)
