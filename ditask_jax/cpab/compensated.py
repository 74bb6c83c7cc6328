"""Error-free float arithmetic: a number is carried as `high + low`, twice the digits of its dtype.

Near an unstable zero of the velocity field, the flow magnifies an error of the start velocity by `exp(slope)`: plain
float32 loses up to all digits there. Two words per number cost a few flops per point and remove the problem.

Every product below multiplies numbers of at most half the digits and is therefore exact, so that a compiler which
contracts `a * b + c` into one fused operation (XLA does, on CPU and GPU) cannot change any result.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

# Bits to clear so that a float keeps the upper half of its digits (float32: 12 of 24, float64: 26 of 53).
_MASKS = {"float32": (jnp.uint32, 0xFFFFF000), "float64": (jnp.uint64, 0xFFFFFFFFF8000000)}


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
