"""DiTASK: frozen singular vectors, and a small diffeomorphism of the singular values, shared and per task.

References: Mantri et al., "DiTASK: Multi-Task Fine-Tuning with Diffeomorphic Transformations", CVPR 2025.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from ditask_jax import cpab
from ditask_jax.adapters.execution import EXECUTIONS, choose_execution
from ditask_jax.adapters.plan import LayerPlan
from ditask_jax.adapters.registry import Method
from ditask_jax.errors import ConfigError, check_known
from ditask_jax.linalg import Factors
from ditask_jax.nn.context import Context, name_hash
from ditask_jax.nn.linear import SHARED, Adapter, LayerInfo, Linear, apply_kernel
from ditask_jax.nn.stochastic import dropout
from ditask_jax.nn.variables import Frozen

ROLES = ("qkv", "proj", "fc1", "fc2")
DOMAINS = ("value", "index")
INITS = ("identity", "upstream")
# In a packed q, k, v the originals' task thetas exist too, but nothing reads what they produce.
DEAD_ROLE = "qkv"


class SpectralAdapter(Adapter):
    """Replaces a frozen kernel by `U diag(f_theta(sigma)) V`, with one theta per stream that has its own.

    Attributes:
      streams: streams that leave the layer, empty for "those that enter".
      theta_of: for each of `streams` the name of its theta attribute, or "" for the unchanged spectrum. With empty
        `streams` one entry serves all.
      left, singular_values, right: frozen factors `[P, in, R]`, `[P, R]`, `[P, R, out/P]`.
    """

    def __init__(self, plan: LayerPlan, method: "DiTASK", theta_of: Sequence[str], thetas, factors: Factors):
        self.path = plan.info.path
        self.streams = plan.streams
        self.theta_of = tuple(theta_of)
        self.execution = plan.execution
        self.domain = method.domain
        self.headroom = method.headroom
        self.dropout_rate = method.dropout
        self.left = Frozen(jnp.asarray(factors.left))
        self.singular_values = Frozen(jnp.asarray(factors.singular_values))
        self.right = Frozen(jnp.asarray(factors.right))
        for name, value in thetas.items():
            setattr(self, name, nnx.Param(value))

    def streams_out(self, streams: tuple[str, ...]) -> tuple[str, ...]:
        return self.streams or streams

    def __call__(self, linear: Linear, x: jax.Array, streams: tuple[str, ...], context: Context) -> jax.Array:
        x = self._drop_input(x, streams, context)
        delta = context.prepared[self.path]
        if self.execution == "materialised":
            return apply_kernel(x, self.merged_kernel(linear, delta).astype(context.dtype))
        scale = (self.singular_values[...][None] + delta).astype(context.dtype)
        left, right = self.left[...].astype(context.dtype), self.right[...].astype(context.dtype)
        coordinates = jnp.einsum("s...i,pir->s...pr", x, left)
        # A single input fans out here, behind the shared projection on the left singular vectors.
        scale = scale.reshape(scale.shape[:1] + (1,) * (x.ndim - 2) + scale.shape[1:])
        return rearrange(jnp.einsum("s...pr,pro->s...po", coordinates * scale, right), "... p o -> ... (p o)")

    def _drop_input(self, x: jax.Array, streams: tuple[str, ...], context: Context) -> jax.Array:
        """Input dropout on the shared stream only, as upstream: a task's own input is never dropped."""
        if not streams or streams[0] != SHARED:
            return x
        first = dropout(x[:1], self.dropout_rate, context, self.path)
        return first if len(streams) == 1 else jnp.concatenate([first, x[1:]])

    def merged_kernel(self, linear: Linear, prepared: jax.Array) -> jax.Array:
        """`W + U diag(f(sigma) - sigma) V`: exactly `W` at the identity. `[in, out]`, or `[S, in, out]`."""
        kept = hasattr(linear, "kernel")
        scale = prepared if kept else self.singular_values[...][None] + prepared
        kernel = jnp.einsum("spir,pro->sipo", self.left[...][None] * scale[:, :, None, :], self.right[...])
        kernel = rearrange(kernel, "s i p o -> s i (p o)")
        if kept:
            kernel = linear.kernel[...][None] + kernel
        return kernel if self.streams else kernel[0]

    @classmethod
    def prepare(cls, adapters: Sequence["SpectralAdapter"]) -> list[jax.Array]:
        """Changes of all singular values, `[S, P, R]` for each layer, from one CPAB call per tessellation."""
        batches = defaultdict(list)
        for index, adapter in enumerate(adapters):
            by_size = defaultdict(list)
            for name in dict.fromkeys(adapter.theta_of):
                if name:
                    by_size[getattr(adapter, name)[...].shape[0]].append(name)
            for size, names in by_size.items():
                batches[size, adapter.domain, adapter.headroom].append((index, names))
        found: list[dict[str, jax.Array]] = [{} for _ in adapters]
        for (size, domain, headroom), entries in batches.items():
            deltas = cpab.spectrum_displacements(
                [jnp.stack([getattr(adapters[i], name)[...] for name in names]) for i, names in entries],
                [adapters[i].singular_values[...] for i, _ in entries],
                cpab.Tessellation(size + 1),
                domain,
                headroom,
            )
            for (index, names), delta in zip(entries, deltas, strict=True):
                found[index].update({name: delta[row] for row, name in enumerate(names)})
        return [
            jnp.stack([f[n] if n else jnp.zeros_like(a.singular_values[...]) for n in a.theta_of])
            for a, f in zip(adapters, found, strict=True)
        ]


