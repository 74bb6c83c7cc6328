"""The closed-form flow of a CPA velocity field: phi(x) = x(1) where dx/dt = v(x), x(0) = x.

Inside a cell the field is affine and the flow an exponential; the time to cross a cell is its width over the
logarithmic mean of its border velocities. A trajectory keeps its direction, so the cell it ends in is found by
comparing sums of crossing times, for all points at once and without a loop. Everything below measures lengths in cells
and velocities in cells per unit time.

References: Freifeld et al., Transformations Based on Continuous Piecewise-Affine Velocity Fields, PAMI 2017; Martinez
et al., Closed-Form Diffeomorphic Transformations for Time Series Alignment, ICML 2022.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array, lax

from ditask_jax.cpab.arithmetic import blend, limit, log_ratio, phi1, phi1_slope, phi2, pick, times_integer, two_sum
from ditask_jax.cpab.tessellation import Tessellation, cell_velocities

# Slower than this (in cells per unit time) counts as standing still: squares and ratios of velocities then stay within
# the float range.
_STANDSTILL = 1e-18


def displacement(velocities: Array, x: Array) -> Array:
    """`phi(x) - x` for the field with the given velocities at the cell borders. Exactly 0 where the field is 0.

    Outside [0, 1] the field goes on with the affine map of the end cell. Differentiable (to any order) in velocities
    and x; at a start point on a border where the field vanishes, where the two one-sided derivatives differ, the one of
    the right cell is taken.

    Shapes: velocities [..., N + 1], x [..., R] -> [..., R]; leading axes broadcast.

    >>> displacement(jnp.array([0.5, 0.5, 0.5]), jnp.array([0.0, 0.25])).tolist()
    [0.5, 0.5]
    """
    return _from_vertices(velocities, x)[0]


def flow_derivative(velocities: Array, x: Array) -> Array:
    """`d phi / d x`, the ratio v(phi(x)) / v(x) where the field does not vanish; always positive.

    Shapes: velocities [..., N + 1], x [..., R] -> [..., R]; leading axes broadcast.

    >>> flow_derivative(jnp.array([0.0, 0.0, 0.0]), jnp.array([0.3])).tolist()
    [1.0]
    """
    return _from_vertices(velocities, x)[1]


def displacement_and_slope(velocities: Array, x: Array) -> tuple[Array, Array]:
    """`(phi(x) - x, d phi / d x)` for the cost of one; see `displacement` and `flow_derivative`.

    Shapes: velocities [..., N + 1], x [..., R] -> ([..., R], [..., R])
    """
    return _from_vertices(velocities, x)


def transform(theta: Array, x: Array, tess: Tessellation, time: float | Array = 1.0) -> Array:
    """The diffeomorphism `phi(x)` of parameters theta, the identity at theta = 0.

    Shapes: theta [..., K], x [..., R] -> [..., R]; leading axes broadcast.

    Args:
        theta: velocity field in the basis of `tess`.
        x: points, usually in [0, 1].
        tess: cells and basis.
        time: flow time; negative values give the inverse.

    >>> tess = Tessellation(4)
    >>> transform(jnp.zeros(3), jnp.array([0.0, 0.3, 1.0]), tess).tolist() == jnp.array([0.0, 0.3, 1.0]).tolist()
    True
    """
    high, low = cell_velocities(jnp.asarray(theta) * time, tess)
    x = jnp.asarray(x).astype(jnp.promote_types(jnp.asarray(x).dtype, high.dtype))
    return x + flow(high, low, x, jnp.zeros_like(x))[0]


def inverse(theta: Array, x: Array, tess: Tessellation) -> Array:
    """The inverse of `transform`: the flow of the opposite field.

    Shapes: theta [..., K], x [..., R] -> [..., R]

    >>> tess, x = Tessellation(4), jnp.array([0.2, 0.7])
    >>> bool(jnp.allclose(inverse(jnp.ones(3), transform(jnp.ones(3), x, tess), tess), x, atol=1e-6))
    True
    """
    return transform(-theta, x, tess)


def _from_vertices(velocities: Array, x: Array) -> tuple[Array, Array]:
    velocities, x = jnp.asarray(velocities), jnp.asarray(x)
    dtype = jnp.promote_types(jnp.promote_types(velocities.dtype, x.dtype), jnp.float32)
    velocities, x = velocities.astype(dtype), x.astype(dtype)
    high, low = _scaled(velocities, velocities.shape[-1] - 1)
    return flow(high, low, x, jnp.zeros_like(x))


@jax.jit
def flow(velocity: Array, velocity_low: Array, x: Array, x_low: Array) -> tuple[Array, Array]:
    """Displacement and slope from two-word inputs; the batched core of everything public here.

    Shapes: velocity, velocity_low [..., N + 1] in cells per unit time; x, x_low [..., R] -> ([..., R], [..., R])
    """
    batch = jnp.broadcast_shapes(velocity.shape[:-1], x.shape[:-1])

    def rows(array):
        padded = array.reshape((1,) * (len(batch) + 1 - array.ndim) + array.shape)
        return jnp.broadcast_to(padded, (*batch, array.shape[-1])).reshape(-1, array.shape[-1])

    results = jax.vmap(_flow_row)(rows(velocity), rows(velocity_low), rows(x), rows(x_low))
    return tuple(result.reshape(*batch, x.shape[-1]) for result in results)


@jax.custom_jvp
def _scale(value: Array, low: Array, factor: Array) -> tuple[Array, Array]:
    return times_integer(value, low, factor)


@_scale.defjvp
def _scale_jvp(primals, tangents):
    result = _scale(*primals)
    return result, (tangents[0] * primals[2], jnp.zeros_like(result[1]))


def _scaled(value: Array, cells: int, low: Array | None = None) -> tuple[Array, Array]:
    """`value * cells` as high and low word; the derivative is that of the high word."""
    return _scale(value, jnp.zeros_like(value) if low is None else low, jnp.asarray(cells, value.dtype))


def _locate(x: Array, x_low: Array, cells: int) -> tuple[Array, Array, Array]:
    """Cell of each point (a border belongs to the right cell) and the two-word distance from its left border."""
    position, position_low = _scaled(x, cells, x_low)
    cell = jnp.floor(lax.stop_gradient(position))
    # Just below a border, the product rounds up to the border while its low word is negative.
    cell = cell - ((position == cell) & (position_low < 0)).astype(cell.dtype)
    cell = jnp.clip(cell, 0, cells - 1)
    offset, offset_low = two_sum(position - cell, lax.stop_gradient(position_low))
    return cell.astype(jnp.int32), offset, lax.stop_gradient(offset_low)


def _arrival(gap: Array, start: Array, end: Array, change: Array, allowed: Array) -> tuple[Array, Array]:
    """Time to travel `gap` while the velocity grows linearly from `start` to `end = start + change`, and whether one
    unit of time suffices.

    What takes longer, or is not `allowed`, or meets a zero of the field, gets time 0 and no derivative.
    """
    allowed = allowed & (start * jnp.sign(end) > 0) & (jnp.minimum(jnp.abs(start), jnp.abs(end)) > _STANDSTILL)

    def time(use, gap, start, end, change):
        safe = jnp.where(use, start, 1)
        return gap / jnp.abs(safe) * log_ratio(jnp.where(use, change, 0) / safe, jnp.where(use, end, 1) / safe)

    reached = allowed & (time(allowed, *(lax.stop_gradient(array) for array in (gap, start, end, change))) <= 1)
    return jnp.where(reached, time(reached, gap, start, end, change), 0), reached


def _flow_row(velocity: Array, velocity_low: Array, x: Array, x_low: Array) -> tuple[Array, Array]:
    """One field, many points.

    Shapes: velocity, velocity_low [N + 1], x, x_low [R] -> ([R], [R])
    """
    cells = velocity.shape[0] - 1
    velocity_low = lax.stop_gradient(velocity_low)

    # Start: cell, position in it, velocity there, and the border ahead.
    cell, offset, offset_low = _locate(x, x_low, cells)
    left, right = pick(velocity, cell, cell + 1)
    left_low, right_low = pick(velocity_low, cell, cell + 1)
    slope = (right - left) + (right_low - left_low)
    start = blend(left, left_low, right, right_low, offset, offset_low)
    forward = start > 0
    direction = jnp.where(forward, 1, -1).astype(x.dtype)
    gap = jnp.where(forward, (1 - offset) - offset_low, offset + offset_low)

    # Time to that border; beyond the ends of the domain there is none.
    ahead = jnp.where(forward, right, left)
    outward = jnp.where(forward, cell == cells - 1, cell == 0)
    first_time, leaving = _arrival(gap, start, ahead, direction * slope * gap, ~outward)

    # Whole cells crossed after it. The search runs on integer times, whose running sum is exact; no point has time for
    # an impassable cell, as it takes more than one unit. The value is a masked sum of the float times.
    cell_index = jnp.arange(cells)
    change = (velocity[1:] - velocity[:-1]) + (velocity_low[1:] - velocity_low[:-1])
    inner = (cell_index > 0) & (cell_index < cells - 1)
    times, passable = _arrival(jnp.ones_like(change), velocity[:-1], velocity[1:], change, inner)
    ticker = jnp.int32 if x.dtype == jnp.float32 else jnp.int64
    tick = 2.0 ** math.floor(math.log2(jnp.iinfo(ticker).max / (1.02 * (cells + 2))))
    ticks = jnp.where(passable, jnp.round(lax.stop_gradient(times) * tick), 1.01 * tick).astype(ticker)
    clock = jnp.concatenate([jnp.zeros(1, ticker), jnp.cumsum(ticks, dtype=ticker)])
    border = cell + forward.astype(jnp.int32)
    budget = jnp.where(leaving, jnp.round((1 - lax.stop_gradient(first_time)) * tick).astype(ticker), -1)
    border_clock = clock.at[border].get(mode="promise_in_bounds")
    crossed = jnp.where(
        forward[:, None],
        (cell_index[None, :] >= border[:, None]) & (clock[None, 1:] <= (border_clock + budget)[:, None]),
        (cell_index[None, :] < border[:, None]) & (clock[None, :-1] >= (border_clock - budget)[:, None]),
    )
    count = jnp.sum(crossed, axis=1, dtype=jnp.int32)
    step = jnp.where(forward, 1, -1)
    entry = border + step * count
    elapsed = first_time + jnp.sum(jnp.where(crossed, times[None, :], 0), axis=1)

    # The rest of the time is spent inside one cell, entered at a border, or never left. Seen in the direction of
    # travel:
    entry_velocity, next_velocity = pick(velocity, entry, jnp.clip(entry + step, 0, cells))
    behind = direction * jnp.where(leaving, entry_velocity, jnp.where(forward, left, right))
    onward = direction * jnp.where(leaving, next_velocity, ahead)
    speed = jnp.where(leaving, behind, direction * start)
    rate = jnp.where(leaving, onward - behind, slope)
    covered = jnp.where(leaving, 0, jnp.where(forward, offset, 1 - offset))
    room = jnp.where(leaving, 1, gap)
    time = jnp.where(leaving, 1 - elapsed, 1)
    last_cell = jnp.where(leaving, jnp.where(forward, entry, entry - 1), cell)
    endless = jnp.where(forward, last_cell == cells - 1, last_cell == 0)
    travelled = _travel(behind, onward, covered, time, speed, rate, room)
    travelled = limit(travelled, jnp.zeros_like(room), jnp.where(endless, jnp.inf, room))
    moved = direction * (jnp.where(leaving, gap + count.astype(x.dtype), 0) + travelled)
    growth = jnp.where(leaving, entry_velocity / jnp.where(leaving, start, 1), 1) * jnp.exp(_exponent(rate, time))
    return moved / cells, growth


@jax.custom_jvp
def _travel(behind: Array, onward: Array, covered: Array, time: Array, speed: Array, rate: Array, room: Array) -> Array:
    """Way made inside one cell in the direction of travel.

    The derivative is written out: each entry is then a sum of terms of one sign. Differentiating the closed form would
    subtract nearly equal numbers wherever the flow contracts.

    Args:
        behind, onward: velocity at the border behind and at the one ahead, positive in the direction of travel.
        covered: distance of the start from the border behind.
        time: time left.
        speed, rate, room: velocity at the start, `onward - behind`, `1 - covered`: known to full relative accuracy, and
        functions of the
            former, so the derivative is taken in the former alone.
    """
    return speed * time * phi1(_exponent(rate, time))


@_travel.defjvp
def _travel_jvp(primals, tangents):
    _, onward, covered, time, speed, rate, room = primals
    d_behind, d_onward, d_covered, d_time = tangents[:4]
    exponent = _exponent(rate, time)
    growth, mean_growth = jnp.exp(exponent), time * phi1(exponent)
    room_left = room * growth - onward * mean_growth
    # Integrals over time of growth times the weight of a border: hat functions evaluated along the trajectory, measured
    # from its end where the flow contracts and from its start where it expands.
    weight_onward = covered * mean_growth + speed * time * time * phi1_slope(exponent)
    weight_behind = jnp.where(
        exponent < 0,
        room_left * mean_growth + speed * growth * time * time * phi2(exponent),
        room * mean_growth - speed * time * time * phi1_slope(exponent),
    )
    tangent = (
        weight_behind * d_behind + weight_onward * d_onward + speed * growth * d_time + rate * mean_growth * d_covered
    )
    return _travel(*primals), tangent


def _exponent(rate: Array, time: Array) -> Array:
    # Only ways out of the domain grow like this; the bound leaves products with velocities finite.
    return jnp.minimum(rate * time, 0.75 * math.log(float(jnp.finfo(rate.dtype).max)))
