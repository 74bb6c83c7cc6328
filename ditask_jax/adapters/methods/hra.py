"""HRA: a frozen kernel behind a chain of trained reflections of its input.

References: Yuan et al., "Bridging The Gap between Low-rank and Orthogonal Adaptation via Householder Reflection
Adaptation", NeurIPS 2024. The chain as one low-rank change: Joffrain et al., "Accumulating Householder
transformations, revisited", ACM TOMS 2006.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from ditask_jax.adapters.method_registry import PerStage, PerTask, pick
from ditask_jax.adapters.per_stream import DROPOUT_HELP, LowRankChange, PerStreamMethod, grouped, padded
from ditask_jax.adapters.plan import LayerPlan, Site
from ditask_jax.nn.context import Scope
from ditask_jax.nn.linear import SHARED, Linear
from ditask_jax.options import RATE, by_stage, option, wrong

# Under the root of a column's squared length: a column of zeros has length 0 and would divide by it.
SMALLEST = 1e-12


def chain_cores(gram: jax.Array) -> jax.Array:
    """`T` such that the reflections along the unit columns of V, first to last, are `I - V T V^T` in one.

    Shapes: `V^T V`, `[..., r, r]`, to the same.

    >>> chain_cores(jnp.array([[1.0, 0.5], [0.5, 1.0]])).tolist()
    [[2.0, -2.0], [0.0, 2.0]]
    """
    half = jnp.broadcast_to(0.5 * jnp.eye(gram.shape[-1], dtype=gram.dtype), gram.shape)
    one = jnp.broadcast_to(jnp.eye(gram.shape[-1], dtype=gram.dtype), gram.shape)
    return jax.lax.linalg.triangular_solve(half + jnp.triu(gram, 1), one, left_side=True, lower=False)


class ReflectionAdapter(LowRankChange):
    """`x W - (x V) T^T (V^T W)`: the input goes through the last reflection first."""

    @classmethod
    def prepare(cls, adapters: Sequence["ReflectionAdapter"]) -> list[dict[str, tuple[jax.Array, jax.Array]]]:
        """Unit columns and `T` by owner, for each layer."""
        places = [(adapter, owner) for adapter in adapters for owner in adapter.owners]
        units = []
        for adapter, owner in places:
            directions = adapter.of("directions", owner)
            units.append(directions / jnp.sqrt(jnp.sum(directions**2, axis=0, keepdims=True) + SMALLEST))
        gram = lambda v: jnp.matmul(v.T, v, precision=jax.lax.Precision.HIGHEST)
        cores = grouped([gram(v) for v in units], chain_cores)
        found: dict[int, dict] = {id(adapter): {} for adapter in adapters}
        for (adapter, owner), unit, core in zip(places, units, cores, strict=True):
            found[id(adapter)][owner] = unit, core
        return [found[id(adapter)] for adapter in adapters]

    def factors(self, linear: Linear, prepared: Mapping[str, tuple]) -> tuple[jax.Array, jax.Array]:
        kernel, highest = linear.kernel[...], jax.lax.Precision.HIGHEST
        rank = max(core.shape[0] for _, core in prepared.values())
        down, up = {}, {}
        for owner, (unit, core) in prepared.items():
            seen = jnp.matmul(unit.T, kernel, precision=highest)
            down[owner] = padded(unit, linear.inputs, rank)
            up[owner] = padded(-jnp.matmul(core.T, seen, precision=highest), rank, linear.outputs)
        zeros = lambda *shape: jnp.zeros(shape, jnp.float32)
        down = self.per_stream(down, zeros(linear.inputs, rank))
        return down[:, None], self.per_stream(up, zeros(rank, linear.outputs))[:, None]


@dataclasses.dataclass(frozen=True)
class HRA(PerStreamMethod):
    """Every kernel is multiplied by an orthogonal matrix, a product of reflections."""

    name = "hra"

    shared_reflections: PerStage = option(
        8, "Shared reflections in a layer, an even number: they start in equal pairs, which cancel.", by_stage(2)
    )
    task_reflections: PerTask = option(2, "Reflections of every task, an even number.", by_stage(2, by_task=True))
    dropout: float = option(0.05, DROPOUT_HELP, RATE)

    def check(self, tasks: Sequence[str], stages: int | None = None) -> None:
        super().check(tasks, stages)
        for field in ("shared_reflections", "task_reflections"):
            value = getattr(self, field)
            for entry in value.values() if isinstance(value, Mapping) else [value]:
                if any(number % 2 for number in (entry if isinstance(entry, tuple | list) else [entry])):
                    raise wrong(f"config: method.{field}", value, "even numbers: reflections start in equal pairs")

    def stream_shapes(self, site: Site, stream: str) -> dict[str, tuple[int, ...]]:
        shared, stage = stream == SHARED, site.info.stage
        count = pick(self.shared_reflections, stage) if shared else pick(self.task_reflections, stage, stream)
        return {"directions": (site.shape[0], count)}

    def attach(self, linear: Linear, plan: LayerPlan, factors, seed: int) -> ReflectionAdapter:
        scope = Scope(seed=seed, path=plan.info.path)

        def start(name: str, shape: tuple[int, int]) -> jax.Array:
            inputs, count = shape
            pairs = scope.uniform(name, (inputs, count // 2), 1 / math.sqrt(inputs))
            return jnp.repeat(pairs, 2, axis=1)

        directions = {name: start(name, shape) for name, shape in plan.parameters.items()}
        # Lengths do not matter, so decay would do nothing but make steps larger.
        return ReflectionAdapter(plan, self.dropout, directions)
