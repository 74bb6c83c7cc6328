"""One compiled program per number of cells: every (field, point) pair of a test is a row of a batch of fixed height."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ditask_jax.cpab.flow import flow
from ditask_jax.cpab.tessellation import Tessellation, cell_velocities, vertex_basis

_HEIGHT = 4096


@jax.jit
def _evaluate(high, low, x, x_low):
    def total(high):
        moved, growth = flow(high, low, x, x_low)
        return jnp.sum(moved), (moved, growth)

    gradient, (moved, growth) = jax.grad(total, has_aux=True)(high)
    return moved[:, 0], growth[:, 0], gradient


def evaluate(high, low, x, x_low=None):
    """Flow of every field at every point.

    Shapes: high, low [F, N + 1] in cells per unit time; x, x_low [R] -> phi - x [F, R], d phi / d x [F, R], d phi / d
    high [F, R, N + 1]
    """
    fields, points = len(high), len(x)
    rows = [np.repeat(np.asarray(array), points, axis=0) for array in (high, low)] + [
        np.tile(points_of, fields)[:, None] for points_of in (x, np.zeros_like(x) if x_low is None else x_low)
    ]
    count = fields * points
    pad = -count % _HEIGHT
    rows = [np.concatenate([array, np.zeros((pad, array.shape[1]), array.dtype)]) for array in rows]
    pieces = [_evaluate(*(array[k : k + _HEIGHT] for array in rows)) for k in range(0, count, _HEIGHT)]
    results = [np.concatenate([np.asarray(piece[k], float) for piece in pieces])[:count] for k in range(3)]
    return [array.reshape(fields, points, *array.shape[1:]) for array in results]


@functools.partial(jax.jit, static_argnums=1)
def _velocities(theta, tess):
    return cell_velocities(theta, tess)


def evaluate_theta(theta, x, tess: Tessellation, x_low=None):
    """Shapes: theta [F, K], x, x_low [R] -> phi - x [F, R], d phi / d x [F, R], d phi / d theta [F, R, K]"""
    moved, growth, gradient = evaluate(*_velocities(theta, tess), x, x_low)
    return moved, growth, gradient @ (vertex_basis(tess) * tess.num_cells)
