"""Arithmetic for CPAB: sums and products whose rounding errors are kept, and functions without cancellation."""

import math

import jax
import jax.numpy as jnp
from jax import Array, lax

from ditask_jax.numerics import by_backend

# Error-free float arithmetic: a number is carried as `high + low`, twice the digits of its dtype.
#
# Near an unstable zero of the velocity field, the flow magnifies an error of the start velocity by `exp(slope)`: plain
# float32 loses up to all digits there. Two words per number cost a few flops per point and remove the problem.
#
# Whether training needs them was measured against `tests/cpab/oracle.py`, with parameters drawn at scales 0.01 to 10
# and set to +-10 in turn, both bases: the largest error of one number of the gradient, relative to the largest number.
#
#     cells           16 to 128     1000
#     single words    3e-6          1e-3
#     two words       7e-7          4e-7
#
# Displacements stay within 1e-6 either way. Single words would thus do for the published 16 to 128 cells, in float32
# and all the more for bfloat16 products, but not for the 4096 that `Tessellation` accepts, so the two words stay.
#
# Every product below multiplies numbers of at most half the digits and is therefore exact, so that a compiler which
# contracts `a * b + c` into one fused operation (XLA does, on CPU and GPU) cannot change any result.


# Bits to clear so that a float keeps the upper half of its digits (float32: 12 of 24, float64: 26 of 53).
_MASKS = {"float32": (jnp.uint32, 0xFFFFF000), "float64": (jnp.uint64, 0xFFFFFFFFF8000000)}
# Bits of the fraction, and the largest exponent field of a finite number.
_FIELDS = {"float32": (23, 254), "float64": (52, 2046)}


def power_of_two(value: Array) -> Array:
    """The smallest power of two that is not below `|value|`, read off the bits; 1 for 0 and subnormal numbers.

    `exp2(ceil(log2(value)))` is none: XLA computes exp2 as exp, which misses powers of two from about 2^13 and 2^-13
    on. What exceeds the largest power of two gets that one.

    Shapes: any

    >>> power_of_two(jnp.array([0.75, 2.0, -3e-20, 0.0])).tolist() == [1.0, 2.0, 2.0**-64, 1.0]
    True
    """
    fraction, largest = _FIELDS[value.dtype.name]
    kind = _MASKS[value.dtype.name][0]
    bits = lax.bitcast_convert_type(jnp.abs(value), kind)
    exponent = (bits >> fraction) + ((bits & ((1 << fraction) - 1)) != 0).astype(kind)
    power = jnp.minimum(exponent, jnp.array(largest, kind)) << fraction
    return jnp.where(bits >> fraction == 0, jnp.ones_like(value), lax.bitcast_convert_type(power, value.dtype))


def split(value: Array) -> tuple[Array, Array]:
    """Splits floats exactly into an upper part of half the digits and the rest.

    >>> high, low = split(jnp.float32(0.1))
    >>> bool(high + low == jnp.float32(0.1)), bool(abs(low) < 1e-4)
    (True, True)
    """
    bits, mask = _MASKS[value.dtype.name]
    high = lax.bitcast_convert_type(lax.bitcast_convert_type(value, bits) & jnp.array(mask, bits), value.dtype)
    return high, value - high


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """`a + b` as rounded sum and exact rounding error (Knuth); the operands may have any order."""
    total = a + b
    b_seen = total - a
    return total, (a - (total - b_seen)) + (b - b_seen)


def times_integer(value: Array, low: Array, factor: int) -> tuple[Array, Array]:
    """`(value + low) * factor` as high and low word; exact in `value` for factors of at most half the digits."""
    upper, lower = split(value)
    high, error = two_sum(upper * factor, lower * factor)
    return high, error + low * factor


def quotient(a: Array, b: Array) -> tuple[Array, Array]:
    """`a / b` as high and low word.

    >>> high, low = quotient(jnp.float32(1), jnp.float32(3))
    >>> abs(float(high) + float(low) - 1 / 3) < 1e-12
    True
    """
    high = a / b
    high_upper, high_lower = split(high)
    b_upper, b_lower = split(b)
    rest = (((a - high_upper * b_upper) - high_upper * b_lower) - high_lower * b_upper) - high_lower * b_lower
    return high, rest / b


@jax.custom_jvp
def blend(left: Array, left_low: Array, right: Array, right_low: Array, weight: Array, weight_low: Array) -> Array:
    """Two-word `left * (1 - weight) + right * weight`, rounded once: relatively accurate even where the two terms
    cancel.

    Shapes: all equal.

    Args:
        left, left_low: value at weight 0, as high and low word. `right`, `right_low`: at weight 1.
        weight, weight_low: position between the two, as high and low word; may lie outside [0, 1].

    Returns:
        The interpolated value, differentiable in the high words.

    >>> one, zero = jnp.ones(1), jnp.zeros(1)
    >>> blend(-one, zero, 3 * one, zero, one / 4, zero).tolist()
    [0.0]
    """
    rest, rest_error = two_sum(jnp.ones_like(weight), -weight)
    rest_low = rest_error - weight_low
    left_upper, left_lower = split(left)
    right_upper, right_lower = split(right)
    rest_upper, rest_lower = split(rest)
    weight_upper, weight_lower = split(weight)
    total, error = two_sum(left_upper * rest_upper, right_upper * weight_upper)
    middle = (left_upper * rest_lower + right_upper * weight_lower) + (
        left_lower * rest_upper + right_lower * weight_upper
    )
    small = (left_lower * rest_lower + right_lower * weight_lower) + (
        (left_low * rest + right_low * weight) + (left * rest_low + right * weight_low)
    )
    return total + (error + (middle + small))


@blend.defjvp
def _blend_jvp(primals, tangents):
    left, _, right, _, weight, _ = primals
    d_left, _, d_right, _, d_weight, _ = tangents
    tangent = d_left * (1 - weight) + d_right * weight + (right - left) * d_weight
    return blend(*primals), tangent


# The few functions the closed-form flow needs, accurate near their singularities, with derivatives to match.


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