@dataclasses.dataclass(frozen=True)
class DiTASK(Method):
    """Options of DiTASK.

    Attributes:
      shared_cells: cells N_P of the shared tessellation (theta has N_P - 1 numbers).
      task_cells: cells of every task's tessellation, an int or a mapping from task name.
      shared_layers: roles with a shared theta, in every block.
      task_layers: roles with a theta per task, in the last block of every stage.
      domain: "value" maps the singular values, "index" warps their index axis (the released code).
      headroom: c >= 1; Omega = [0, c sigma_max]; above 1 the largest singular value moves too.
      init: "identity", or "upstream" (uniform in +-1/sqrt(N_P - 1)).
      execution: "auto", "materialised" or "factored".
      dropout: rate on the input of adapted layers.

    >>> DiTASK(shared_cells=64, task_cells={"semseg": 16, "depth": 32}).cells_of("depth")
    32
    """

    name = "ditask"

    shared_cells: int = 64
    task_cells: int | Mapping[str, int] = 64
    shared_layers: tuple[str, ...] = ROLES
    task_layers: tuple[str, ...] = ("proj", "fc1", "fc2")
    domain: str = "value"
    headroom: float = 1.0
    init: str = "identity"
    execution: str = "auto"
    dropout: float = 0.05

    @classmethod
    def from_config(cls, config) -> "DiTASK":
        cells = config.task_cells
        return cls(
            shared_cells=config.shared_cells,
            task_cells=cells if isinstance(cells, int) else dict(cells),
            shared_layers=tuple(config.shared_layers),
            task_layers=tuple(config.task_layers),
            domain=config.domain,
            headroom=float(config.headroom),
            init=config.init,
            execution=config.execution,
            dropout=float(config.dropout),
        )

    def cells_of(self, task: str) -> int:
        """Cells of one task's tessellation."""
        return self.task_cells if isinstance(self.task_cells, int) else self.task_cells[task]

    def check(self, tasks: Sequence[str]) -> None:
        check_known("config: method.domain", self.domain, DOMAINS)
        check_known("config: method.init", self.init, INITS)
        check_known("config: method.execution", self.execution, EXECUTIONS)
        for field in ("shared_layers", "task_layers"):
            for role in getattr(self, field):
                check_known(f"config: method.{field}", role, ROLES if field == "shared_layers" else ROLES[1:])
        if self.headroom < 1:
            raise ConfigError(f"config: method.headroom: got {self.headroom}, expected a number >= 1")
        if self.headroom != 1 and self.domain == "index":
            raise ConfigError(
                f"config: method.headroom: got {self.headroom} with domain 'index', which keeps the spectrum's ends; "
                "use headroom=1 or domain='value'"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"config: method.dropout: got {self.dropout}, expected a rate in [0, 1)")
        missing = [t for t in tasks if not isinstance(self.task_cells, int) and t not in self.task_cells]
        if missing and self.task_layers:
            raise ConfigError(f"config: method.task_cells: no entry for {' '.join(missing)}; give every task its cells")
        for field, cells in [("shared_cells", self.shared_cells)] + [
            ("task_cells", self.cells_of(t)) for t in tasks if not missing
        ]:
            if not isinstance(cells, int) or cells < 2:
                raise ConfigError(f"config: method.{field}: got {cells}, expected a whole number of cells >= 2")

    def needs_factors(self) -> bool:
        return True

    def trains(self, path: str) -> bool:
        """The originals' rule: patch embedding, every norm, patch merging and the relative-position tables."""
        parts = path.split("/")
        fixed = {"patch_embed", "reduction", "relative_position_bias_table"}
        return bool(fixed & set(parts)) or any(part.startswith("norm") for part in parts)

    def _streams(self, info: LayerInfo, tasks: tuple[str, ...]) -> tuple[str, ...]:
        """Streams that leave a layer, or () where none are split off yet.

        The first task layer of a stage's last block fans out. In the very last block nothing reads the shared stream,
        so it ends there: neither its products nor its thetas exist.
        """
        order = [role for role in ROLES if role in self.task_layers]
        if not (info.last_in_stage and order and info.role in ROLES) or ROLES.index(info.role) < ROLES.index(order[0]):
            return ()
        return tasks if info.last_in_model else (SHARED, *tasks)

    def theta_names(self, info: LayerInfo, tasks: tuple[str, ...]) -> tuple[str, ...]:
        """For each stream that leaves the layer its theta's attribute, "" for the unchanged spectrum."""
        shared = "theta_shared" if info.role in self.shared_layers else ""
        own = info.role in self.task_layers
        streams = self._streams(info, tasks) or (SHARED,)
        return tuple(f"theta_{s}" if own and s != SHARED else shared for s in streams)

    def plan_layer(self, info: LayerInfo, inputs: int, outputs: int, tasks: tuple[str, ...], examples: int):
        if info.role not in ROLES:
            return None
        names = self.theta_names(info, tasks)
        if not any(names):
            return None
        cells = lambda name: self.shared_cells if name == "theta_shared" else self.cells_of(name.removeprefix("theta_"))
        parameters = {name: (cells(name) - 1,) for name in dict.fromkeys(names) if name}
        streams = self._streams(info, tasks)
        rank = min(inputs, outputs // info.parts)
        order = [role for role in ROLES if role in self.task_layers]
        streams_in = 1 if not streams or info.role == order[0] else len(streams)
        execution = choose_execution(
            self.execution, (inputs, outputs), info.parts, rank, streams_in, len(streams) or 1, info.tokens * examples
        )
        return LayerPlan(info, (inputs, outputs), streams, parameters, execution)

    def attach(self, linear: Linear, plan: LayerPlan, factors: Factors, seed: int) -> SpectralAdapter:
        thetas = {name: self._initial(name, shape, plan, seed) for name, shape in plan.parameters.items()}
        tasks = tuple(s for s in plan.streams if s != SHARED)
        return SpectralAdapter(plan, self, self.theta_names(plan.info, tasks), thetas, factors)

    def _initial(self, name: str, shape: tuple[int, ...], plan: LayerPlan, seed: int) -> Any:
        if self.init == "identity":
            return jnp.zeros(shape, jnp.float32)
        generator = np.random.Generator(np.random.Philox(key=[seed, name_hash(f"{plan.info.path}/{name}")]))
        bound = shape[0] ** -0.5
        return jnp.asarray(generator.uniform(-bound, bound, shape), jnp.float32)

    def upstream_extra(self, layers: Sequence[LayerInfo], tasks: tuple[str, ...]) -> dict[str, int]:
        """Dead thetas: per task in every q, k, v, and the shared ones behind the fan-out of the very last block."""
        if not self.task_layers:
            return {}
        dead_task = sum(self.cells_of(task) - 1 for info in layers if info.role == DEAD_ROLE for task in tasks)
        dead_shared = sum(
            self.shared_cells - 1
            for info in layers
            if info.last_in_model
            and info.role in self.shared_layers
            and info.role != DEAD_ROLE
            and "theta_shared" not in self.theta_names(info, tasks)
        )
        return {"theta per task of q, k, v (no reader)": dead_task, "theta shared, last block (no reader)": dead_shared}
