"""What both generations of the Pyramid Vision Transformer share: four stages, each attending to a shrunk map."""

import dataclasses

import jax
from einops import rearrange
from flax import nnx

from ditask_jax.backbones.blocks import (
    EVERY_STAGE,
    WITH_TOKEN,
    Backbone,
    Block,
    Mlp,
    Place,
    Streams,
    Taps,
    rising_rates,
    tap,
)
from ditask_jax.backbones.geometry import Size, as_size, pyramid_grids
from ditask_jax.nn.attention import attend
from ditask_jax.nn.context import Context, Scope
from ditask_jax.nn.conv import Conv, PatchEmbed
from ditask_jax.nn.linear import SHARED, Linear
from ditask_jax.nn.norm import LayerNorm

# Norms of patch embeddings and shrunk maps keep PyTorch's 1e-5.
EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class PyramidConfig:
    """Sizes of a Pyramid Vision Transformer.

    Attributes:
      channels: of every stage.
      depths: blocks per stage.
      heads: attention heads per stage.
      mlp_ratios: width of the MLP over the stage's channels, per stage.
      reductions: by how much keys and values are shrunk along each side, per stage.
      patch: side of the first patches, in pixels; later stages halve.
      qkv_bias: whether the projections to queries, keys and values have a bias.
    """

    channels: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...] = (1, 2, 5, 8)
    mlp_ratios: tuple[int, ...] = (8, 8, 4, 4)
    reductions: tuple[int, ...] = (8, 4, 2, 1)
    patch: int = 4
    qkv_bias: bool = True

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels of the taps."""
        return self.channels

    @property
    def readouts(self) -> tuple[str, ...]:
        """What can be read (see `Backbone`)."""
        return ("map", "last")

    def stride(self, stage: int) -> int:
        """By how much a stage's patch embedding shrinks its map."""
        return 2 if stage else self.patch

    def kernel(self, stage: int) -> tuple[int, int]:
        """Window and padding of a stage's patch embedding: patches lie side by side."""
        return self.stride(stage), 0

    def shrunk(self, stage: int, grid: Size) -> Size:
        """The grid of a stage's keys and values; what does not fill a window is dropped, as in PyTorch."""
        return grid[0] // self.reductions[stage], grid[1] // self.reductions[stage]


class ShrinkingAttention(nnx.Module):
    """Attention whose keys and values come from a map shrunk by a convolution: `[S, B, L, C]` to the same."""

    def __init__(self, config: PyramidConfig, stage: int, grid: Size, scope: Scope, place: Place):
        channels, shrunk = config.channels[stage], config.shrunk(stage, grid)
        self.heads = config.heads[stage]
        self.grid = grid
        reduces = self.add_reduction(channels, config.reductions[stage], scope)
        keys = shrunk[0] * shrunk[1] if reduces else place.tokens
        bias = config.qkv_bias
        self.q = Linear(channels, channels, scope / "q", place.info("attn/q", "qkv"), bias)
        self.kv = Linear(channels, 2 * channels, scope / "kv", place.info("attn/kv", "qkv", 2, keys), bias)
        self.proj = Linear(channels, channels, scope / "proj", place.info("attn/proj", "proj"))

    def add_reduction(self, channels: int, reduction: int, scope: Scope) -> bool:
        """Adds what shrinks the map, and says whether it is there."""
        if reduction > 1:
            self.spatial_reduction = Conv(channels, channels, reduction, reduction, 0, scope / "spatial_reduction")
            self.norm = LayerNorm(channels, scope / "norm")
        return reduction > 1

    def reduce(self, grid_map: jax.Array, context: Context) -> jax.Array:
        """`[S, B, H, W, C]` to `[S, B, h, w, C]`."""
        return self.norm(self.spatial_reduction(grid_map, context))

    def __call__(self, x: jax.Array, streams: Streams, context: Context) -> tuple[jax.Array, Streams]:
        keys = x
        if hasattr(self, "spatial_reduction"):
            keys = to_tokens(self.reduce(to_map(x, self.grid), context))
        split = "s b l (p h d) -> p s b h l d"
        (q,) = rearrange(self.q(x, streams, context), split, p=1, h=self.heads)
        k, v = rearrange(self.kv(keys, streams, context), split, p=2, h=self.heads)
        streams = max(self.q.streams_out(streams), self.kv.streams_out(streams), key=len)
        return self.proj(attend(q, k, v), streams, context), self.proj.streams_out(streams)


