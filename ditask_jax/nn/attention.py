"""Attention, windows of a grid of tokens, and variables with a row per cell of a grid."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from ditask_jax.nn.custom_vjp import custom_vjp
from ditask_jax.numerics import widened

# Window partition, shifts and relative positions of Swin attention; index tables are NumPy constants.


Sides = int | tuple[int, int]


def _pair(sides: Sides) -> tuple[int, int]:
    return (sides, sides) if isinstance(sides, int) else sides


def padded_grid(grid: tuple[int, int], window: Sides) -> tuple[int, int]:
    """The smallest grid that windows tile and that holds another one.

    >>> padded_grid((64, 16), 7), padded_grid((14, 7), (7, 7))
    ((70, 21), (14, 7))
    """
    height, width = (-(-length // side) * side for length, side in zip(grid, _pair(window), strict=True))
    return height, width


def padded(x: jax.Array, window: Sides) -> jax.Array:
    """`[S, B, H, W, C]` with zeros below and to the right of the grid, up to the next one that windows tile."""
    grid = x.shape[2:4]
    height, width = padded_grid(grid, window)
    if (height, width) == grid:
        return x
    return jnp.pad(x, [(0, 0), (0, 0), (0, height - grid[0]), (0, width - grid[1]), (0, 0)])


def partition(x: jax.Array, window: Sides, shift: Sides) -> jax.Array:
    """`[S, B, H, W, C]` to windows `[S, B*nH*nW, h*w, C]`, after a cyclic shift towards the origin.

    Windows that do not tile the grid find zeros below and to the right of it.
    """
    (rows, columns), shift = _pair(window), _pair(shift)
    if any(shift):
        x = jnp.roll(x, (-shift[0], -shift[1]), axis=(2, 3))
    return rearrange(padded(x, window), "s b (nh wh) (nw ww) c -> s (b nh nw) (wh ww) c", wh=rows, ww=columns)


def reverse(x: jax.Array, window: Sides, shift: Sides, grid: tuple[int, int]) -> jax.Array:
    """The inverse of `partition`."""
    (rows, columns), shift, whole = _pair(window), _pair(shift), padded_grid(grid, window)
    sizes = {"nh": whole[0] // rows, "nw": whole[1] // columns, "wh": rows, "ww": columns}
    x = rearrange(x, "s (b nh nw) (wh ww) c -> s b (nh wh) (nw ww) c", **sizes)
    if whole != grid:
        x = x[:, :, : grid[0], : grid[1]]
    if any(shift):
        x = jnp.roll(x, shift, axis=(2, 3))
    return x


@functools.cache
def relative_position_index(window: Sides) -> np.ndarray:
    """`[L, L]` index into the `(2 h - 1) (2 w - 1)` rows of a bias table, `L = h w`, for windows of h x w."""
    height, width = _pair(window)
    row, column = np.divmod(np.arange(height * width), width)
    down = row[:, None] - row[None, :] + height - 1
    right = column[:, None] - column[None, :] + width - 1
    return down * (2 * width - 1) + right


@functools.cache
def shift_mask(grid: tuple[int, int], window: Sides, shift: Sides) -> np.ndarray:
    """`[windows, L, L]`: -100 between positions that only the cyclic shift brought together, else 0.

    A grid that windows do not tile is padded first, as in `partition`.
    """
    sides, shifts = _pair(window), _pair(shift)

    def region(length: int, side: int, shift: int) -> np.ndarray:
        index = np.arange(length)
        return np.where(index < length - side, 0, np.where(index < length - shift, 1, 2))

    down, right = map(region, padded_grid(grid, window), sides, shifts)
    label = down[:, None] * 3 + right[None, :]
    label = rearrange(label, "(nh wh) (nw ww) -> (nh nw) (wh ww)", wh=sides[0], ww=sides[1])
    return np.where(label[:, :, None] != label[:, None, :], np.float32(-100), np.float32(0))


# Variables whose rows are the cells of a grid, and how they move to a grid of another size.


# By name: the kernel, and whether it is widened where a grid shrinks. With anti-aliasing PyTorch has Keys' kernel with
# a = -0.5 and cuts it off at borders, whichever way a grid is resized; without, a = -0.75 and borders are repeated.
METHODS = {
    "bicubic": (jax.image.ResizeMethod.CUBIC_PYTORCH, False),
    "bicubic_antialias": (jax.image.ResizeMethod.CUBIC, True),
    "bilinear": (jax.image.ResizeMethod.LINEAR, False),
}


@dataclasses.dataclass(frozen=True)
class GridRows:
    """What the rows of a variable `[rows, C]` stand for.

    Attributes:
      grid: (height, width); rows are cells in row-major order.
      leading: rows in front that stand for no cell (a class token's position); they are never resized.
      method: "bicubic" or "bilinear", both as PyTorch's `interpolate` without anti-aliasing, or "bicubic_antialias",
        as the same with it.
    """

    grid: tuple[int, int]
    leading: int = 0
    method: str = "bicubic"

    @property
    def rows(self) -> int:
        """Rows of the variable."""
        return self.leading + math.prod(self.grid)


class Gridded(nnx.Module):
    """A module that says which of its variables can be resized."""

    def grid_rows(self, image_size: tuple[int, int] | None = None) -> dict[str, GridRows]:
        """By path below the module, the rows of its resizable variables for images of a size (None: its own)."""
        return {}


def fit_rows(rows: np.ndarray, here: GridRows, made_for: GridRows | None = None) -> np.ndarray:
    """Rows of a weight file on the grid that a model has.

    Args:
      rows: `[rows, C]`.
      here: what the model's rows stand for.
      made_for: what the file's rows stand for, where that is known. Otherwise their grid is square, as in all released
        checkpoints; rows that form no square are taken for `here`'s grid.

    Returns:
      Rows for `here`; those that fit already, or whose grid cannot be told, come back untouched.

    >>> fit_rows(np.arange(5.0)[:, None], GridRows((1, 1), leading=1)).ravel().tolist()
    [0.0, 2.5]
    """
    cells = len(rows) - here.leading
    if rows.ndim != 2 or cells < 1:
        return rows
    side = math.isqrt(cells)
    source = (side, side) if side * side == cells else here.grid
    if made_for is not None and made_for.rows == len(rows):
        source = made_for.grid
    if source == here.grid or math.prod(source) != cells:
        return rows
    if isinstance(rows, jax.core.Tracer):
        return jnp.concatenate([rows[: here.leading].astype(jnp.float32), _resized(rows, source, here)])
    with jax.ensure_compile_time_eval():  # so that weights can be loaded while a program is traced
        resized = np.asarray(_resized(rows, source, here))
    return np.concatenate([np.asarray(rows[: here.leading], np.float32), resized])


def _resized(rows: np.ndarray | jax.Array, source: tuple[int, int], here: GridRows) -> jax.Array:
    body = jnp.asarray(rows[here.leading :], jnp.float32).reshape(*source, -1)
    kernel, antialias = METHODS[here.method]
    resized = jax.image.resize(body, (*here.grid, body.shape[-1]), kernel, antialias=antialias)
    return resized.reshape(-1, body.shape[-1])


# Scaled dot-product attention over the stream axis, with a backward pass that keeps the weights and nothing else.


def attend(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """`softmax(q k^T / sqrt(D) + bias) v`, heads joined; the softmax in float32.

    Shapes: `q [S, B, N, L, D]`; `k`, `v [S, B, N, M, D]`; `bias` broadcasts to `[S, B, N, L, M]`; to `[S, B, L, N*D]`.
    One stream of either side serves all streams of the other.

    >>> x = jnp.ones((1, 2, 3, 5, 4))
    >>> attend(x, x[..., :2, :], x[..., :2, :]).shape
    (1, 2, 5, 12)
    """
    streams = max(q.shape[0], k.shape[0])
    q, k, v = (jnp.broadcast_to(part, (streams, *part.shape[1:])) for part in (q, k, v))
    return rearrange(_attend(q, k, v, bias), "s b n l d -> s b l (n d)")


def _forward(q, k, v, bias):
    logits = widened(jnp.einsum("sbnqd,sbnkd->sbnqk", _scaled(q), k))
    if bias is not None:
        logits = logits + bias
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("sbnqk,sbnkd->sbnqd", weights, v), (q, k, v, bias, weights)


def _backward(kept, gradient):
    q, k, v, bias, weights = kept
    towards_v = jnp.einsum("sbnqk,sbnqd->sbnkd", weights, gradient)
    towards_weights = widened(jnp.einsum("sbnqd,sbnkd->sbnqk", gradient, v))
    wide = widened(weights)
    towards_logits = wide * (towards_weights - jnp.sum(wide * towards_weights, axis=-1, keepdims=True))
    towards_bias = None if bias is None else _summed_like(towards_logits, bias)
    narrow = towards_logits.astype(q.dtype)
    towards_q = _scaled(jnp.einsum("sbnqk,sbnkd->sbnqd", narrow, k))
    towards_k = jnp.einsum("sbnqk,sbnqd->sbnkd", narrow, _scaled(q))
    return towards_q, towards_k, towards_v, towards_bias


def _scaled(x):
    """By `1 / sqrt(D)`, before it is rounded: that factor itself need not be a number of a narrow dtype."""
    return (widened(x) * x.shape[-1] ** -0.5).astype(x.dtype)


@custom_vjp(_forward, _backward)
def _attend(q, k, v, bias):
    return _forward(q, k, v, bias)[0]


def _summed_like(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Sums over the axes along which a bias was broadcast."""
    axes = tuple(axis for axis, size in enumerate(bias.shape) if size == 1 and x.shape[axis] != 1)
    return jnp.sum(x, axes, keepdims=True).astype(bias.dtype)


def _split(qkv, heads):
    q, k, v = (rearrange(part, "s b l (n d) -> s b n l d", n=heads) for part in jnp.split(qkv, 3, axis=-1))
    return q, k, v


def _split_backward(heads, _, gradients):
    # Joined once; the gradient of a slice would be padded with zeros, and three such arrays added.
    return (jnp.concatenate([rearrange(part, "s b n l d -> s b l (n d)") for part in gradients], axis=-1),)


@custom_vjp(lambda qkv, heads: (_split(qkv, heads), None), _split_backward, static=(1,))
def split_heads(qkv: jax.Array, heads: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries, keys and values `[S, B, N, L, D]` of a packed product `[S, B, L, 3*N*D]`.

    >>> [part.shape for part in split_heads(jnp.ones((1, 2, 5, 24)), 4)]
    [(1, 2, 4, 5, 2), (1, 2, 4, 5, 2), (1, 2, 4, 5, 2)]
    """
    return _split(qkv, heads)
