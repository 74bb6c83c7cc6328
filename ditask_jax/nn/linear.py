"""Dense layers: `Linear`, of every backbone, with one slot for an adapter, and `Dense`, of heads."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import nnx

from ditask_jax.nn.context import Context, Scope
from ditask_jax.nn.products import fan_out_product, product

# The one dense layer of every backbone, with one slot for an adapter.


SHARED = "shared"


@dataclasses.dataclass(frozen=True)
class Roles:
    """What a backbone calls the dense layers of a block; what stands between blocks has other roles.

    Attributes:
      order: all of them, in the order in which features pass them.
      task: those that let streams split off: the code behind them follows `Linear.streams_out`.
      ends: the last layer of every residual branch.
    """

    order: tuple[str, ...] = ("qkv", "proj", "fc1", "fc2")
    task: tuple[str, ...] = ("proj", "fc1", "fc2")
    ends: tuple[str, ...] = ("proj", "fc2")


USUAL_ROLES = Roles()


@dataclasses.dataclass(frozen=True)
class LayerInfo:
    """Where a dense layer stands: all that a method may know when it plans.

    Attributes:
      path: unique name, `/`-joined.
      role: "qkv", "proj", "fc1", "fc2", "reduction", or a name of the backbone's own; see `Roles`.
      parts: blocks of outputs that are one matrix each (3 for a packed q, k, v).
      stage: index of the stage.
      block: index of the block inside the stage.
      last_in_stage: whether the block ends its stage (where streams may fan out).
      last_in_model: whether the block ends the model (where the shared stream is unused).
      tokens: positions the layer sees per image, for cost rules.
    """

    path: str
    role: str
    parts: int
    stage: int
    block: int
    last_in_stage: bool
    last_in_model: bool
    tokens: int


class LayerAdapter(nnx.Module):
    """What may stand in a `Linear`'s slot. A subclass per method; it sees all streams of its layer at once.

    Training calls `penalty`, `observe`, `end_epoch` and `measures` of the subclasses that define them, and those alone.

    Attributes:
      mergeable: whether plain kernels can stand for it.
      param_group: of its parameters; see `ditask_jax.nn.state.Declared`.
    """

    mergeable: bool = True
    param_group = "adapters"

    def streams_out(self, streams: tuple[str, ...]) -> tuple[str, ...]:
        """Names of the streams that leave the layer when `streams` enter it."""
        return streams

    def __call__(self, linear: "Linear", x: jax.Array, streams: tuple[str, ...], context: Context) -> jax.Array:
        """Maps `[S, ..., in]` to `[S', ..., out]`, bias excluded, in `context.dtype` or wider."""
        raise TypeError(f"{type(self).__name__} does not define __call__")

    def base_kernel(self, linear: "Linear") -> jax.Array:
        """The kernel `[in, out]` of the layer without this adapter."""
        return linear.kernel[...]

    def merged_kernel(self, linear: "Linear", prepared: Any) -> jax.Array:
        """The plain kernel that computes the same: `[in, out]`, or `[S', in, out]` when streams differ."""
        raise TypeError(f"{type(self).__name__} cannot be merged into a kernel")

    def merged_shared_kernel(self, linear: "Linear", prepared: Any) -> jax.Array | None:
        """The kernel `[in, out]` of what every stream that leaves adds from the shared input; None for nothing."""
        return None

    def penalty(self, linear: "Linear") -> jax.Array:
        """A term of the training loss that depends on parameters alone, float32 `[]`."""
        raise TypeError(f"{type(self).__name__} has no penalty")

    def observe(self, gradients: Mapping[str, jax.Array]) -> None:
        """Sees the clipped gradients of its parameters in every training step; may write its statistics."""
        raise TypeError(f"{type(self).__name__} observes nothing")

    def end_epoch(self) -> Callable[[Mapping[str, jax.Array]], dict[str, jax.Array]]:
        """May write its statistics at the end of an epoch, and says how its parameters change there.

        Returns:
          What makes of arrays by name, of the shapes of the parameters, others of these shapes. The optimiser's moments
          go through it as the parameters do.
        """
        raise TypeError(f"{type(self).__name__} has no end of an epoch")

    def measures(self) -> dict[str, jax.Array]:
        """Numbers for the log, float32 `[]`, of which the mean over all layers is logged as `train/NAME`."""
        return {}

    @classmethod
    def prepare(cls, adapters: Sequence[Self]) -> list[Any]:
        """Computes, for all adapters of this class together, what each needs in this forward pass."""
        return [None] * len(adapters)


class Linear(nnx.Module):
    """A dense layer over the last axis of `[S, ..., in]`, where `S` is the stream axis.

    The kernel is `[in, out]`, or `[S, in, out]` after merging a method whose streams differ. A stream axis of 1 fans
    out to a kernel's `S` streams. Merging a method whose tasks look at the shared stream leaves a `shared_kernel`
    `[in, out]` too.

    Args:
      use_bias: whether outputs have one.
      biased_parts: of a packed product, the numbers of the parts that have a bias, rising; None: all. The bias holds
        theirs alone, one behind the other, so that nothing can train or load what no output reads.
    """

    adapter: LayerAdapter | None = None
    merged_streams: tuple[str, ...] = ()

    def __init__(
        self,
        inputs: int,
        outputs: int,
        scope: Scope,
        info: LayerInfo,
        use_bias: bool = True,
        biased_parts: tuple[int, ...] | None = None,
    ):
        self.inputs = inputs
        self.outputs = outputs
        self.info = info
        self.biased_parts = biased_parts
        self.kernel = nnx.Param(scope.normal("kernel", (inputs, outputs), inputs**-0.5), decay=True)
        if use_bias:
            length = outputs if biased_parts is None else outputs // info.parts * len(biased_parts)
            self.bias = nnx.Param(scope.zeros((length,)), decay=False)

    def streams_out(self, streams: tuple[str, ...]) -> tuple[str, ...]:
        if self.adapter is not None:
            return self.adapter.streams_out(streams)
        return self.merged_streams or streams

    def __call__(self, x: jax.Array, streams: tuple[str, ...], context: Context) -> jax.Array:
        x = x.astype(context.dtype)
        if self.adapter is not None:
            y = self.adapter(self, x, streams, context)
        else:
            own = pick_streams(x, streams, self.merged_streams) if hasattr(self, "shared_kernel") else x
            y = apply_kernel(own, self.kernel[...].astype(context.dtype), context.wide)
            if hasattr(self, "shared_kernel"):
                y = y + apply_kernel(x[:1], self.shared_kernel[...].astype(context.dtype), context.wide)
        return self._with_bias(y, context)

    @property
    def separate_streams(self) -> int:
        """How many streams a merged layer has a kernel for, each reading its own input alone; 0 for any other layer."""
        merged = self.adapter is None and not hasattr(self, "shared_kernel") and self.kernel.ndim == 3
        return self.kernel.shape[0] if merged else 0

    def of_stream(self, x: jax.Array, row: int, context: Context) -> jax.Array:
        """One stream `[1, ..., in]` of a merged layer, by its place among `merged_streams`."""
        kernel = self.kernel[...][row].astype(context.dtype)
        return self._with_bias(product(x.astype(context.dtype), kernel, context.wide), context)

    def whole_bias(self) -> jax.Array:
        """The bias of every output, `[out]`: zeros where a part has none."""
        bias = self.bias[...]
        if self.biased_parts is None:
            return bias
        given = dict(zip(self.biased_parts, jnp.split(bias, len(self.biased_parts)), strict=True))
        none = jnp.zeros((self.outputs // self.info.parts,), bias.dtype)
        return jnp.concatenate([given.get(part, none) for part in range(self.info.parts)])

    def _with_bias(self, y: jax.Array, context: Context) -> jax.Array:
        if hasattr(self, "bias"):
            # Rounded behind the sum: what training does to a bias may be less than a step of a narrow dtype.
            y = y + self.whole_bias().astype(context.wide).reshape((1,) * (y.ndim - 1) + (-1,))
        return y.astype(context.dtype)


def apply_kernel(x: jax.Array, kernel: jax.Array, dtype: jnp.dtype | None = None) -> jax.Array:
    """`x @ kernel` over the stream axis.

    Shapes: `x [S, ..., in]`; `kernel [in, out]` gives `[S, ..., out]`; `kernel [S', in, out]` with `S == S'` acts
    stream by stream, with `S == 1` fans out to `[S', ..., out]`. In the dtype of `x`, or a wider one; see `product`.

    >>> apply_kernel(jnp.ones((1, 5, 2)), jnp.ones((3, 2, 4))).shape
    (3, 5, 4)
    """
    if kernel.ndim == 2:
        return product(x, kernel, dtype)
    if x.shape[0] == 1:
        return fan_out_product(x[0], kernel, dtype)
    return jnp.einsum("s...i,sio->s...o", x, kernel, preferred_element_type=dtype)


def pick_streams(x: jax.Array, streams: tuple[str, ...], wanted: tuple[str, ...]) -> jax.Array:
    """The wanted ones of several streams; a single one, or all of them, as they are.

    Shapes: `[S, ..., C]` to `[len(wanted), ..., C]`, or the same.

    >>> pick_streams(jnp.arange(3.0).reshape(3, 1), ("shared", "a", "b"), ("a", "b")).tolist()
    [[1.0], [2.0]]
    """
    if x.shape[0] == 1 or streams == wanted:
        return x
    if streams[-len(wanted) :] == wanted:
        return x[-len(wanted) :]
    return jnp.stack([x[streams.index(stream)] for stream in wanted])


def linears(module: nnx.Module) -> Iterator[Linear]:
    """Every `Linear` below a module, in order of stage, block and the roles of the backbone."""
    found = [m for _, m in nnx.iter_modules(module) if isinstance(m, Linear)]
    order = getattr(module, "roles", USUAL_ROLES).order
    rank = lambda l: (l.info.stage, l.info.block, order.index(l.info.role) if l.info.role in order else len(order))
    return iter(sorted(found, key=rank))


def prepare_adapters(module: nnx.Module, context: Context) -> Context:
    """Lets every adapter class compute its per-step values for all layers in one go (all spectra of DiTASK, say)."""
    by_class: dict[type[LayerAdapter], list[Linear]] = {}
    for linear in linears(module):
        if linear.adapter is not None:
            by_class.setdefault(type(linear.adapter), []).append(linear)
    prepared = {}
    for cls, layers in by_class.items():
        values = cls.prepare([layer.adapter for layer in layers])
        prepared.update({layer.info.path: value for layer, value in zip(layers, values, strict=True)})
    return dataclasses.replace(context, prepared=prepared)


# A plain trainable dense layer, for heads; layers that methods adapt are `Linear`.


class Dense(nnx.Module):
    """`x @ kernel + bias` on the last axis."""

    def __init__(self, inputs: int, outputs: int, scope: Scope):
        self.kernel = nnx.Param(scope.normal("kernel", (inputs, outputs), 0.02), decay=True)
        self.bias = nnx.Param(scope.zeros((outputs,)), decay=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x @ self.kernel[...]
        return y + self.bias[...].reshape((1,) * (y.ndim - 1) + (-1,))
