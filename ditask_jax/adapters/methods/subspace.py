"""LoRA-XS and PSOFT: small trained matrices between the leading singular vectors of a frozen kernel."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ditask_jax.adapters.method_registry import PerStage, PerTask, pick
from ditask_jax.adapters.methods.svf import SVF
from ditask_jax.adapters.per_stream import (
    DROPOUT_HELP,
    SPLIT_QKV_HELP,
    LowRankChange,
    PerStreamMethod,
    grouped,
    padded,
)
from ditask_jax.adapters.plan import LayerPlan, Site
from ditask_jax.factors import Factors
from ditask_jax.nn.context import Scope
from ditask_jax.nn.linear import SHARED, Linear
from ditask_jax.nn.state import FrozenParam
from ditask_jax.options import RATE, by_stage, one_of, option

# What both share: `W + D M E`. D has the r leading left singular vectors, E the right ones times the singular values.


class SubspaceAdapter(LowRankChange):
    """`x W + ((x D) M) E`, with a core `M` `[P, r, r]` for every stream that has its own.

    A subclass defines `prepare`, which gives the cores by owner.

    Attributes:
      left, right: frozen `D` `[P, in, R]` and `E` `[P, R, out/P]`, R the largest rank of a stream.
    """

    def __init__(
        self,
        plan: LayerPlan,
        dropout: float,
        parameters: Mapping[str, jax.Array],
        decay: Sequence[str],
        factors: Factors,
        rank: int,
    ):
        super().__init__(plan, dropout, parameters, decay)
        left, values, right = (np.asarray(factor) for factor in factors)
        self.left = FrozenParam(jnp.asarray(left[:, :, :rank]))
        self.right = FrozenParam(jnp.asarray(values[:, :rank, None] * right[:, :rank]))

    def factors(self, linear: Linear, prepared: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        parts, _, rank = self.left.shape
        cores = {owner: padded(core, rank, rank) for owner, core in prepared.items()}
        cores = self.per_stream(cores, jnp.zeros((parts, rank, rank), jnp.float32))
        highest = jax.lax.Precision.HIGHEST
        return self.left[...][None], jnp.einsum("spij,pjo->spio", cores, self.right[...], precision=highest)


@dataclasses.dataclass(frozen=True)
class SubspaceMethod(PerStreamMethod):
    """The options of both."""

    tuned = SVF.analogy()

    shared_rank: PerStage = option(8, "Rank r of the shared subspace, at most all singular values.", by_stage(1))
    task_rank: PerTask = option(2, "Rank of every task's subspace.", by_stage(1, by_task=True))
    split_qkv: bool = option(False, SPLIT_QKV_HELP)
    dropout: float = option(0.05, DROPOUT_HELP, RATE)

    def needs_factors(self) -> bool:
        return True

    def rank(self, site: Site, stream: str) -> int:
        """The rank of a stream's core: no more than there are singular values."""
        stage = site.info.stage
        asked = pick(self.shared_rank, stage) if stream == SHARED else pick(self.task_rank, stage, stream)
        return min(asked, site.shape[0], site.shape[1] // site.info.parts)


# LoRA-XS: the core is a free matrix.
#
# References: Bałazy et al., "LoRA-XS: Low-Rank Adaptation with Extremely Small Number of Parameters", 2024.


class FreeCoreAdapter(SubspaceAdapter):
    """The core is `scale * core`."""

    scale: float

    @classmethod
    def prepare(cls, adapters: Sequence["FreeCoreAdapter"]) -> list[dict[str, jax.Array]]:
        return [{owner: a.scale * a.of("core", owner) for owner in a.owners} for a in adapters]


@dataclasses.dataclass(frozen=True)
class LoRAXS(SubspaceMethod):
    """A free r x r matrix between the r leading singular vectors of every kernel."""

    name = "lora_xs"

    scale: PerStage = option(1.0, "Factor of the change: alpha / r of the paper.", by_stage(None))
    init: str = option(
        "identity",
        "Initial core: zero, or normal with standard deviation 1e-5 as in the released code (upstream).",
        one_of("identity", "upstream"),
    )

    @property
    def identity_at_start(self) -> bool:
        return self.init == "identity"

    def stream_shapes(self, site: Site, stream: str) -> dict[str, tuple[int, ...]]:
        rank = self.rank(site, stream)
        return {"core": (site.info.parts, rank, rank)}

    def attach(self, linear: Linear, plan: LayerPlan, factors: Factors, seed: int) -> FreeCoreAdapter:
        scope = Scope(seed=seed, path=plan.info.path)
        start = lambda name, shape: scope.zeros(shape) if self.init == "identity" else scope.normal(name, shape, 1e-5)
        cores = {name: start(name, shape) for name, shape in plan.parameters.items()}
        rank = max(shape[-1] for shape in plan.parameters.values())
        adapter = FreeCoreAdapter(plan, self.dropout, cores, ("core",), factors, rank)
        adapter.scale = float(pick(self.scale, plan.info.stage))
        return adapter


# PSOFT: the core turns the subspace and stretches its axes.
#
# References: "Efficient Orthogonal Fine-Tuning with Principal Subspace Adaptation" (PSOFT), 2025.


def cayley(skew: jax.Array, size: int) -> jax.Array:
    """Rotations `(I + K)^-1 (I - K)` of skew-symmetric matrices `K`.

    Shapes: the entries of K above the diagonal, row by row, `[..., size (size - 1) / 2]`, to `[..., size, size]`.

    >>> cayley(jnp.array([1.0]), 2).round(3).tolist()
    [[0.0, -1.0], [1.0, 0.0]]
    """
    rows, columns = np.triu_indices(size, 1)
    upper = jnp.zeros((*skew.shape[:-1], size, size), skew.dtype).at[..., rows, columns].set(skew)
    skew = upper - jnp.swapaxes(upper, -1, -2)
    one = jnp.broadcast_to(jnp.eye(size, dtype=skew.dtype), skew.shape)
    return jnp.linalg.solve(one + skew, one - skew)


def _rotations(skew: jax.Array) -> jax.Array:
    """`cayley` of stacks whose last axis tells the size."""
    return cayley(skew, int((1 + (1 + 8 * skew.shape[-1]) ** 0.5) / 2))


class RotationAdapter(SubspaceAdapter):
    """The core is `diag(input) Q diag(output) - I` with a rotation `Q`."""

    def skew(self, owner: str) -> jax.Array:
        """What turns the axes of a stream; a single axis cannot turn."""
        alone = self.of("input", owner).shape[-1] == 1
        return jnp.zeros((self.left.shape[0], 0), jnp.float32) if alone else self.of("skew", owner)

    @classmethod
    def prepare(cls, adapters: Sequence["RotationAdapter"]) -> list[dict[str, jax.Array]]:
        """Cores by owner, for each layer; the rotations of one size are made together."""
        places = [(adapter, owner) for adapter in adapters for owner in adapter.owners]
        rotations = grouped([adapter.skew(owner) for adapter, owner in places], _rotations)
        found: dict[int, dict[str, jax.Array]] = {id(adapter): {} for adapter in adapters}
        for (adapter, owner), rotation in zip(places, rotations, strict=True):
            stretched = adapter.of("input", owner)[:, :, None] * rotation * adapter.of("output", owner)[:, None, :]
            one = jnp.eye(rotation.shape[-1], dtype=rotation.dtype)
            found[id(adapter)][owner] = stretched - jnp.broadcast_to(one, rotation.shape)
        return [found[id(adapter)] for adapter in adapters]


@dataclasses.dataclass(frozen=True)
class PSOFT(SubspaceMethod):
    """The r leading singular directions of every kernel are rotated, and stretched on both sides."""

    name = "psoft"

    shared_rank: PerStage = option(10, "Rank r of the shared subspace, at most all singular values.", by_stage(1))
    task_rank: PerTask = option(4, "Rank of every task's subspace.", by_stage(1, by_task=True))

    def stream_shapes(self, site: Site, stream: str) -> dict[str, tuple[int, ...]]:
        parts, rank = site.info.parts, self.rank(site, stream)
        turned = {"skew": (parts, rank * (rank - 1) // 2)} if rank > 1 else {}
        return turned | {"input": (parts, rank), "output": (parts, rank)}

    def attach(self, linear: Linear, plan: LayerPlan, factors: Factors, seed: int) -> RotationAdapter:
        scope = Scope(seed=seed, path=plan.info.path)
        start = lambda name, shape: scope.zeros(shape) if name.startswith("skew_") else scope.ones(shape)
        parameters = {name: start(name, shape) for name, shape in plan.parameters.items()}
        rank = max(shape[-1] for name, shape in plan.parameters.items() if name.startswith("input_"))
        # Decay of the skew matrices pulls rotations to the identity; the factors belong at one.
        return RotationAdapter(plan, self.dropout, parameters, ("skew",), factors, rank)
