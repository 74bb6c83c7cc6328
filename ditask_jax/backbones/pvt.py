"""PVT v1 and v2: pyramids of attention with spatial reduction."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from ditask_jax.backbones.blocks import WITH_TOKEN, Mlp, Place
from ditask_jax.backbones.geometry import Size, pyramid_grids
from ditask_jax.backbones.pyramid import (
    EPSILON,
    Pyramid,
    PyramidConfig,
    PyramidStage,
    ShrinkingAttention,
    to_map,
    to_tokens,
)
from ditask_jax.nn.attention import GridRows
from ditask_jax.nn.context import Context, Scope
from ditask_jax.nn.conv import Conv, DepthwiseConv
from ditask_jax.nn.norm import LayerNorm
from ditask_jax.nn.products import gelu
from ditask_jax.nn.resize import adaptive_mean
from ditask_jax.nn.state import FrozenParam

# Pyramid Vision Transformer, first generation: position embeddings per stage, and a class token in the last one.
#
# References: Wang et al., "Pyramid Vision Transformer: A Versatile Backbone for Dense Prediction without Convolutions",
# ICCV 2021.


@dataclasses.dataclass(frozen=True)
class PvtConfig(PyramidConfig):
    """Sizes of a first-generation Pyramid Vision Transformer."""

    @property
    def readouts(self) -> tuple[str, ...]:
        """What can be read (see `Backbone`)."""
        return ("map", "last", "token", "map+token")


class PvtStage(PyramidStage):
    """A stage with position embeddings, and with a class token where it is read.

    The last stage's embeddings start with the class token's. Where no token is read both stay out of the computation,
    as in dense uses of the released weights; they are kept all the same, the token frozen, so that weights come and go
    whole.
    """

    def __init__(self, config: PvtConfig, stage: int, grid: Size, readout: str, drop_rates, scope: Scope):
        super().__init__(config, stage, grid, readout, drop_rates, scope)
        last, channels = stage == len(config.depths) - 1, config.channels[stage]
        self.leading = int(last)
        self.reads_token = last and readout in WITH_TOKEN
        rows = self.leading + grid[0] * grid[1]
        self.position_embedding = nnx.Param(scope.normal("position_embedding", (rows, channels)), decay=True)
        if last:
            token = scope.normal("class_token", (channels,))
            self.class_token = nnx.Param(token, decay=False) if self.reads_token else FrozenParam(token)

    def before(self, x: jax.Array) -> jax.Array:
        positions = self.position_embedding[...].astype(x.dtype)
        if self.reads_token:
            token = self.class_token[...].astype(x.dtype)
            x = jnp.concatenate([jnp.broadcast_to(token, (*x.shape[:2], 1, x.shape[-1])), x], axis=2)
        else:
            positions = positions[self.leading :]
        return x + positions.reshape(1, 1, *positions.shape)


class Pvt(Pyramid):
    """PVT without its final norm and classifier.

    Shapes: images `[B, H, W, 3]`, normalised, to taps `[S', B, h, w, C]` and the names of their streams, as `readout`
    says.
    """

    stage = PvtStage

    def grid_rows(self, image_size: Size | None = None) -> dict[str, GridRows]:
        """Position embeddings: bilinear, as the reference implementations resize them for an image of another size."""
        grids = pyramid_grids(image_size or self.image_size, self.config)
        return {
            f"stages/{stage}/position_embedding": GridRows(grid, self.stages[stage].leading, "bilinear")
            for stage, grid in enumerate(grids)
        }


# Pyramid Vision Transformer, second generation: overlapping patches, a depthwise convolution in the MLP, no positions.
#
# References: Wang et al., "PVT v2: Improved Baselines with Pyramid Vision Transformer", CVMJ 2022.


POOLED = (7, 7)


@dataclasses.dataclass(frozen=True)
class PvtV2Config(PyramidConfig):
    """Sizes of a second-generation Pyramid Vision Transformer.

    Attributes:
      linear: shrink keys and values to 7x7 by averaging, whatever the image ("li" in the names of weights).
    """

    linear: bool = False

    def kernel(self, stage: int) -> tuple[int, int]:
        """Window and padding of a stage's patch embedding: windows overlap by about half."""
        size = 2 * self.stride(stage) - 1
        return size, size // 2

    def shrunk(self, stage: int, grid: Size) -> Size:
        """The grid of a stage's keys and values."""
        return POOLED if self.linear else super().shrunk(stage, grid)


class LinearAttention(ShrinkingAttention):
    """Attention to a map averaged down to 7x7: its cost is linear in the number of pixels."""

    def add_reduction(self, channels: int, reduction: int, scope: Scope) -> bool:
        self.spatial_reduction = Conv(channels, channels, 1, 1, 0, scope / "spatial_reduction")
        self.norm = LayerNorm(channels, scope / "norm")
        return True

    def reduce(self, grid_map: jax.Array, context: Context) -> jax.Array:
        return gelu(super().reduce(adaptive_mean(grid_map, POOLED), context))


class ConvMlp(Mlp):
    """An MLP that looks at the neighbours between its dense layers, which stands in for position embeddings."""

    def __init__(self, channels: int, hidden: int, grid: Size, linear: bool, scope: Scope, place: Place):
        super().__init__(channels, hidden, scope, place)
        self.grid = grid
        self.linear = linear
        self.depthwise = DepthwiseConv(hidden, 3, scope / "depthwise")

    def activate(self, x: jax.Array, context: Context) -> jax.Array:
        if self.linear:
            x = jax.nn.relu(x)
        return super().activate(to_tokens(self.depthwise(to_map(x, self.grid), context)), context)


class PvtV2Stage(PyramidStage):
    """A stage that ends in a norm, in front of the tap and of the next stage alike."""

    def __init__(self, config: PvtV2Config, stage: int, grid: Size, readout: str, drop_rates, scope: Scope):
        super().__init__(config, stage, grid, readout, drop_rates, scope)
        self.norm = LayerNorm(config.channels[stage], scope / "norm", EPSILON)

    def attention(self, config: PvtV2Config, stage: int, grid: Size, scope: Scope, place: Place) -> ShrinkingAttention:
        kind = LinearAttention if config.linear else ShrinkingAttention
        return kind(config, stage, grid, scope, place)

    def mlp(self, config: PvtV2Config, stage: int, grid: Size, scope: Scope, place: Place) -> ConvMlp:
        channels = config.channels[stage]
        return ConvMlp(channels, config.mlp_ratios[stage] * channels, grid, config.linear, scope, place)

    def behind(self, x: jax.Array) -> jax.Array:
        return self.norm(x)


class PvtV2(Pyramid):
    """PVT v2 without its classifier; the norm in front of that one ends its last stage.

    Shapes: images `[B, H, W, 3]`, normalised, to taps `[S', B, h, w, C]` and the names of their streams, as `readout`
    says.
    """

    stage = PvtV2Stage
