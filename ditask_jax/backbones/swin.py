"""Swin Transformer over a leading stream axis.

References: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", ICCV 2021.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from ditask_jax.backbones.blocks import Backbone, Block, Mlp, Place, Streams, Taps, rising_rates, tap
from ditask_jax.backbones.geometry import Size, StageGeometry, as_size, check_size
from ditask_jax.nn.attention import (
    GridRows,
    attend,
    padded,
    padded_grid,
    partition,
    relative_position_index,
    reverse,
    shift_mask,
    split_heads,
)
from ditask_jax.nn.context import Context, Scope
from ditask_jax.nn.conv import PatchEmbed
from ditask_jax.nn.linear import SHARED, LayerInfo, Linear
from ditask_jax.nn.norm import LayerNorm


@dataclasses.dataclass(frozen=True)
class SwinConfig:
    """Sizes of a Swin Transformer.

    Attributes:
      embed_dim: channels of stage 0; each stage doubles them.
      depths: blocks per stage.
      heads: attention heads per stage.
      window: side of the attention window, in tokens.
      patch: side of a patch, in pixels.
      mlp_ratio: width of the MLP over the stage's channels.
    """

    embed_dim: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int = 7
    patch: int = 4
    mlp_ratio: int = 4

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels of the taps: after patch merging, so that the last two are equal."""
        last = len(self.depths) - 1
        return tuple(self.embed_dim * 2 ** min(stage + 1, last) for stage in range(len(self.depths)))

    @property
    def readouts(self) -> tuple[str, ...]:
        """What can be read (see `Backbone`)."""
        return ("map", "last")


def offsets(window: Size) -> Size:
    """How many offsets down and to the right there are inside a window: the rows of a table of relative positions."""
    return 2 * window[0] - 1, 2 * window[1] - 1


class WindowAttention(nnx.Module):
    """Multi-head attention inside (shifted) windows with a learned relative-position bias."""

    def __init__(self, channels: int, heads: int, geometry: StageGeometry, shifted: bool, scope: Scope, place: Place):
        self.heads = heads
        self.grid = geometry.grid
        self.window = geometry.sides
        self.shift = geometry.shifts if shifted else (0, 0)
        seen = math.prod(padded_grid(self.grid, self.window))
        self.qkv = Linear(channels, 3 * channels, scope / "qkv", place.info("attn/qkv", "qkv", 3, seen))
        self.proj = Linear(channels, channels, scope / "proj", place.info("attn/proj", "proj"))
        table = scope.normal("table", (math.prod(offsets(self.window)), heads), 0.02)
        self.relative_position_bias_table = nnx.Param(table, decay="bias_tables")

    def _bias(self, examples: int) -> jax.Array:
        """The bias (and mask, where shifted) of every window: `[1, N or 1, heads, L, L]`, float32."""
        length = math.prod(self.window)
        index = relative_position_index(self.window).reshape(-1)
        bias = self.relative_position_bias_table[...][index].T.reshape(1, 1, self.heads, length, length)
        if any(self.shift):
            mask = jnp.asarray(shift_mask(self.grid, self.window, self.shift))
            bias = jnp.tile(bias + mask[None, :, None], (1, examples, 1, 1, 1))
        return bias

    def __call__(self, x: jax.Array, streams: Streams, context: Context) -> tuple[jax.Array, Streams]:
        windows = partition(x, self.window, self.shift)
        qkv = self.qkv(windows, streams, context)
        streams = self.qkv.streams_out(streams)
        mixed = attend(*split_heads(qkv, self.heads), self._bias(x.shape[1]))
        # Projection acts on tokens one by one, so undoing the windows first saves doing it for every stream.
        mixed = reverse(mixed, self.window, self.shift, self.grid)
        return self.proj(mixed, streams, context), self.proj.streams_out(streams)


