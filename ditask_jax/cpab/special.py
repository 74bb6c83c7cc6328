"""The few functions the closed-form flow needs, accurate near their singularities, with derivatives to match."""

import math

import jax
import jax.numpy as jnp
from jax import Array

from ditask_jax.backends import by_backend


def _series(z: Array, coefficients: list[float]) -> Array:
    total = jnp.full_like(z, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * z + coefficient
    return total


@jax.custom_jvp
def phi1(z: Array) -> Array:
    """`(exp(z) - 1) / z`, 1 at 0: the mean of `exp` over [0, z]. Accurate for every finite z below overflow.

    >>> phi1(jnp.array([0.0, 1e-8])).tolist()
    [1.0, 1.0]
    """
    safe = jnp.where(z == 0, 1, z)
    return jnp.where(z == 0, 1, jnp.expm1(safe) / safe)


@phi1.defjvp
def _phi1_jvp(primals, tangents):
    return phi1(*primals), phi1_slope(*primals) * tangents[0]


def phi1_slope(z: Array) -> Array:
    """Derivative of `phi1`, `(exp(z) - phi1(z)) / z`.

    >>> phi1_slope(jnp.zeros(1)).tolist()
    [0.5]
    """
    small = jnp.abs(z) < 0.5
    far = jnp.where(small, 1, z)
    near = _series(jnp.where(small, z, 0), [(n + 1) / math.factorial(n + 2) for n in range(14)])
    return jnp.where(small, near, (jnp.exp(far) - phi1(far)) / far)


def phi2(z: Array) -> Array:
    """`(phi1(z) - 1) / z`, 1/2 at 0.

    >>> phi2(jnp.zeros(1)).tolist()
    [0.5]
    """
    small = jnp.abs(z) < 0.5
    far = jnp.where(small, 1, z)
    near = _series(jnp.where(small, z, 0), [1 / math.factorial(n + 2) for n in range(14)])
    return jnp.where(small, near, (phi1(far) - 1) / far)


@jax.custom_jvp
def log_ratio(z: Array, ratio: Array) -> Array:
    """`log(1 + z) / z`, 1 at 0, given both `z` and `ratio = 1 + z`, each to full relative accuracy.

    `1 / log_ratio` is the logarithmic mean of 1 and `ratio`: the time to travel a unit gap whose velocity grows
    linearly from 1 to `ratio`.

    Args:
        z: `ratio - 1`, accurate near 0.
        ratio: positive, accurate near 0; a second spelling of `z`, so the derivative is taken in `z` alone.

    >>> [f"{value:.4f}" for value in log_ratio(jnp.array([0.0, 1.0]), jnp.array([1.0, 2.0]))]
    ['1.0000', '0.6931']
    """
    wide = jnp.abs(z) > 0.5
    near = jnp.where(wide | (z == 0), 0.5, z)
    far = jnp.where(wide, z, 1)
    value = jnp.where(wide, jnp.log(jnp.where(wide, ratio, 1)) / far, jnp.log1p(near) / near)
    return jnp.where(z == 0, 1, value)


@log_ratio.defjvp
def _log_ratio_jvp(primals, tangents):
    (z, ratio), (dz, _) = primals, tangents
    small = jnp.abs(z) < 0.25
    near = jnp.where(small, z, 0)
    far = jnp.where(small, 1, z)
    # d/dz = sum (-1)^(n+1) (n+1)/(n+2) z^n; the closed form cancels near 0.
    terms = 12 if z.dtype == jnp.float32 else 30
    near_slope = _series(near, [(-1) ** (n + 1) * (n + 1) / (n + 2) for n in range(terms)])
    far_ratio = jnp.where(small, 2, ratio)
    far_slope = (1 / far_ratio - log_ratio(far, far_ratio)) / far
    return log_ratio(z, ratio), jnp.where(small, near_slope, far_slope) * dz


@jax.custom_jvp
def limit(value: Array, low: Array, high: Array) -> Array:
    """Clips away a rounding error: the value lies in [low, high] and the derivative is that of the unclipped value.

    >>> float(limit(1.5, 0.0, 1.0)), float(jax.grad(limit)(1.5, 0.0, 1.0))
    (1.0, 1.0)
    """
    return jnp.clip(value, low, high)


@limit.defjvp
def _limit_jvp(primals, tangents):
    return limit(*primals), tangents[0]


@jax.custom_jvp
def pick(table: Array, *indices: Array) -> tuple[Array, ...]:
    """`table[index]` for each index array; its gradient has the same bits on every run, on accelerators too.

    Shapes: table [N], each index [R] int -> a tuple of [R]

    >>> [chosen.tolist() for chosen in pick(jnp.array([1.0, 2.0]), jnp.array([1, 0, 1]))]
    [[2.0, 1.0, 2.0]]
    """
    return _gather(table, *indices)


@pick.defjvp
def _pick_jvp(primals, tangents):
    # The transpose of a gather is a scatter: in order on a CPU and fast there, but in random order (atomics) on a GPU,
    # which in turn is quick at masked sums.
    return pick(*primals), by_backend(tangents[0], *primals[1:], cpu=_gather, elsewhere=_masked_sums)


def _gather(table: Array, *indices: Array) -> tuple[Array, ...]:
    return tuple(table.at[index].get(mode="promise_in_bounds") for index in indices)


def _masked_sums(table: Array, *indices: Array) -> tuple[Array, ...]:
    places = jnp.arange(table.shape[0])[None, :]
    return tuple(jnp.sum(jnp.where(index[:, None] == places, table[None, :], 0), axis=1) for index in indices)
