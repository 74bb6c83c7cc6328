"""What all backbones share: the block of attention and MLP with residuals, and the rules of streams."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from ditask_jax.nn.attention import Gridded
from ditask_jax.nn.context import Context, Scope
from ditask_jax.nn.custom_vjp import custom_vjp
from ditask_jax.nn.linear import SHARED, USUAL_ROLES, LayerInfo, Linear, Roles, pick_streams
from ditask_jax.nn.norm import LayerNorm, LayerScale
from ditask_jax.nn.products import gated_silu, gelu
from ditask_jax.nn.remat import rematerialised
from ditask_jax.nn.stochastic import drop_path

Streams = tuple[str, ...]
# What a backbone hands to the heads, per stage: features `[S, B, h, w, C]` and the names of their streams.
Taps = list[tuple[jax.Array, Streams]]
# Readouts with a tap per stage, and with the class token.
EVERY_STAGE, WITH_TOKEN = ("map", "map+token"), ("token", "map+token")


class Backbone(Gridded):
    """A feature extractor over a leading stream axis, without final norm and classifier.

    A stream is the shared path or one of the paths that a method splits off; every block is written once for
    `[S, B, ..., C]` and streams fan out only where an adapter says so. Nothing here knows what a stream means.

    Shapes: normalised images `[B, H, W, 3]` to taps `[S', B, h, w, C]`, each with the names of its streams.

    Attributes:
      config: sizes; `feature_channels` has the channels of every stage, `readouts` what can be read from this kind.
      image_size: (height, width) in pixels.
      roles: of the dense layers of a block.
      param_group: of its parameters; see `ditask_jax.nn.state.Declared`.
      readout: "map": a tap per stage, for heads that make maps. "last": the last stage's alone, and "token": the class
        token alone, as a map of one position, for heads that make vectors. "map+token": a tap per stage, and behind
        them the class token, for models with both kinds; where a backbone does not have it, "map" serves them. A stage
        that is not read splits no streams off.
    """

    config: Any
    image_size: tuple[int, int]
    readout: str
    roles: ClassVar[Roles] = USUAL_ROLES
    param_group: ClassVar[str] = "pretrained"

    def __call__(self, images: jax.Array, context: Context) -> Taps:
        raise TypeError(f"{type(self).__name__} does not define __call__")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a block stands, for the description of its dense layers.

    Attributes:
      path: of the block.
      stage, block: indices, the second inside the stage.
      last: whether the block ends a stage that is read.
      last_in_model: whether it ends the model.
      tokens: positions the block sees per image.
    """

    path: str
    stage: int
    block: int
    last: bool
    last_in_model: bool
    tokens: int

    def info(self, name: str, role: str, parts: int = 1, tokens: int | None = None) -> LayerInfo:
        """The description of one dense layer; `tokens` where it sees other positions than the block."""
        return LayerInfo(
            path=f"{self.path}/{name}",
            role=role,
            parts=parts,
            stage=self.stage,
            block=self.block,
            last_in_stage=self.last,
            last_in_model=self.last_in_model,
            tokens=self.tokens if tokens is None else tokens,
        )


class Mlp(nnx.Module):
    """Two dense layers around an exact (erf) GELU."""

    def __init__(self, channels: int, hidden: int, scope: Scope, place: Place):
        self.fc1 = Linear(channels, hidden, scope / "fc1", place.info("mlp/fc1", "fc1"))
        self.fc2 = Linear(hidden, channels, scope / "fc2", place.info("mlp/fc2", "fc2"))

    def activate(self, x: jax.Array, context: Context) -> jax.Array:
        """What stands between the dense layers."""
        return gelu(x)

    def __call__(self, x: jax.Array, streams: Streams, context: Context) -> tuple[jax.Array, Streams]:
        if x.shape[0] == self.fc1.separate_streams == self.fc2.separate_streams:
            # One stream after another: the wide array between the layers is as small as it can be, and used again.
            rows = range(x.shape[0])
            hidden = lambda row: self.activate(self.fc1.of_stream(x[row : row + 1], row, context), context)
            return jnp.concatenate([self.fc2.of_stream(hidden(row), row, context) for row in rows]), streams
        x = self.fc1(x, streams, context)
        streams = self.fc1.streams_out(streams)
        x = self.fc2(self.activate(x, context), streams, context)
        return x, self.fc2.streams_out(streams)


