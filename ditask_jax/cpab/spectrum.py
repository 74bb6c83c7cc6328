"""Singular values through the diffeomorphism: the change `f_theta(sigma) - sigma` of whole spectra, all layers and
streams together.

Two domains. "value": `f(s) = c s_max phi(s / (c s_max))`, each singular value by itself. "index":
the sorted spectrum is read, with linear interpolation, at the warped index `phi(i / (R - 1))`, as the DiTASK authors'
released code does.
"""

import functools
import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ditask_jax.cpab.arithmetic import limit, quotient
from ditask_jax.cpab.flow import flow
from ditask_jax.cpab.tessellation import Tessellation, cell_velocities
from ditask_jax.errors import ConfigError, check_known

Domain = Literal["value", "index"]
DOMAINS = ("value", "index")
# Points per row of the joint flow below which the per-row work on the field would outweigh that on the points.
_SHORTEST_PIECE = 16


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["singular_values", "points", "points_low", "scale"],
    meta_fields=["domain"],
)
class SpectrumPoints:
    """Spectra and where they meet the diffeomorphism: constants, made once by `prepare_spectrum`. A pytree; `domain` is
    static.

    Attributes:
        singular_values: [..., R], descending.
        points, points_low: start points in [0, 1] as high and low word: [..., R] ("value"), [R] ("index").
        scale: [..., 1], the length of Omega = [0, c s_max] ("value") or the largest index R - 1 ("index").
        domain: "value" or "index".
    """

    def __init__(self, singular_values, points, points_low, scale, domain: Domain):
        self.singular_values = singular_values
        self.points = points
        self.points_low = points_low
        self.scale = scale
        self.domain = domain

    def __repr__(self):
        return f"SpectrumPoints(shape={self.singular_values.shape}, domain={self.domain!r})"


def prepare_spectrum(singular_values, domain: Domain = "value", headroom: float = 1.0) -> SpectrumPoints:
    """Precomputes what does not depend on theta.

    Shapes: singular_values [..., R], descending and not negative.

    Args:
        singular_values: NumPy array (checked, prepared in float64 on the host) or JAX array (may be traced; then
        trusted to be sorted).
        domain: "value" or "index".
        headroom: c >= 1; Omega = [0, c s_max] in the value domain. At c = 1 the largest singular value is pinned and
        the update has rank
            R - 1; above 1 it moves and the update has full rank. Without meaning in the index domain.

    Raises:
        ConfigError: unknown domain, headroom below 1 (or other than 1 in the index domain), unsorted, negative or
        non-finite values.

    >>> prepare_spectrum(np.array([2.0, 1.0])).points.tolist()
    [1.0, 0.5]
    """
    check_known("method: domain", domain, DOMAINS)
    if not (np.isfinite(headroom) and headroom >= 1):
        raise ConfigError(f"method: headroom: got {headroom}, expected a number of at least 1")
    if domain == "index" and headroom != 1:
        raise ConfigError(
            f"method: headroom: got {headroom}, but domain 'index' has no headroom; use 1 or domain 'value'"
        )
    if isinstance(singular_values, jax.Array):
        values = singular_values.astype(jnp.promote_types(singular_values.dtype, jnp.float32))
    else:
        values = np.asarray(singular_values)
        values = values.astype(np.promote_types(values.dtype, np.float32))
        if not (np.isfinite(values).all() and (values >= 0).all() and (np.diff(values, axis=-1) <= 0).all()):
            raise ConfigError(
                "singular values: expected finite values, none negative, in descending order along the last axis"
            )
    size = values.shape[-1]
    if domain == "index":
        exact = np.arange(size) / max(size - 1, 1)
        high, low = _two_words(exact)
        return SpectrumPoints(values, high, low, np.full((1,) * values.ndim, size - 1, np.float32), domain)
    if isinstance(values, np.ndarray):
        scale = values[..., :1] * values.dtype.type(headroom)
        exact = values.astype(np.float64) / np.where(scale > 0, scale, 1)
        return SpectrumPoints(values, *_two_words(np.minimum(exact, 1)), scale, domain)
    scale = values[..., :1] * jnp.asarray(headroom, values.dtype)
    return SpectrumPoints(
        values, *quotient(values, jnp.broadcast_to(jnp.where(scale > 0, scale, 1), values.shape)), scale, domain
    )


