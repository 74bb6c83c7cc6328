"""Vision Transformer over a leading stream axis.

References: Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", ICLR 2021.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from ditask_jax.backbones.blocks import (
    EVERY_STAGE,
    WITH_TOKEN,
    Backbone,
    Block,
    GatedMlp,
    Mlp,
    Place,
    Streams,
    Taps,
    rising_rates,
    tap,
)
from ditask_jax.backbones.geometry import Size, as_size, patch_grid
from ditask_jax.errors import ConfigError
from ditask_jax.nn.attention import GridRows, attend, split_heads
from ditask_jax.nn.context import Context, Scope
from ditask_jax.nn.conv import PatchEmbed
from ditask_jax.nn.linear import SHARED, Linear
from ditask_jax.nn.rotary import rotary_tables, rotate

EPSILON = 1e-6
DEFAULT_TAPS = 4


@dataclasses.dataclass(frozen=True)
class VitConfig:
    """Sizes of a Vision Transformer.

    Attributes:
      embed_dim: channels.
      depth: number of blocks.
      heads: attention heads.
      patch: side of a patch, in pixels.
      class_token: whether a token without a place leads the sequence.
      mlp_ratio: width of the MLP over the channels.
      qkv_bias: whether the projections to queries, keys and values have a bias.
      key_bias: whether that of the keys is one of them.
      registers: tokens without a place behind the class token, which no tap holds.
      layer_scale: a factor per channel of every residual branch, this number at the start; None: without.
      gated: whether the MLP has a gate (`GatedMlp`), of which each half is `mlp_ratio` wide.
      rotary: base of rotary positions, of patches alone (`rotary_tables`); None: a learned embedding per position.
      antialias: whether learned embeddings are resized with anti-aliasing.
      epsilon: of the norms.
      taps: blocks behind which features are read, rising, the last block among them; None: four, equally spaced. Each
        ends a stage: streams split off in it.

    >>> VitConfig(192, 12, 3).tapped, VitConfig(192, 12, 3).depths
    ((2, 5, 8, 11), (3, 3, 3, 3))
    """

    embed_dim: int
    depth: int
    heads: int
    patch: int = 16
    class_token: bool = True
    mlp_ratio: int = 4
    qkv_bias: bool = True
    taps: tuple[int, ...] | None = None
    key_bias: bool = True
    registers: int = 0
    layer_scale: float | None = None
    gated: bool = False
    rotary: float | None = None
    antialias: bool = False
    epsilon: float = EPSILON

    def __post_init__(self):
        taps = self.tapped
        rising = all(left < right for left, right in itertools.pairwise((-1, *taps)))
        if not taps or not rising or taps[-1] != self.depth - 1:
            raise ConfigError(
                f"config: backbone.taps: got {self.taps}, expected rising block numbers from 0 that end in the last "
                f"block, {self.depth - 1}"
            )

    @property
    def tapped(self) -> tuple[int, ...]:
        """Blocks behind which features are read."""
        if self.taps is not None:
            return tuple(self.taps)
        count = min(DEFAULT_TAPS, self.depth)
        return tuple(-(-self.depth * (index + 1) // count) - 1 for index in range(count))

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks per stage."""
        return tuple(right - left for left, right in itertools.pairwise((-1, *self.tapped)))

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels of the taps."""
        return (self.embed_dim,) * len(self.tapped)

    @property
    def leading(self) -> int:
        """Tokens in front of those of patches."""
        return int(self.class_token) + self.registers

    @property
    def readouts(self) -> tuple[str, ...]:
        """What can be read (see `Backbone`)."""
        return ("map", "last", "token", "map+token") if self.class_token else ("map", "last")


class Attention(nnx.Module):
    """Multi-head attention of all tokens to all: `[S, B, L, C]` to the same.

    Args:
      grid: of the patches behind the tokens without a place, where positions are rotary.
    """

    def __init__(self, config: VitConfig, grid: Size, scope: Scope, place: Place):
        channels, self.heads = config.embed_dim, config.heads
        parts = None if config.key_bias else (0, 2)
        info = place.info("attn/qkv", "qkv", 3)
        self.qkv = Linear(channels, 3 * channels, scope / "qkv", info, config.qkv_bias, parts)
        self.proj = Linear(channels, channels, scope / "proj", place.info("attn/proj", "proj"))
        self.rotary = None
        if config.rotary is not None:
            self.rotary = (grid, config.leading, channels // config.heads, config.rotary)

    def __call__(self, x: jax.Array, streams: Streams, context: Context) -> tuple[jax.Array, Streams]:
        qkv = self.qkv(x, streams, context)
        streams = self.qkv.streams_out(streams)
        q, k, v = split_heads(qkv, self.heads)
        if self.rotary is not None:
            tables = [jnp.asarray(table) for table in rotary_tables(*self.rotary)]
            q, k = rotate(q, *tables), rotate(k, *tables)
        return self.proj(attend(q, k, v), streams, context), self.proj.streams_out(streams)


class Vit(Backbone):
    """ViT without its final norm and classifier; a tapped block ends a stage.

    Shapes: images `[B, H, W, 3]`, normalised, to a tap per stage `[S', B, h, w, C]` (without the class token and
    registers) and the names of its streams, as `readout` says.
    """

    def __init__(
        self,
        config: VitConfig,
        image_size: int | Size,
        drop_path_rate: float,
        scope: Scope | None = None,
        readout: str = "map",
    ):
        scope = scope or Scope(path="backbone")
        self.config = config
        self.image_size = as_size(image_size)
        self.grid = patch_grid(self.image_size, config.patch)
        self.readout = readout
        self.leading = config.leading
        channels, tokens = config.embed_dim, self.leading + self.grid[0] * self.grid[1]
        self.patch_embed = PatchEmbed(3, channels, config.patch, scope / "patch_embed", norm=False)
        if config.rotary is None:
            rows = tokens - config.registers
            self.position_embedding = nnx.Param(scope.normal("position_embedding", (rows, channels)), decay=True)
        if config.class_token:
            self.class_token = nnx.Param(scope.normal("class_token", (channels,)), decay=False)
        if config.registers:
            registers = scope.normal("register_tokens", (config.registers, channels))
            self.register_tokens = nnx.Param(registers, decay=False)
        blocks = []
        for stage, rates in enumerate(rising_rates(drop_path_rate, config.depths)):
            for block, drop_rate in enumerate(rates):
                here = scope / "blocks" / len(blocks)
                ends = len(blocks) == config.depth - 1
                last = block == len(rates) - 1 and (ends or readout in EVERY_STAGE)
                place = Place(here.path, stage, block, last, ends, tokens)
                attn = Attention(config, self.grid, here / "attn", place)
                mlp = (GatedMlp if config.gated else Mlp)(channels, config.mlp_ratio * channels, here / "mlp", place)
                blocks.append(Block(channels, attn, mlp, drop_rate, here, config.epsilon, config.layer_scale))
        self.blocks = nnx.List(blocks)

    def grid_rows(self, image_size: Size | None = None) -> dict[str, GridRows]:
        """Position embeddings, the class token's apart."""
        grid = patch_grid(image_size or self.image_size, self.config.patch)
        method = "bicubic_antialias" if self.config.antialias else "bicubic"
        rows = GridRows(grid, int(self.config.class_token), method)
        return {"position_embedding": rows} if self.config.rotary is None else {}

    def embed(self, images: jax.Array, context: Context) -> jax.Array:
        """Images to tokens with positions, `[1, B, L, C]`."""
        x = rearrange(self.patch_embed(images, context), "b h w c -> 1 b (h w) c")
        if self.config.class_token:
            x = _before(self.class_token[...][None], x)
        if self.config.rotary is None:
            positions = self.position_embedding[...].astype(x.dtype)
            x = x + positions.reshape(1, 1, *positions.shape)
        if not self.config.registers:
            return x
        # Registers have no position.
        first = int(self.config.class_token)
        return jnp.concatenate([x[:, :, :first], _before(self.register_tokens[...], x[:, :, first:])], axis=2)

    def __call__(self, images: jax.Array, context: Context) -> Taps:
        x, streams = self.embed(images, context), (SHARED,)
        taps = []
        tapped = self.config.tapped if self.readout in EVERY_STAGE else self.config.tapped[-1:]
        for index, block in enumerate(self.blocks):
            x, streams = block(x, streams, context)
            if index not in tapped:
                continue
            if self.readout != "token":
                features = rearrange(x[:, :, self.leading :], "s b (h w) c -> s b h w c", h=self.grid[0])
                taps.append(tap(features, streams))
            if self.readout in WITH_TOKEN and index == tapped[-1]:
                taps.append(tap(x[:, :, :1, None, :], streams))
            # Streams live inside one stage: only the shared one enters the next.
            x, streams = x[:1], streams[:1]
        return taps


def _before(tokens: jax.Array, x: jax.Array) -> jax.Array:
    """The same tokens `[T, C]` before every image's, `[S, B, L, C]` to `[S, B, T + L, C]`."""
    tokens = jnp.broadcast_to(tokens.astype(x.dtype)[None, None], (*x.shape[:2], *tokens.shape))
    return jnp.concatenate([tokens, x], axis=2)