class PyramidStage(nnx.Module):
    """Patch embedding and blocks of one resolution. Subclasses add what their generation has around the blocks."""

    def __init__(self, config: PyramidConfig, stage: int, grid: Size, readout: str, drop_rates, scope: Scope):
        self.grid = grid
        channels, last_stage = config.channels[stage], stage == len(config.depths) - 1
        is_read = last_stage or readout in EVERY_STAGE
        tokens = grid[0] * grid[1] + int(last_stage and readout in WITH_TOKEN)
        size, padding = config.kernel(stage)
        inputs = config.channels[stage - 1] if stage else 3
        here = scope / "patch_embed"
        self.patch_embed = PatchEmbed(inputs, channels, size, here, stride=config.stride(stage), padding=padding)
        blocks = []
        for block, drop_rate in enumerate(drop_rates):
            here = scope / "blocks" / block
            last = block == len(drop_rates) - 1
            place = Place(here.path, stage, block, last and is_read, last and last_stage, tokens)
            attn = self.attention(config, stage, grid, here / "attn", place)
            mlp = self.mlp(config, stage, grid, here / "mlp", place)
            blocks.append(Block(channels, attn, mlp, drop_rate, here, EPSILON))
        self.blocks = nnx.List(blocks)

    def attention(
        self, config: PyramidConfig, stage: int, grid: Size, scope: Scope, place: Place
    ) -> ShrinkingAttention:
        """The attention of a block."""
        return ShrinkingAttention(config, stage, grid, scope, place)

    def mlp(self, config: PyramidConfig, stage: int, grid: Size, scope: Scope, place: Place) -> Mlp:
        """The MLP of a block."""
        return Mlp(config.channels[stage], config.mlp_ratios[stage] * config.channels[stage], scope, place)

    def before(self, x: jax.Array) -> jax.Array:
        """What happens to the tokens in front of the blocks."""
        return x

    def behind(self, x: jax.Array) -> jax.Array:
        """What happens to the tokens behind the blocks."""
        return x

    def __call__(self, x: jax.Array, streams: Streams, context: Context) -> tuple[jax.Array, Streams]:
        """A map `[S, B, H, W, C']` to tokens `[S', B, L, C]`."""
        x = self.before(to_tokens(self.patch_embed(x, context)))
        for block in self.blocks:
            x, streams = block(x, streams, context)
        return self.behind(x), streams


class Pyramid(Backbone):
    """A Pyramid Vision Transformer without its classifier."""

    stage: type[PyramidStage] = PyramidStage

    def __init__(
        self,
        config: PyramidConfig,
        image_size: int | Size,
        drop_path_rate: float,
        scope: Scope | None = None,
        readout: str = "map",
    ):
        scope = scope or Scope(path="backbone")
        self.config = config
        self.image_size = as_size(image_size)
        self.readout = readout
        rates = rising_rates(drop_path_rate, config.depths)
        grids = pyramid_grids(self.image_size, config)
        self.stages = nnx.List(
            [self.stage(config, i, grid, readout, rates[i], scope / "stages" / i) for i, grid in enumerate(grids)]
        )

    def __call__(self, images: jax.Array, context: Context) -> Taps:
        x, streams = images[None], (SHARED,)
        taps = []
        for stage in self.stages:
            x, streams = stage(x, streams, context)
            last, token = stage is self.stages[-1], None
            if last and self.readout in WITH_TOKEN:
                # It leads the sequence; its tap is a map of one position.
                token, x = x[:, :, :1, None, :], x[:, :, 1:]
            x = to_map(x, stage.grid)
            if self.readout in EVERY_STAGE or (last and self.readout == "last"):
                taps.append(tap(x, streams))
            if token is not None:
                taps.append(tap(token, streams))
            # Streams live inside one stage: only the shared one enters the next.
            x, streams = x[:1], streams[:1]
        return taps


def to_tokens(x: jax.Array) -> jax.Array:
    """`[S, B, H, W, C]` to `[S, B, L, C]`."""
    return rearrange(x, "s b h w c -> s b (h w) c")


def to_map(x: jax.Array, grid: Size) -> jax.Array:
    """`[S, B, L, C]` to `[S, B, H, W, C]`."""
    return rearrange(x, "s b (h w) c -> s b h w c", h=grid[0], w=grid[1])
