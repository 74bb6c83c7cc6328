"""Cells of [0, 1] and the continuous piecewise affine (CPA) velocity fields on them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ditask_jax.cpab.arithmetic import power_of_two, two_sum
from ditask_jax.errors import ConfigError, check_known

BASES = ("rref", "sparse")
# Beyond this |theta| the transform is a step function to every dtype's precision; theta saturates so that sums stay
# finite.
_THETA_LIMIT = 1e6
# Slices of 7 signed bits: products summed over up to a thousand terms stay below 2^24, hence exact in float32 (and in
# TF32).
_SLICE_BITS, _SLICES = 7, 5


@dataclasses.dataclass(frozen=True)
class Tessellation:
    """`num_cells` equal cells of [0, 1] and a basis of the velocity fields that are continuous and affine in every
    cell.

    Args:
        num_cells: N >= 2.
        zero_boundary: velocity 0 at both ends, so that 0 and 1 are fixed and [0, 1] maps onto itself.
        basis: "rref" (reduced row echelon form, the default of difw and of DiTASK) or "sparse" (hat functions).

    Raises:
        ConfigError: `num_cells` below 2 or an unknown basis.

    >>> Tessellation(16).theta_size
    15
    """

    num_cells: int
    zero_boundary: bool = True
    basis: str = "rref"

    def __post_init__(self):
        if isinstance(self.num_cells, bool) or not isinstance(self.num_cells, int | np.integer) or self.num_cells < 2:
            raise ConfigError(f"tessellation: num_cells: got {self.num_cells!r}, expected an integer of at least 2")
        if self.num_cells > 4096:
            raise ConfigError(f"tessellation: num_cells: got {self.num_cells}, expected at most 4096")
        check_known("tessellation: basis", self.basis, BASES)

    @property
    def theta_size(self) -> int:
        """Number of parameters K: N - 1 with zero boundary, N + 1 without."""
        return self.num_cells - 1 if self.zero_boundary else self.num_cells + 1


def vertex_basis(tess: Tessellation) -> np.ndarray:
    """Matrix from theta to the velocities at the N + 1 cell borders.

    Shapes: -> [N + 1, K] float64

    References: CPAB transforms, Freifeld et al., PAMI 2017; the "rref" columns are those of difw.

    >>> vertex_basis(Tessellation(2)).tolist()
    [[0.0], [0.5], [0.0]]
    """
    cells = tess.num_cells
    vertex = np.arange(cells + 1)[:, None]
    if tess.basis == "sparse":
        hats = np.eye(cells + 1) / cells
        return hats[:, 1:-1] if tess.zero_boundary else hats
    index = np.arange(1, cells if tess.zero_boundary else cells - 1)[None, :]
    inner = np.where(index >= vertex, vertex / (cells * np.maximum(index, 1)), 0.0)
    if tess.zero_boundary:
        return inner
    first = np.where(vertex == 0, 1 / cells, 0.0)
    last = np.where(vertex == cells, 1 / cells, 0.0)
    return np.concatenate([first, inner, vertex / cells**2, last], axis=1)


def affine_basis(tess: Tessellation) -> np.ndarray:
    """Matrix from theta to the affine coefficients (a_0, b_0, a_1, b_1, ...) of `v(x) = a_c x + b_c` in cell c.

    Shapes: -> [2N, K] float64

    >>> affine_basis(Tessellation(2)).ravel().tolist()
    [1.0, 0.0, -1.0, 1.0]
    """
    velocity = vertex_basis(tess)
    cells = tess.num_cells
    slope = np.diff(velocity, axis=0) * cells
    offset = velocity[:-1] - slope * (np.arange(cells) / cells)[:, None]
    return np.stack([slope, offset], axis=1).reshape(2 * cells, -1)


def vertex_velocities(theta: Array, tess: Tessellation) -> Array:
    """Velocities at the cell borders, `theta @ vertex_basis.T`.

    Shapes: theta [..., K] -> [..., N + 1]

    >>> vertex_velocities(jnp.array([1.0, 1.0, 0.0]), Tessellation(4)).tolist()
    [0.0, 0.375, 0.25, 0.0, 0.0]
    """
    return cell_velocities(theta, tess)[0] / tess.num_cells


@functools.partial(jax.jit, static_argnames="tess")
def cell_velocities(theta: Array, tess: Tessellation) -> tuple[Array, Array]:
    """Velocities at the cell borders in cells per unit time, as high and low word.

    Shapes: theta [..., K] -> ([..., N + 1], [..., N + 1])

    Raises:
        ConfigError: the last axis of theta is not `tess.theta_size` long.
    """
    theta = jnp.asarray(theta)
    theta = theta.astype(jnp.promote_types(theta.dtype, jnp.float32))
    if theta.shape[-1:] != (tess.theta_size,):
        raise ConfigError(
            f"theta: got shape {theta.shape}, expected a last axis of {tess.theta_size} for {tess.num_cells} cells "
            f"{'with' if tess.zero_boundary else 'without'} zero boundary"
        )
    return _expand(tess, jnp.clip(theta, -_THETA_LIMIT, _THETA_LIMIT))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _expand(tess: Tessellation, theta: Array) -> tuple[Array, Array]:
    if theta.dtype != jnp.float32:
        high = _project(tess, theta)
        return high, jnp.zeros_like(high)
    # Ozaki's error-free product: slices of theta and of the basis are small integers, so their float32 products are
    # exact, and so are the division and the multiplication by a power of two.
    largest = jnp.max(jnp.abs(theta), axis=-1, keepdims=True)
    unit = power_of_two(largest)
    slices = _slices(theta / unit, jnp.round)
    products = jnp.einsum("i...k,jkn->ij...n", slices, jnp.asarray(_basis_slices(tess)), precision="highest")
    high = low = jnp.zeros(products.shape[2:], products.dtype)
    for level in range(_SLICES):
        digit = sum(products[i, level - i] for i in range(level + 1)) * 2.0 ** (-_SLICE_BITS * (level + 2))
        high, error = two_sum(high, digit)
        low = low + error
    high, low = two_sum(high, low)
    return high * unit, low * unit


@_expand.defjvp
def _expand_jvp(tess, primals, tangents):
    primal = _expand(tess, *primals)
    return primal, (_project(tess, tangents[0]), jnp.zeros_like(primal[1]))


def _project(tess: Tessellation, theta: Array) -> Array:
    basis = jnp.asarray(vertex_basis(tess).T * tess.num_cells, theta.dtype)
    return jnp.matmul(theta, basis, precision="highest")


def _slices(value, rounded):
    """Integer digits of `value` in base 2^7, most significant first."""
    digits = []
    for _ in range(_SLICES):
        value = value * 2.0**_SLICE_BITS
        digits.append(rounded(value))
        value = value - digits[-1]
    return np.stack(digits) if isinstance(value, np.ndarray) else jnp.stack(digits)


@functools.lru_cache(maxsize=64)
def _basis_slices(tess: Tessellation) -> np.ndarray:
    return _slices(vertex_basis(tess).T * tess.num_cells, np.round).astype(np.float32)
