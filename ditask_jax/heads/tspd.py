"""The head `tspd` of FAAR: `hrnet` behind filters of every branch's spectrum, which also look at other tasks'."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ditask_jax.heads.head_registry import NeckOptions
from ditask_jax.heads.hrnet import HrnetHead
from ditask_jax.nn.context import Context, Scope
from ditask_jax.nn.resize import resize_bilinear
from ditask_jax.numerics import widened

# Rings of frequencies with a factor per channel, and the spread of these factors around 1 at the start.
RINGS, SPREAD = 16, 0.02
# Share of the filtered map that is added at the start.
ALPHA = 0.6
# Shares of the highest frequency: up to where magnitudes follow the others', and where edges begin; lengths of steps.
LOW, EDGE = 0.5, 0.8
LOW_STEP, EDGE_STEP = 0.5, 0.3
# Added under the root of a magnitude, so that its slope at 0 is finite.
SMALLEST = 1e-12


def radii(height: int, width: int) -> np.ndarray:
    """Distances of the frequencies of `rfft2` from 0, as shares of the greatest one: `[height, width // 2 + 1]`.

    >>> radii(2, 2).round(2).tolist()
    [[0.0, 0.71], [0.71, 1.0]]
    """
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    return radius / max(radius.max(), 1e-12)


class SpectralFilter(nnx.Module):
    """`x + alpha (scale irfft2(F) + shift)`, where `F` is the filtered spectrum of `x` drawn towards other tasks'.

    Shapes: `[B, h, w, C]` twice to the same; the second is the mean of the other tasks' maps.
    """

    def __init__(self, channels: int, scope: Scope):
        number = lambda value: nnx.Param(scope.full((), value), decay=False)
        self.delta = nnx.Param(scope.normal("delta", (RINGS, channels), SPREAD), decay=False)
        self.scale = nnx.Param(scope.ones((channels,)), decay=False)
        self.shift = nnx.Param(scope.zeros((channels,)), decay=False)
        self.alpha = number(ALPHA)
        self.low_pull, self.edge_pull = number(0.0), number(0.0)
        self.low_gain, self.edge_gain = number(1.0), number(1.0)

    def __call__(self, x: jax.Array, other: jax.Array) -> jax.Array:
        x, other = widened(x), widened(other)
        size = x.shape[1:3]
        # A Fourier transform is linear: that of a mean of maps is the mean of theirs.
        spectrum, others = (jnp.fft.rfft2(maps, axes=(1, 2), norm="ortho") for maps in (x, other))
        radius = radii(*size)
        ring = np.minimum((radius * RINGS).astype(int), RINGS - 1)
        spectrum = spectrum * (1 + self.delta[...][ring])[None]
        over = lambda mask: jnp.asarray(mask, x.dtype).reshape(1, *mask.shape, 1)
        # The phase, which says where things are, stays; the magnitude moves.
        own, theirs = magnitude(spectrum), magnitude(others)
        step = LOW_STEP * jax.nn.sigmoid(self.low_pull[...]) * over(radius <= LOW)
        spectrum = spectrum * ((own + step * (self.low_gain[...] * theirs - own)) / own)
        step = EDGE_STEP * jax.nn.sigmoid(self.edge_pull[...]) * over(np.clip((radius - EDGE) / (1 - EDGE), 0, 1))
        spectrum = spectrum + step * (self.edge_gain[...] * others - spectrum)
        back = jnp.fft.irfft2(spectrum, s=size, axes=(1, 2), norm="ortho")
        channel = lambda vector: vector[...].reshape(1, 1, 1, -1)
        return x + self.alpha[...] * (back * channel(self.scale) + channel(self.shift))


def magnitude(spectrum: jax.Array) -> jax.Array:
    """The absolute value of complex numbers, with a slope everywhere.

    >>> magnitude(jnp.array([3 + 4j])).tolist()
    [5.0]
    """
    return jnp.sqrt(spectrum.real**2 + spectrum.imag**2 + SMALLEST)


class TspdHead(HrnetHead):
    """`hrnet` behind a filter of every branch's spectrum at the first map's size.

    Where several tasks have this head, the filters also see the mean of the other tasks' branches; for a single task
    its own stands for that.

    References: FAAR (CVPR 2026), its decoder "TS-PD".
    """

    sees_others = True

    def __init__(self, channels: Sequence[int], outputs: int, scope: Scope, options: NeckOptions):
        super().__init__(channels, outputs, scope, options)
        self.filters = nnx.List([SpectralFilter(width, scope / "filters" / i) for i, width in enumerate(channels)])

    def __call__(
        self, maps: Sequence[jax.Array], context: Context, others: Sequence[Sequence[jax.Array]] = ()
    ) -> jax.Array:
        size, filtered = maps[0].shape[1:3], []
        for branch, spectral_filter in enumerate(self.filters):
            own = resize_bilinear(maps[branch], size)
            seen = [widened(each[branch]) for each in others]
            mean = resize_bilinear(sum(seen) / len(seen), size) if seen else own
            filtered.append(spectral_filter(own, mean).astype(context.dtype))
        return super().__call__(filtered, context)