def _two_words(exact: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    high = exact.astype(np.float32)
    return high, (exact - high).astype(np.float32)


def spectrum_displacement(theta: Array, spectrum: SpectrumPoints, tess: Tessellation) -> Array:
    """Change of the singular values, `f_theta(sigma) - sigma`; exactly 0 at theta = 0 and for a spectrum of zeros.

    `sigma + change` stays in Omega ([0, c s_max], or [s_min, s_max] in the index domain) and in descending order, both
    to the rounding error of that sum.

    Shapes: theta [..., K], spectrum of [..., R] -> [..., R]; leading axes broadcast, so theta [S, 1, K] with spectra
    [P, R] gives [S, P, R].

    >>> spectrum = prepare_spectrum(np.array([3.0, 1.0, 0.5]))
    >>> bool((spectrum_displacement(jnp.zeros(3), spectrum, Tessellation(4)) == 0).all())
    True
    """
    high, low = cell_velocities(theta, tess)
    points = jnp.asarray(spectrum.points, high.dtype)
    moved, _ = flow(high, low, points, jnp.asarray(spectrum.points_low, high.dtype))
    return _change(moved, spectrum, tess)


def deformed_singular_values(theta: Array, spectrum: SpectrumPoints, tess: Tessellation) -> Array:
    """`f_theta(sigma)`: `sigma + spectrum_displacement`, in exactly descending order.

    Shapes: theta [..., K], spectrum of [..., R] -> [..., R]

    >>> spectrum = prepare_spectrum(np.array([3.0, 1.0]))
    >>> deformed_singular_values(jnp.zeros(3), spectrum, Tessellation(4)).tolist()
    [3.0, 1.0]
    """
    change = spectrum_displacement(theta, spectrum, tess)
    return _descending(_aligned(jnp.asarray(spectrum.singular_values, change.dtype), change.ndim) + change)


def spectrum_displacements(
    thetas: Sequence[Array],
    spectra: Sequence[Array | np.ndarray],
    tess: Tessellation,
    domain: Domain = "value",
    headroom: float = 1.0,
) -> list[Array]:
    """`spectrum_displacement` of many layers in one batched flow.

    Spectra of different lengths are cut into pieces of one length, the greatest common divisor of all (with padding
    only where that is too short to be worth a row), so one program serves them all: it compiles once and wastes no
    point on Swin's widths.

    Shapes: thetas: S_i streams each, [S_i, K]; spectra: P_i parts each, [P_i, R_i] -> list of [S_i, P_i, R_i].

    Args:
        thetas: one per layer.
        spectra: the singular values of each layer, descending.
        tess: the tessellation all thetas belong to.
        domain, headroom: see `prepare_spectrum`.

    Raises:
        ConfigError: different numbers of thetas and spectra, or shapes that do not fit.

    >>> spectra = [np.ones((3, 8), np.float32), np.ones((1, 4), np.float32)]
    >>> together = jax.jit(lambda thetas: spectrum_displacements(thetas, spectra, Tessellation(4)))
    >>> [change.shape for change in together([jnp.zeros((2, 3)), jnp.zeros((1, 3))])]
    [(2, 3, 8), (1, 1, 4)]
    """
    if len(thetas) != len(spectra):
        raise ConfigError(f"spectra: got {len(spectra)} spectra for {len(thetas)} thetas, expected as many of both")
    for index, (theta, values) in enumerate(zip(thetas, spectra, strict=True)):
        if jnp.ndim(theta) != 2 or np.ndim(values) != 2:
            shapes = f"theta {jnp.shape(theta)} and spectrum {np.shape(values)}"
            raise ConfigError(
                f"spectra: layer {index}: got {shapes}, expected [streams, {tess.theta_size}] and [parts, R]"
            )
    if not thetas:
        return []
    streams, parts = [theta.shape[0] for theta in thetas], [values.shape[0] for values in spectra]
    first_theta = np.concatenate([[0], np.cumsum(streams)])
    lengths: dict[int, list[int]] = {}
    for index, values in enumerate(spectra):
        lengths.setdefault(values.shape[-1], []).append(index)

    # Layers of one length share every operation; these tables say which theta and which spectrum a row belongs to.
    joined, flow_rows, spread = {}, {}, {}
    for size, members in lengths.items():
        joined[size] = prepare_spectrum(_concatenate([spectra[i] for i in members]), domain, headroom)
        first_part = np.concatenate([[0], np.cumsum([parts[i] for i in members])])
        pairs = [
            (first_theta[i] + s, first_part[place] + p)
            for place, i in enumerate(members)
            for s in range(streams[i])
            for p in range(parts[i])
        ]
        theta_of, part_of = (np.array(column) for column in zip(*pairs, strict=True))
        # In the index domain all parts of a layer start from the same points: one row per theta does for them.
        rows = row_of = np.arange(len(pairs))
        if domain == "index":
            _, rows, row_of = np.unique(theta_of, return_index=True, return_inverse=True)
        flow_rows[size] = (theta_of[rows], part_of[rows])
        spread[size] = (row_of, part_of)

    moved = _flow_all(jnp.concatenate([jnp.asarray(theta) for theta in thetas]), joined, flow_rows, tess)
    changes: dict[int, Array] = {}
    for size, members in lengths.items():
        row_of, part_of = spread[size]
        spectrum = joined[size]
        scale = spectrum.scale if domain == "index" else jnp.asarray(spectrum.scale)[part_of]
        rows = SpectrumPoints(jnp.asarray(spectrum.singular_values)[part_of], None, None, scale, domain)
        displaced = moved[size] if domain == "value" else _repeat_rows(moved[size], row_of)
        ends = np.cumsum([streams[i] * parts[i] for i in members])[:-1]
        for i, part in zip(members, jnp.split(_change(displaced, rows, tess), ends), strict=True):
            changes[i] = part.reshape(streams[i], parts[i], size)
    return [changes[i] for i in range(len(thetas))]


def _concatenate(arrays: Sequence[Array | np.ndarray]):
    """Joins on the host if it can, which keeps the points' exact two-word form."""
    return np.concatenate(arrays) if all(isinstance(a, np.ndarray) for a in arrays) else jnp.concatenate(arrays)


def _repeat_rows(table: Array, index: np.ndarray) -> Array:
    """`table[index]` as a product with ones and zeros: exact, and its gradient is a sum in fixed order."""
    chosen = np.zeros((len(index), table.shape[0]), table.dtype)
    chosen[np.arange(len(index)), index] = 1
    return jnp.matmul(jnp.asarray(chosen), table, precision=lax.Precision.HIGHEST)


def _flow_all(
    theta: Array, joined: dict[int, SpectrumPoints], rows: dict[int, tuple[np.ndarray, np.ndarray]], tess: Tessellation
):
    """Displacements by spectrum length, `[rows, R]` each, from one flow over pieces of equal length."""
    high, low = cell_velocities(theta, tess)
    piece = max(math.gcd(*joined), min(_SHORTEST_PIECE, max(joined)))
    counts = {size: -(-size // piece) for size in joined}

    def pieces(name, size):
        points = jnp.atleast_2d(jnp.asarray(getattr(joined[size], name), high.dtype))
        points = points[rows[size][1] if points.shape[0] > 1 else np.zeros(len(rows[size][1]), int)]
        return jnp.pad(points, ((0, 0), (0, counts[size] * piece - size))).reshape(-1, piece)

    theta_of = np.concatenate([np.repeat(rows[size][0], counts[size]) for size in joined])
    points, points_low = (jnp.concatenate([pieces(name, size) for size in joined]) for name in ("points", "points_low"))
    moved, _ = flow(_repeat_rows(high, theta_of), _repeat_rows(low, theta_of), points, points_low)
    ends = np.cumsum([len(rows[size][0]) * counts[size] for size in joined])[:-1]
    return {
        size: part.reshape(len(rows[size][0]), -1)[:, :size]
        for size, part in zip(joined, jnp.split(moved, ends), strict=True)
    }


def _aligned(array: Array, rank: int) -> Array:
    return array.reshape((1,) * (rank - array.ndim) + array.shape)


@functools.partial(jax.jit, static_argnames="tess")
def _change(moved: Array, spectrum: SpectrumPoints, tess: Tessellation) -> Array:
    """From displacements in [0, 1] to changes of the singular values."""
    rank = max(moved.ndim, spectrum.singular_values.ndim)
    moved = _aligned(moved, rank)
    values = _aligned(jnp.asarray(spectrum.singular_values, moved.dtype), rank)
    scale = _aligned(jnp.asarray(spectrum.scale, moved.dtype), rank)
    if spectrum.domain == "index":
        low, high = values[..., -1:], values[..., :1]
        change = _interpolate(values, moved * scale)
    else:
        low, high = jnp.zeros_like(scale), scale
        change = moved * scale
    if not tess.zero_boundary and spectrum.domain == "value":
        # Points may truly leave Omega here, and then no longer depend on theta.
        change = jnp.clip(change, low - values, high - values)
    return _ordered(change, values, low, high)


def _interpolate(values: Array, shift: Array) -> Array:
    """`values` read `shift` places further, minus `values`; linear between places, constant beyond the ends."""
    size = values.shape[-1]
    batch = jnp.broadcast_shapes(values.shape, shift.shape)
    values = jnp.broadcast_to(values, batch)
    shift = jnp.broadcast_to(jnp.clip(shift, -size, size), batch)
    whole = jnp.floor(lax.stop_gradient(shift))
    place = lax.broadcasted_iota(jnp.int32, batch, len(batch) - 1) + whole.astype(jnp.int32)
    here = jnp.take_along_axis(values, jnp.clip(place, 0, size - 1), axis=-1)
    there = jnp.take_along_axis(values, jnp.clip(place + 1, 0, size - 1), axis=-1)
    return (here - values) + (shift - whole) * (there - here)


@jax.custom_jvp
def _descending(values: Array) -> Array:
    """Running minimum, for values that ascend by rounding errors only: the derivative is the identity."""
    return lax.cummin(values, axis=values.ndim - 1)


@_descending.defjvp
def _descending_jvp(primals, tangents):
    return _descending(*primals), tangents[0]


@jax.custom_jvp
def _ordered(change: Array, values: Array, low: Array, high: Array) -> Array:
    """Takes rounding errors out of `change`, so that `values + change` lies in [low, high] and descends."""
    raw = values + change
    target = _descending(limit(raw, low, high))
    return jnp.where(raw == target, change, target - values)


@_ordered.defjvp
def _ordered_jvp(primals, tangents):
    return _ordered(*primals), tangents[0] + jnp.zeros_like(primals[1])