class GatedMlp(Mlp):
    """The same around a gate, `fc2(silu(gate(x)) * value(x))`: `fc1` holds gate and value as two parts (SwiGLU).

    References: Shazeer, "GLU Variants Improve Transformer", 2020.
    """

    def __init__(self, channels: int, hidden: int, scope: Scope, place: Place):
        self.fc1 = Linear(channels, 2 * hidden, scope / "fc1", place.info("mlp/fc1", "fc1", 2))
        self.fc2 = Linear(hidden, channels, scope / "fc2", place.info("mlp/fc2", "fc2"))

    def activate(self, x: jax.Array, context: Context) -> jax.Array:
        return gated_silu(x)


class Block(nnx.Module):
    """Attention and MLP with residuals. A branch with more streams than the trunk widens the trunk by broadcasting.

    Args:
      attn, mlp: maps `(x, streams, context)` to `(x, streams)`.
      drop_rate: of both residual branches.
      epsilon: of both norms.
      layer_scale: the factors of both residual branches at the start (`LayerScale`); None for none.
    """

    def __init__(
        self,
        channels: int,
        attn,
        mlp,
        drop_rate: float,
        scope: Scope,
        epsilon: float = 1e-5,
        layer_scale: float | None = None,
    ):
        self.path = scope.path
        self.drop_rate = drop_rate
        self.norm1 = LayerNorm(channels, scope / "norm1", epsilon)
        self.attn = attn
        self.norm2 = LayerNorm(channels, scope / "norm2", epsilon)
        self.mlp = mlp
        if layer_scale is not None:
            self.layer_scale1 = LayerScale(channels, layer_scale, scope / "layer_scale1")
            self.layer_scale2 = LayerScale(channels, layer_scale, scope / "layer_scale2")

    def __call__(self, x: jax.Array, streams: Streams, context: Context) -> tuple[jax.Array, Streams]:
        return rematerialised(self._compute, x, streams, context)

    def _compute(self, x: jax.Array, streams: Streams, context: Context) -> tuple[jax.Array, Streams]:
        branch, leaving = self.attn(self.norm1(x), streams, context)
        branch = self.layer_scale1(branch) if hasattr(self, "layer_scale1") else branch
        branch = drop_path(branch, self.drop_rate, context, f"{self.path}/attn", leaving)
        x, streams = add_branch(pick_streams(x, streams, leaving), branch), leaving
        branch, leaving = self.mlp(self.norm2(x), streams, context)
        branch = self.layer_scale2(branch) if hasattr(self, "layer_scale2") else branch
        branch = drop_path(branch, self.drop_rate, context, f"{self.path}/mlp", leaving)
        # Where a stream is unused from here on, the branch ends it and the trunk does too.
        return add_branch(pick_streams(x, streams, leaving), branch), leaving


def add_branch(trunk: jax.Array, branch: jax.Array) -> jax.Array:
    """`trunk + branch`, in the trunk's dtype; a trunk of one stream goes into every stream of the branch.

    Shapes: `[1 or S, B, ..., C]` and `[S, B, ..., C]` to the latter.

    >>> add_branch(jnp.ones((1, 2)), jnp.ones((3, 2))).tolist()
    [[2.0, 2.0], [2.0, 2.0], [2.0, 2.0]]
    """
    return _join(trunk, branch.astype(trunk.dtype))


def _join_backward(joined: bool, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    # Term by term: one pass over all streams, where a sum over the leading axis would be several on CPUs.
    return (sum(gradient[s : s + 1] for s in range(gradient.shape[0])) if joined else gradient), gradient


@custom_vjp(lambda trunk, branch: (trunk + branch, trunk.shape[0] < branch.shape[0]), _join_backward)
def _join(trunk: jax.Array, branch: jax.Array) -> jax.Array:
    return trunk + branch


def rising_rates(last: float, depths: Sequence[int]) -> list[list[float]]:
    """Drop path rates per stage and block: linear over all blocks, from 0 to the last block's rate.

    >>> rising_rates(0.2, (1, 2))
    [[0.0], [0.1, 0.2]]
    """
    total, start, out = sum(depths), 0, []
    for depth in depths:
        out.append([last * index / max(total - 1, 1) for index in range(start, start + depth)])
        start += depth
    return out


def tap(x: jax.Array, streams: Streams) -> tuple[jax.Array, Streams]:
    """What a stage hands to the heads: the split-off streams, or the shared one where nothing was split off."""
    if len(streams) > 1 and streams[0] == SHARED:
        return x[1:], streams[1:]
    return x, streams
