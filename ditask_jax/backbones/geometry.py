"""Which image sizes a windowed hierarchy can take, and what its stages then look like."""

import dataclasses

from ditask_jax.errors import ConfigError

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
    """Grid and window of one stage; a window as large as the grid's shorter side is clipped to it, never shifted."""

    grid: Size
    window: int
    shift: int


def stage_geometries(size: Size, patch: int, window: int, stages: int) -> list[StageGeometry] | str:
    """The stages' grids and windows, or the reason why this image size cannot be tiled."""
    if size[0] % patch or size[1] % patch:
        return f"sides must be divisible by the patch size {patch}"
    grid, out = (size[0] // patch, size[1] // patch), []
    for stage in range(stages):
        clipped = min(*grid) <= window
        used = min(grid) if clipped else window
        if used < 1 or grid[0] % used or grid[1] % used:
            return f"stage {stage} has a grid of {grid[0]}x{grid[1]}, which windows of {used} do not tile"
        out.append(StageGeometry(grid, used, 0 if clipped else window // 2))
        if stage < stages - 1:
            if grid[0] % 2 or grid[1] % 2:
                return f"stage {stage} has a grid of {grid[0]}x{grid[1]}, which patch merging cannot halve"
            grid = (grid[0] // 2, grid[1] // 2)
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
    """The stages' geometry; raises ConfigError naming the nearest valid sizes.

    >>> [g.grid for g in check_size((224, 224), 4, 7, 4)]
    [(56, 56), (28, 28), (14, 14), (7, 7)]
    >>> check_size((450, 450), 4, 7, 4)
    Traceback (most recent call last):
    ...
    ditask_jax.errors.ConfigError: config: image_size: 450x450 does not fit patch 4 and window 7: sides must be \
divisible by the patch size 4. Nearest valid sizes: 448x448 672x672
    """
    out = stage_geometries(size, patch, window, stages)
    if isinstance(out, str):
        near = " ".join(f"{h}x{w}" for h, w in nearest_sizes(size, patch, window, stages))
        raise ConfigError(
            f"config: image_size: {size[0]}x{size[1]} does not fit patch {patch} and window {window}: {out}. "
            f"Nearest valid sizes: {near}"
        )
    return out
