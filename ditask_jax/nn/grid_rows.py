"""Variables whose rows are the cells of a grid, and how they move to a grid of another size."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

METHODS = {"bicubic": jax.image.ResizeMethod.CUBIC_PYTORCH, "bilinear": jax.image.ResizeMethod.LINEAR}


@dataclasses.dataclass(frozen=True)
class GridRows:
    """What the rows of a variable `[rows, C]` stand for.

    Attributes:
      grid: (height, width); rows are cells in row-major order.
      leading: rows in front that stand for no cell (a class token's position); they are never resized.
      method: "bicubic" or "bilinear", both as PyTorch's `interpolate` without anti-aliasing.
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
    resized = jax.image.resize(body, (*here.grid, body.shape[-1]), METHODS[here.method], antialias=False)
    return resized.reshape(-1, body.shape[-1])
