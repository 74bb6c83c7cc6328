"""Swin Transformer (Liu et al. 2021) over a leading stream axis.

A stream is the shared path or one of the paths that a method splits off; every block is written once for
`[S, B, H, W, C]` and streams fan out only where an adapter says so. Nothing here knows what a stream means.
"""

import dataclasses

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from ditask_jax.backbones.geometry import StageGeometry, as_size, check_size
from ditask_jax.nn.context import Context
from ditask_jax.nn.linear import SHARED, LayerInfo, Linear
from ditask_jax.nn.norm import LayerNorm
from ditask_jax.nn.scope import Scope
from ditask_jax.nn.stochastic import drop_path
from ditask_jax.nn.windows import partition, relative_position_index, reverse, shift_mask

Streams = tuple[str, ...]


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


class PatchEmbed(nnx.Module):
    """Non-overlapping patches through one matrix, then LayerNorm: `[B, H, W, 3]` to `[B, H/p, W/p, C]`."""

    def __init__(self, config: SwinConfig, scope: Scope):
        patch, channels = config.patch, config.embed_dim
        self.patch = patch
        self.kernel = nnx.Param(scope.fan_in_uniform("kernel", (patch, patch, 3, channels)))
        self.bias = nnx.Param(scope.zeros((channels,)))
        self.norm = LayerNorm(channels, scope / "norm")

    def __call__(self, images: jax.Array, context: Context) -> jax.Array:
        patches = rearrange(images, "b (h i) (w j) c -> b h w (i j c)", i=self.patch, j=self.patch)
        kernel = rearrange(self.kernel[...], "i j c o -> (i j c) o").astype(context.dtype)
        out = patches.astype(context.dtype) @ kernel
        return self.norm(out + self.bias[...].astype(context.dtype).reshape(1, 1, 1, -1))


