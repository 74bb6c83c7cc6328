"""Which image sizes a backbone can take, and what its stages then look like."""

import dataclasses
import itertools
from typing import Protocol

from ditask_jax.errors import ConfigError
from ditask_jax.nn.conv import convolved_side

Size = tuple[int, int]


def as_size(size: int | tuple[int, int]) -> Size:
    """An image size as (height, width).

    >>> as_size(448), as_size((448, 576))
    ((448, 448), (448, 576))
    """
    if isinstance(size, int):
        return size, size
    height, width = size
    return int(height), int(width)


@dataclasses.dataclass(frozen=True)
class StageGeometry:
    """Grid and windows of one stage.

    Attributes:
      grid: (height, width) in tokens.
      sides: of the windows, (height, width).
      shifts: of the windows of every other block, downwards and to the right.
    """

    grid: Size
    sides: Size
    shifts: Size

    @property
    def window(self) -> int:
        """The longer side of the windows."""
        return max(self.sides)

    @property
    def shift(self) -> int:
        """The larger shift."""
        return max(self.shifts)


def stage_geometries(size: Size, patch: int, window: int, stages: int) -> list[StageGeometry] | str:
    """The stages' grids and windows, or the reason why this image size cannot be tiled.

    A window as large as the grid's shorter side is clipped to it, and not shifted, as in the official code.
    """
    if size[0] % patch or size[1] % patch:
        return f"sides must be divisible by the patch size {patch}"
    grid, out = (size[0] // patch, size[1] // patch), []
    for stage in range(stages):
        clipped = min(*grid) <= window
        used = min(grid) if clipped else window
        if used < 1 or grid[0] % used or grid[1] % used:
            return f"stage {stage} has a grid of {grid[0]}x{grid[1]}, which windows of {used} do not tile"
        out.append(StageGeometry(grid, (used, used), (0 if clipped else window // 2,) * 2))
        if stage < stages - 1:
            if grid[0] % 2 or grid[1] % 2:
                return f"stage {stage} has a grid of {grid[0]}x{grid[1]}, which patch merging cannot halve"
            grid = (grid[0] // 2, grid[1] // 2)
    return out


def padded_geometries(size: Size, patch: int, window: int, stages: int) -> list[StageGeometry]:
    """The stages' grids and windows where windows do not tile an image, as timm has them.

    Windows are clipped by each side of the grid for itself, and shifted along the sides that they leave room on; what
    is missing of the last ones is filled with zeros, and so is the last row or column of an odd grid before merging.
    """
    grid, out = (size[0] // patch, size[1] // patch), []
    for _ in range(stages):
        sides = (min(grid[0], window), min(grid[1], window))
        shifts = tuple(0 if length <= side else window // 2 for length, side in zip(grid, sides, strict=True))
        out.append(StageGeometry(grid, sides, shifts))
        grid = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)
    return out


def nearest_sizes(size: Size, patch: int, window: int, stages: int, count: int = 2) -> list[Size]:
    """Valid image sizes close to `size`, nearest first: same aspect if square was asked for."""
    unit = patch
    limit = [max(side, patch * 2**stages) * 2 + patch * window * 2**stages for side in size]
    if size[0] == size[1]:
        candidates = [(side, side) for side in range(unit, limit[0], unit)]
    else:
        # Only multiples of the deepest merging can do, which keeps the search small.
        step = patch * 2 ** (stages - 1)
        candidates = [(h, w) for h in range(step, limit[0], step) for w in range(step, limit[1], step)]
    distance = lambda c: (abs(c[0] - size[0]) + abs(c[1] - size[1]), c)
    found = []
    for candidate in sorted(candidates, key=distance):
        if not isinstance(stage_geometries(candidate, patch, window, stages), str):
            found.append(candidate)
            if len(found) == count:
                break
    return found


def check_size(size: Size, patch: int, window: int, stages: int) -> list[StageGeometry]:
    """The stages' geometry; raises ConfigError naming the nearest sizes that windows tile.

    Sizes that windows tile are computed as in the official code. Any other that patches tile, and that has a token left
    in the last stage, is padded as in timm.

    >>> [g.grid for g in check_size((224, 224), 4, 7, 4)]
    [(56, 56), (28, 28), (14, 14), (7, 7)]
    >>> check_size((256, 200), 4, 7, 4)[-1]
    StageGeometry(grid=(8, 7), sides=(7, 7), shifts=(3, 0))
    >>> check_size((450, 450), 4, 7, 4)
    Traceback (most recent call last):
    ...
    ditask_jax.errors.ConfigError: config: image_size: 450x450 does not fit patch 4 and window 7: sides must be \
divisible by the patch size 4. Nearest valid sizes: 448x448 672x672
    """
    out = stage_geometries(size, patch, window, stages)
    if not isinstance(out, str):
        return out
    if min(size) >= patch * 2 ** (stages - 1) and not size[0] % patch and not size[1] % patch:
        return padded_geometries(size, patch, window, stages)
    near = " ".join(f"{h}x{w}" for h, w in nearest_sizes(size, patch, window, stages))
    raise ConfigError(
        f"config: image_size: {size[0]}x{size[1]} does not fit patch {patch} and window {window}: {out}. "
        f"Nearest valid sizes: {near}"
    )


class PyramidSizes(Protocol):
    """What the grids of a pyramid depend on."""

    channels: tuple[int, ...]

    def stride(self, stage: int) -> int: ...
    def kernel(self, stage: int) -> tuple[int, int]: ...
    def shrunk(self, stage: int, grid: Size) -> Size: ...


def pyramid_grids(size: Size, config: PyramidSizes) -> list[Size]:
    """Every stage's grid. Convolutions take any image that leaves a key to attend to in each stage.

    Raises:
      ConfigError: an image too small, with the nearest sizes that are not.

    >>> from ditask_jax.backbones.pvt import PvtV2Config
    >>> pyramid_grids((225, 64), PvtV2Config((8, 8, 8, 8), (1, 1, 1, 1)))
    [(57, 16), (29, 8), (15, 4), (8, 2)]
    """
    grids = _pyramid_grids(size, config)
    for stage, grid in enumerate(grids):
        if min(config.shrunk(stage, grid)) < 1:
            unit = config.stride(0) * 2 ** (len(grids) - 1)
            fits = lambda c: all(min(config.shrunk(i, g)) for i, g in enumerate(_pyramid_grids(c, config)))
            least = next(n for n in itertools.count(1) if fits((n * unit, n * unit)))
            raise ConfigError(
                f"config: image_size: {size[0]}x{size[1]} is too small: stage {stage} has a grid of "
                f"{grid[0]}x{grid[1]}, and nothing is left of it for keys and values. "
                f"Nearest valid sizes: {_near(size, unit, least)}"
            )
    return grids


def _pyramid_grids(size: Size, config: PyramidSizes) -> list[Size]:
    grids, grid = [], size
    for stage in range(len(config.channels)):
        kernel, padding = config.kernel(stage)
        grid = tuple(convolved_side(side, kernel, config.stride(stage), padding) for side in grid)
        grids.append(grid)
    return grids


def patch_grid(size: Size, patch: int) -> Size:
    """The grid of patches that lie side by side.

    Raises:
      ConfigError: patches do not tile the image, with the nearest sizes that they tile.

    >>> patch_grid((224, 448), 16)
    (14, 28)
    >>> patch_grid((224, 224), 15)
    Traceback (most recent call last):
    ...
    ditask_jax.errors.ConfigError: config: image_size: 224x224 does not fit patch 15: sides must be divisible by it. \
Nearest valid sizes: 225x225 210x210
    """
    if size[0] < 1 or size[1] < 1 or size[0] % patch or size[1] % patch:
        raise ConfigError(
            f"config: image_size: {size[0]}x{size[1]} does not fit patch {patch}: sides must be divisible by it. "
            f"Nearest valid sizes: {_near(size, patch, 1)}"
        )
    return size[0] // patch, size[1] // patch


def _near(size: Size, unit: int, least: int, count: int = 2) -> str:
    """The multiples of a unit closest to a size, as text; the same aspect if a square was asked for."""
    around = [[max(side // unit + step, least) * unit for step in (-1, 0, 1, 2)] for side in size]
    pairs = zip(*around, strict=True) if size[0] == size[1] else itertools.product(*around)
    distance = lambda pair: (abs(pair[0] - size[0]) + abs(pair[1] - size[1]), pair)
    return " ".join(f"{h}x{w}" for h, w in sorted(set(pairs), key=distance)[:count])