class PatchMerging(nnx.Module):
    """Joins 2x2 neighbours, normalises and halves: `[S, B, H, W, C]` to `[S, B, H/2, W/2, 2C]`, sides rounded up."""

    def __init__(self, channels: int, scope: Scope, info: LayerInfo):
        self.norm = LayerNorm(4 * channels, scope / "norm")
        self.reduction = Linear(4 * channels, 2 * channels, scope / "reduction", info, use_bias=False)

    def __call__(self, x: jax.Array, streams: Streams, context: Context) -> jax.Array:
        # The row offset runs fastest, as in the released checkpoints: (0,0) (1,0) (0,1) (1,1).
        x = rearrange(padded(x, 2), "s b (h i) (w j) c -> s b h w (j i c)", i=2, j=2)
        return self.reduction(self.norm(x), streams, context)


class SwinStage(nnx.Module):
    """Blocks of one resolution, and patch merging behind them unless it is the last stage."""

    def __init__(self, config: SwinConfig, stage: int, geometry: StageGeometry, readout: str, drop_rates, scope: Scope):
        channels = config.embed_dim * 2**stage
        last_stage = stage == len(config.depths) - 1
        is_read = last_stage or readout == "map"
        tokens = geometry.grid[0] * geometry.grid[1]
        blocks = []
        for block, drop_rate in enumerate(drop_rates):
            here = scope / "blocks" / block
            last = block == len(drop_rates) - 1
            place = Place(here.path, stage, block, last and is_read, last and last_stage, tokens)
            heads, shifted = config.heads[stage], block % 2 == 1
            attn = WindowAttention(channels, heads, geometry, shifted, here / "attn", place)
            mlp = Mlp(channels, config.mlp_ratio * channels, here / "mlp", place)
            blocks.append(Block(channels, attn, mlp, drop_rate, here))
        self.blocks = nnx.List(blocks)
        if not last_stage:
            merged = math.prod(-(-side // 2) for side in geometry.grid)
            place = Place(f"{scope.path}/merging", stage, len(drop_rates), is_read, False, merged)
            self.merging = PatchMerging(channels, scope / "merging", place.info("reduction", "reduction"))

    def __call__(self, x: jax.Array, streams: Streams, context: Context) -> tuple[jax.Array, Streams]:
        for block in self.blocks:
            x, streams = block(x, streams, context)
        return x, streams


class Swin(Backbone):
    """Swin without its final norm and classifier.

    Shapes: images `[B, H, W, 3]`, normalised, to taps `[S', B, h, w, C]` after patch merging, and the names of their
    streams, as `readout` says.
    """

    def __init__(
        self,
        config: SwinConfig,
        image_size: int | Size,
        drop_path_rate: float,
        scope: Scope | None = None,
        readout: str = "map",
    ):
        scope = scope or Scope(path="backbone")
        self.config = config
        self.image_size = as_size(image_size)
        self.readout = readout
        geometries = check_size(self.image_size, config.patch, config.window, len(config.depths))
        self.patch_embed = PatchEmbed(3, config.embed_dim, config.patch, scope / "patch_embed")
        rates = rising_rates(drop_path_rate, config.depths)
        self.stages = nnx.List(
            [
                SwinStage(config, stage, geometry, readout, rates[stage], scope / "stages" / stage)
                for stage, geometry in enumerate(geometries)
            ]
        )

    def grid_rows(self, image_size: Size | None = None) -> dict[str, GridRows]:
        """Tables have a row per offset inside a window. Windows differ by design, or where an image clips them.

        Almost all are square, so that a table's own length tells what it was made for; an image that is clipped on one
        side alone has others.
        """
        sizes = as_size(image_size or self.image_size), self.config.patch, self.config.window, len(self.config.depths)
        tables = {}
        for stage, geometry in enumerate(check_size(*sizes)):
            for block in range(self.config.depths[stage]):
                name = f"stages/{stage}/blocks/{block}/attn/relative_position_bias_table"
                tables[name] = GridRows(offsets(geometry.sides))
        return tables

    def __call__(self, images: jax.Array, context: Context) -> Taps:
        x, streams = self.patch_embed(images, context)[None], (SHARED,)
        taps = []
        for stage in self.stages:
            x, streams = stage(x, streams, context)
            if hasattr(stage, "merging"):
                x = stage.merging(x, streams, context)
            if self.readout == "map" or stage is self.stages[-1]:
                taps.append(tap(x, streams))
            # Streams live inside one stage: only the shared one enters the next.
            x, streams = x[:1], streams[:1]
        return taps
