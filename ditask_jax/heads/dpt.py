"""The dense prediction transformer's decoder, for maps of one size: a pyramid is made of them, and fused upwards."""

import dataclasses
from collections.abc import Sequence

import jax
from einops import rearrange
from flax import nnx

from ditask_jax.errors import ConfigError
from ditask_jax.heads.head_registry import Head, HeadOptions
from ditask_jax.heads.neck import Pointwise
from ditask_jax.nn.context import Context, Scope
from ditask_jax.nn.conv import Conv
from ditask_jax.nn.products import product
from ditask_jax.nn.resize import resize_bilinear
from ditask_jax.options import integer, is_integer, option, several

FIRST_CHANNELS = 96


@dataclasses.dataclass(frozen=True)
class DptOptions(HeadOptions):
    """How wide the decoder is."""

    features: int = option(256, "Channels of the fused maps.", integer(1))
    reassembled: tuple[int, ...] | None = option(
        None,
        "Channels of the maps that are put in place of the tapped ones, one per stage; none: 96, doubled from stage to "
        "stage.",
        several("channels per stage above 0", lambda width: is_integer(width) and width > 0),
    )


class Enlarge(nnx.Module):
    """A transposed convolution without overlap: `[B, h, w, in]` to `[B, factor h, factor w, out]`."""

    def __init__(self, inputs: int, outputs: int, factor: int, scope: Scope):
        self.factor = factor
        self.kernel = nnx.Param(scope.fan_in_uniform("kernel", (inputs, factor * factor * outputs)), decay=True)
        self.bias = nnx.Param(scope.zeros((outputs,)), decay=False)

    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        y = product(x.astype(context.dtype), self.kernel[...].astype(context.dtype), context.wide)
        y = rearrange(y, "b h w (i j c) -> b (h i) (w j) c", i=self.factor, j=self.factor)
        return (y + self.bias[...].reshape(1, 1, 1, -1)).astype(context.dtype)


class ResidualUnit(nnx.Module):
    """Two 3x3 convolutions behind ReLUs, added to what comes: `[B, h, w, C]` to the same."""

    def __init__(self, channels: int, scope: Scope):
        self.first = Conv(channels, channels, 3, 1, 1, scope / "first")
        self.second = Conv(channels, channels, 3, 1, 1, scope / "second")

    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        return x + self.second(jax.nn.relu(self.first(jax.nn.relu(x), context)), context)


class Reassemble(nnx.Module):
    """A tap as a level of a pyramid: a 1x1 convolution, 2**octaves times the size, and 3x3 to the fused channels."""

    def __init__(self, inputs: int, channels: int, features: int, octaves: int, scope: Scope):
        self.project = Pointwise(inputs, channels, scope / "project")
        if octaves > 0:
            self.resize = Enlarge(channels, channels, 2**octaves, scope / "resize")
        elif octaves < 0:
            self.resize = Conv(channels, channels, 3, 2**-octaves, 1, scope / "resize")
        self.fit = Conv(channels, features, 3, 1, 1, scope / "fit")

    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        x = self.project(x, context)
        return self.fit(self.resize(x, context) if hasattr(self, "resize") else x, context)


class Fuse(nnx.Module):
    """A level and what came from the level below, if there is one, enlarged to the size of the level above."""

    def __init__(self, channels: int, lowest: bool, scope: Scope):
        if not lowest:
            self.level = ResidualUnit(channels, scope / "level")
        self.both = ResidualUnit(channels, scope / "both")
        self.project = Pointwise(channels, channels, scope / "project")

    def __call__(self, level: jax.Array, below: jax.Array | None, size: tuple[int, int], context: Context) -> jax.Array:
        x = level if below is None else below + self.level(level, context)
        # Resizing and a 1x1 convolution commute; the small map costs less.
        return resize_bilinear(self.project(self.both(x, context), context), size)


class DptHead(Head):
    """Makes a pyramid of the tapped maps of a plain ViT, 4, 2, 1 and 1/2 times their size, and fuses it upwards.

    Each level meets what comes from below between residual units of 3x3 convolutions; a 3x3 convolution, a ReLU and a
    1x1 convolution end it, at eight times the size of the taps. The class token is not read, and maps are enlarged with
    half-pixel centres. Of other than four taps the last makes the lowest level, and none is more than 4 times enlarged.

    Shapes: a list of `[B, h, w, channels_i]` to `[B, 8 h, 8 w, outputs]`, float32.

    References: Ranftl et al., "Vision Transformers for Dense Prediction", ICCV 2021.
    """

    is_map = True
    options = DptOptions

    def __init__(self, channels: Sequence[int], outputs: int, scope: Scope, options: DptOptions):
        count, features = len(channels), options.features
        widths = options.reassembled or tuple(FIRST_CHANNELS * 2**stage for stage in range(count))
        if len(widths) != count:
            raise ConfigError(
                f"config: head.reassembled: got {len(widths)} numbers of channels, expected one per stage ({count})"
            )
        octaves = [min(count - 2 - stage, 2) if count > 1 else 0 for stage in range(count)]
        stages = enumerate(zip(channels, widths, octaves, strict=True))
        self.reassemble = nnx.List(
            [Reassemble(c, w, features, o, scope / "reassemble" / stage) for stage, (c, w, o) in stages]
        )
        self.fuse = nnx.List([Fuse(features, stage == count - 1, scope / "fuse" / stage) for stage in range(count)])
        self.end = Conv(features, features, 3, 1, 1, scope / "end")
        self.classify = Pointwise(features, outputs, scope / "classify")

    def __call__(self, maps: Sequence[jax.Array], context: Context) -> jax.Array:
        levels = [reassemble(m, context) for reassemble, m in zip(self.reassemble, maps, strict=True)]
        x = None
        for stage in reversed(range(len(levels))):
            height, width = levels[stage].shape[1:3]
            size = levels[stage - 1].shape[1:3] if stage else (2 * height, 2 * width)
            x = self.fuse[stage](levels[stage], x, size, context)
        return self.classify.wide(jax.nn.relu(self.end(x, context)), context)
