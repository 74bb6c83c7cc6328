"""Float64 oracles of the flow, written for the tests and independent of the code under test.

`ode_flow` hands the differential equation to scipy, restarted at every cell border. `exact_flow` walks from cell to
cell in extended precision with the textbook solution of a scalar affine equation, and carries the derivative in every
border velocity along; the tests check it against `ode_flow` and then use it, being fast, as the reference everywhere.
"""

import numpy as np
from scipy.integrate import solve_ivp

_WIDE = np.longdouble


def _phi1(z):
    safe = np.where(z == 0, 1, z)
    return np.where(z == 0, 1, np.expm1(safe) / safe)


def _phi1_slope(z):
    near, far = np.where(np.abs(z) < 0.5, z, 0), np.where(np.abs(z) < 0.5, 1, z)
    series, term = np.zeros_like(z), np.ones_like(z)
    for n in range(25):
        term = term / (n + 1) if n == 0 else term * near / (n + 1)
        # term = z^n / (n + 1)!, wanted: (n + 1) / (n + 2)! z^n
        series = series + term * (n + 1) / (n + 2)
    return np.where(np.abs(z) < 0.5, series, (np.exp(far) - _phi1(far)) / far)


def exact_flow(velocities, x):
    """Shapes: velocities [N + 1], x [R] -> phi [R], d phi / d velocities [R, N + 1], d phi / d x [R], all float64.

    On a border where the field vanishes the derivative is that of the right cell.
    """
    with np.errstate(over="ignore"):
        return _exact_flow(np.asarray(velocities, _WIDE), np.asarray(x, _WIDE))


def _exact_flow(velocities, x):
    cells = len(velocities) - 1
    speed = velocities * cells
    cell = np.clip(np.floor(x * cells), 0, cells - 1).astype(int)
    position = x * cells - cell
    left_over = np.ones_like(x)
    partial = np.zeros((len(x), cells + 1), _WIDE)
    growth = np.ones_like(x)
    rows = np.arange(len(x))
    active = np.ones(len(x), bool)
    while active.any():
        slope = speed[cell + 1] - speed[cell]
        start = speed[cell] * (1 - position) + speed[cell + 1] * position
        forward = start > 0
        ahead = np.where(forward, speed[cell + 1], speed[cell])
        gap = np.where(forward, 1 - position, position)
        can = active & (start * ahead > 0) & np.where(forward, cell < cells - 1, cell > 0)
        safe = np.where(can, start, 1)
        z = np.where(can, np.where(forward, slope, -slope) * gap / safe, 0)
        small = np.abs(z) < 0.5
        mean = np.where(z == 0, 1, np.log1p(np.where(small, z, 0)) / np.where(z == 0, 1, z))
        ratio = np.where(can & ~small, ahead / safe, 2)
        mean = np.where(small, mean, np.log(ratio) / np.where(small, 1, z))
        time = np.where(can, gap / np.abs(safe) * mean, np.inf)
        crossing = can & (time < left_over)
        step = np.where(active, np.where(crossing, time, left_over), 0)
        stretch, mean_stretch = np.exp(slope * step), step * _phi1(slope * step)
        integral = position * mean_stretch + start * step**2 * _phi1_slope(slope * step)
        partial *= stretch[:, None]
        partial[rows, cell + 1] += np.where(active, integral, 0)
        partial[rows, cell] += np.where(active, mean_stretch - integral, 0)
        growth *= stretch
        moved = position + start * mean_stretch
        position = np.where(crossing, np.where(forward, 0, 1), np.where(active, moved, position))
        cell = np.where(crossing, np.where(forward, cell + 1, cell - 1), cell)
        left_over = left_over - step
        active = crossing
    phi = (cell + position) / cells
    # `partial` is the derivative in cell units by speeds in cell units: the two factors N cancel.
    return phi.astype(float), partial.astype(float), growth.astype(float)


def ode_flow(velocities, x):
    """phi of each point by adaptive integration of the field with scipy's DOP853, restarted at every cell border.

    Shapes: velocities [N + 1], x [R] -> [R]
    """
    return np.array([_ode_point(np.asarray(velocities, float), float(point)) for point in x])


def _ode_point(velocities, point):
    cells = len(velocities) - 1
    borders = np.arange(cells + 1) / cells
    start = _field(velocities, point)
    direction = np.sign(start)
    cell = int(np.clip(np.floor(point * cells), 0, cells - 1))
    if direction < 0 and point == borders[cell] and cell > 0:
        cell -= 1
    time = 0.0
    while time < 1 and direction != 0:
        slope = (velocities[cell + 1] - velocities[cell]) * cells
        base, origin = velocities[cell], borders[cell]
        goal = borders[cell + 1] if direction > 0 else borders[cell]
        outward = cell == cells - 1 if direction > 0 else cell == 0

        def reached(_, y, goal=goal):
            return y[0] - goal

        reached.terminal, reached.direction = True, direction
        solution = solve_ivp(
            lambda _, y, base=base, slope=slope, origin=origin: base + slope * (y - origin),
            (time, 1.0),
            [point],
            method="DOP853",
            rtol=1e-12,
            atol=1e-14,
            events=None if outward else reached,
        )
        time, point = solution.t[-1], solution.y[0, -1]
        if solution.status == 1:
            point, cell = goal, cell + int(direction)
            if _field(velocities, point) * direction <= 0:
                break
    return point


def _field(velocities, point):
    cells = len(velocities) - 1
    cell = int(np.clip(np.floor(point * cells), 0, cells - 1))
    weight = point * cells - cell
    return velocities[cell] * (1 - weight) + velocities[cell + 1] * weight