class WindowAttention(nnx.Module):
    """Multi-head attention inside (shifted) windows with a learned relative-position bias."""

    def __init__(self, channels: int, heads: int, geometry: StageGeometry, shifted: bool, scope: Scope, info):
        window = geometry.window
        self.heads = heads
        self.grid = geometry.grid
        self.window = window
        self.shift = geometry.shift if shifted else 0
        self.qkv = Linear(channels, 3 * channels, scope / "qkv", info("attn/qkv", "qkv", 3))
        self.proj = Linear(channels, channels, scope / "proj", info("attn/proj", "proj", 1))
        self.relative_position_bias_table = nnx.Param(scope.normal("table", ((2 * window - 1) ** 2, heads), 0.02))

    def _bias(self, examples: int) -> jax.Array:
        """The bias (and mask, where shifted) of every window: `[1, N or 1, heads, L, L]`, float32."""
        length = self.window**2
        index = relative_position_index(self.window).reshape(-1)
        bias = self.relative_position_bias_table[...][index].T.reshape(1, 1, self.heads, length, length)
        if self.shift:
            mask = jnp.asarray(shift_mask(self.grid, self.window, self.shift))
            bias = jnp.tile(bias + mask[None, :, None], (1, examples, 1, 1, 1))
        return bias

    def __call__(self, x: jax.Array, streams: Streams, context: Context) -> tuple[jax.Array, Streams]:
        examples, channels = x.shape[1], x.shape[-1]
        windows = partition(x, self.window, self.shift)
        qkv = self.qkv(windows, streams, context)
        streams = self.qkv.streams_out(streams)
        q, k, v = rearrange(qkv, "s n l (p h d) -> p s n h l d", p=3, h=self.heads)
        scale = (channels // self.heads) ** -0.5
        logits = jnp.einsum("snhqd,snhkd->snhqk", q * jnp.asarray(scale, q.dtype), k)
        weights = jax.nn.softmax(logits.astype(jnp.float32) + self._bias(examples), axis=-1).astype(v.dtype)
        mixed = rearrange(jnp.einsum("snhqk,snhkd->snhqd", weights, v), "s n h l d -> s n l (h d)")
        # Projection acts on tokens one by one, so undoing the windows first saves doing it for every stream.
        mixed = reverse(mixed, self.window, self.shift, self.grid)
        return self.proj(mixed, streams, context), self.proj.streams_out(streams)


class Mlp(nnx.Module):
    """Two dense layers around an exact (erf) GELU."""

    def __init__(self, channels: int, hidden: int, scope: Scope, info):
        self.fc1 = Linear(channels, hidden, scope / "fc1", info("mlp/fc1", "fc1", 1))
        self.fc2 = Linear(hidden, channels, scope / "fc2", info("mlp/fc2", "fc2", 1))

    def __call__(self, x: jax.Array, streams: Streams, context: Context) -> tuple[jax.Array, Streams]:
        x = self.fc1(x, streams, context)
        streams = self.fc1.streams_out(streams)
        x = self.fc2(jax.nn.gelu(x, approximate=False), streams, context)
        return x, self.fc2.streams_out(streams)


class SwinBlock(nnx.Module):
    """Attention and MLP with residuals. A branch with more streams than the trunk widens the trunk by broadcasting."""

    def __init__(self, channels: int, heads: int, config: SwinConfig, geometry, shifted, drop_rate, scope, info):
        self.path = scope.path
        self.drop_rate = drop_rate
        self.norm1 = LayerNorm(channels, scope / "norm1")
        self.attn = WindowAttention(channels, heads, geometry, shifted, scope / "attn", info)
        self.norm2 = LayerNorm(channels, scope / "norm2")
        self.mlp = Mlp(channels, config.mlp_ratio * channels, scope / "mlp", info)

    def __call__(self, x: jax.Array, streams: Streams, context: Context) -> tuple[jax.Array, Streams]:
        branch, streams = self.attn(self.norm1(x), streams, context)
        x = x + drop_path(branch, self.drop_rate, context, f"{self.path}/attn", streams)
        branch, streams = self.mlp(self.norm2(x), streams, context)
        return x + drop_path(branch, self.drop_rate, context, f"{self.path}/mlp", streams), streams


class PatchMerging(nnx.Module):
    """Joins 2x2 neighbours, normalises and halves: `[S, B, H, W, C]` to `[S, B, H/2, W/2, 2C]`."""

    def __init__(self, channels: int, scope: Scope, info: LayerInfo):
        self.norm = LayerNorm(4 * channels, scope / "norm")
        self.reduction = Linear(4 * channels, 2 * channels, scope / "reduction", info, use_bias=False)

    def __call__(self, x: jax.Array, streams: Streams, context: Context) -> jax.Array:
        # The row offset runs fastest, as in the released checkpoints: (0,0) (1,0) (0,1) (1,1).
        x = rearrange(x, "s b (h i) (w j) c -> s b h w (j i c)", i=2, j=2)
        return self.reduction(self.norm(x), streams, context)


class SwinStage(nnx.Module):
    """Blocks of one resolution, then patch merging unless it is the last stage."""

    def __init__(self, config: SwinConfig, stage: int, geometry: StageGeometry, drop_rates, scope: Scope):
        channels = config.embed_dim * 2**stage
        last_stage = stage == len(config.depths) - 1
        tokens = geometry.grid[0] * geometry.grid[1]
        blocks = []
        for block, drop_rate in enumerate(drop_rates):
            here = scope / "blocks" / block
            last = block == len(drop_rates) - 1

            def info(name, role, parts, here=here, block=block, last=last):
                return LayerInfo(f"{here.path}/{name}", role, parts, stage, block, last, last and last_stage, tokens)

            blocks.append(
                SwinBlock(channels, config.heads[stage], config, geometry, block % 2 == 1, drop_rate, here, info)
            )
        self.blocks = nnx.List(blocks)
        if not last_stage:
            here = scope / "merging"
            info = LayerInfo(f"{here.path}/reduction", "reduction", 1, stage, len(drop_rates), True, False, tokens // 4)
            self.merging = PatchMerging(channels, here, info)

    def __call__(self, x: jax.Array, streams: Streams, context: Context) -> tuple[jax.Array, Streams]:
        for block in self.blocks:
            x, streams = block(x, streams, context)
        return x, streams


class Swin(nnx.Module):
    """Swin without its final norm and classifier.

    Shapes: images `[B, H, W, 3]`, normalised, to a list with one tap per stage: the features
    `[S', B, h, w, C]` after patch merging, and the names of their streams.
    """

    def __init__(
        self, config: SwinConfig, image_size: int | tuple[int, int], drop_path_rate: float, scope: Scope | None = None
    ):
        scope = scope or Scope(path="backbone")
        self.config = config
        self.image_size = as_size(image_size)
        geometries = check_size(self.image_size, config.patch, config.window, len(config.depths))
        self.patch_embed = PatchEmbed(config, scope / "patch_embed")
        total = sum(config.depths)
        rates = [drop_path_rate * index / max(total - 1, 1) for index in range(total)]
        stages, start = [], 0
        for stage, depth in enumerate(config.depths):
            drop_rates = rates[start : start + depth]
            stages.append(SwinStage(config, stage, geometries[stage], drop_rates, scope / "stages" / stage))
            start += depth
        self.stages = nnx.List(stages)

    def __call__(self, images: jax.Array, context: Context) -> list[tuple[jax.Array, Streams]]:
        x, streams = self.patch_embed(images, context)[None], (SHARED,)
        taps = []
        for stage in self.stages:
            x, streams = stage(x, streams, context)
            if hasattr(stage, "merging"):
                x = stage.merging(x, streams, context)
            taps.append(tap(x, streams))
            # Streams live inside one stage: only the shared one enters the next.
            x, streams = x[:1], streams[:1]
        return taps


def tap(x: jax.Array, streams: Streams) -> tuple[jax.Array, Streams]:
    """What a stage hands to the heads: the split-off streams, or the shared one where nothing was split off."""
    if len(streams) > 1 and streams[0] == SHARED:
        return x[1:], streams[1:]
    return x, streams
