"""The CPAB flow on spectra in plain PyTorch, for the like-for-like peer: closed form, differentiated by autograd.

Written from the formulas of the flow (see `ditask_jax.cpab.flow`), without the care for the last bits that is taken
there: a point's time to the border ahead, whole cells crossed by comparing sums of crossing times, and the exponential
inside the cell where it ends.
"""

import numpy as np
import torch

from ditask_jax.cpab import Tessellation, vertex_basis


def _phi1(z: torch.Tensor) -> torch.Tensor:
    """`expm1(z) / z`."""
    small = z.abs() < 1e-2
    safe = torch.where(small, torch.ones_like(z), z)
    return torch.where(small, 1 + z * (0.5 + z * (1 / 6 + z / 24)), torch.expm1(safe) / safe)


def _log_ratio(z: torch.Tensor) -> torch.Tensor:
    """`log1p(z) / z`."""
    small = z.abs() < 1e-2
    safe = torch.where(small, torch.ones_like(z), z)
    return torch.where(small, 1 - z * (0.5 - z * (1 / 3 - z / 4)), torch.log1p(safe) / safe)


def _time(gap: torch.Tensor, start: torch.Tensor, end: torch.Tensor, allowed: torch.Tensor):
    """Time to cover a gap, and whether one unit of time suffices; 0 where not."""
    use = allowed & (start * end > 1e-30)
    start, end = torch.where(use, start, 1.0), torch.where(use, end, 1.0)
    time = gap / start.abs() * _log_ratio((end - start) / start)
    reached = use & (time.detach() <= 1)
    return torch.where(reached, time, 0.0), reached


def displaced(velocity: torch.Tensor, cell: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """`phi(x) - x` in cells, for points in a cell at an offset from its left border.

    Shapes: velocity `[M, N + 1]` in cells per unit time; cell (integers), offset `[M, R]`; to `[M, R]`.
    """
    cells = velocity.shape[1] - 1
    left, right = velocity.gather(1, cell), velocity.gather(1, cell + 1)
    start = left + (right - left) * offset
    forward = start > 0
    sign = torch.where(forward, 1.0, -1.0)
    gap = torch.where(forward, 1 - offset, offset)
    outward = torch.where(forward, cell == cells - 1, cell == 0)
    first, leaving = _time(gap, start, torch.where(forward, right, left), ~outward)
    inner = torch.arange(cells)[None]
    times, passable = _time(torch.ones(1), velocity[:, :-1], velocity[:, 1:], (inner > 0) & (inner < cells - 1))
    clock = torch.nn.functional.pad(torch.where(passable, times.detach(), 1.1).cumsum(1), (1, 0))
    border = cell + forward.long()
    here, budget = clock.gather(1, border), torch.where(leaving, 1 - first.detach(), -1.0)
    ahead = (inner[..., None, :] >= border[..., None]) & (clock[:, None, 1:] <= (here + budget)[..., None])
    behind = (inner[..., None, :] < border[..., None]) & (clock[:, None, :-1] >= (here - budget)[..., None])
    crossed = torch.where(forward[..., None], ahead, behind).to(velocity.dtype)
    count = crossed.sum(-1)
    rest = 1 - first - (crossed @ times[..., None]).squeeze(-1)
    entry = border + (sign * count).long()
    entered = velocity.gather(1, entry)
    onward = velocity.gather(1, (entry + sign.long()).clamp(0, cells))
    rate = torch.where(leaving, sign * (onward - entered), right - left)
    speed = torch.where(leaving, entered, start)
    time = torch.where(leaving, rest, 1.0)
    travelled = speed * time * _phi1((rate * time).clamp(max=60.0))
    return torch.where(leaving, sign * (gap + count), 0.0) + travelled


class Spectra:
    """The spectra of one length and what moves them; the places of the singular values are constants.

    Args:
      values: `[M, R]`, descending, one row for every pair of theta and spectrum.
      cells: of the tessellation.
    """

    def __init__(self, values: torch.Tensor, cells: int):
        self.largest = values[:, :1]
        position = values.double() / values[:, :1].double() * cells
        self.cell = position.floor().long().clamp(0, cells - 1)
        self.offset = (position - self.cell).float()
        basis = vertex_basis(Tessellation(cells)) * cells
        self.basis = torch.from_numpy(basis.T.astype(np.float32).copy())
        self.cells = cells

    def changes(self, thetas: torch.Tensor) -> torch.Tensor:
        """Changes of the singular values `[M, R]` for thetas `[M, cells - 1]`."""
        return displaced(thetas @ self.basis, self.cell, self.offset) * (self.largest / self.cells)
