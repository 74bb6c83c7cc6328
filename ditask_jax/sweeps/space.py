"""The axes of a sweep as a search space: values by name, and the point that a choice of them stands for."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from ditask_jax.errors import ConfigError
from ditask_jax.sweeps.loading import Job
from ditask_jax.sweeps.points import value_text

POINT = "point"


@dataclasses.dataclass(frozen=True)
class Space:
    """Axes with their values, as texts.

    Attributes:
        values: By axis. Points that are no whole grid make one axis, `point`, of their names.
        jobs: The job of every combination, its values in the order of the axes.
    """

    values: Mapping[str, tuple[str, ...]]
    jobs: Mapping[tuple[str, ...], Job]

    @property
    def is_grid(self) -> bool:
        """Whether the axes are those of a grid."""
        return tuple(self.values) != (POINT,)

    def job(self, chosen: Mapping[str, str]) -> Job:
        """The job of one value per axis; numbers need not be written alike.

        Raises:
            ConfigError: An axis that is missing or unknown, or a value that it does not have.
        """
        for axis in chosen:
            if axis not in self.values:
                raise ConfigError(f"sweep: '{axis}' is no axis of it. Known: {' '.join(self.values)}")
        key = []
        for axis, values in self.values.items():
            if axis not in chosen:
                raise ConfigError(f"sweep: no value of {axis}; give one of {' '.join(values)}")
            found = [value for value in values if _same(value, chosen[axis])]
            if not found:
                raise ConfigError(f"sweep: {axis}: got {chosen[axis]!r}, expected one of {' '.join(values)}")
            key.append(found[0])
        return self.jobs[tuple(key)]


def make_space(jobs: Sequence[Job]) -> Space:
    """The search space of some points: their axes where they are a whole grid, else their names.

    Args:
        jobs: The points.
    """
    axes = list(jobs[0].point.axes)
    found = {tuple(value_text(value) for value in job.point.axes.values()): job for job in jobs}
    alike = axes and all(list(job.point.axes) == axes for job in jobs)
    if alike and len(found) == len(jobs):
        values = {axis: tuple(dict.fromkeys(key[k] for key in found)) for k, axis in enumerate(axes)}
        if math.prod(len(entry) for entry in values.values()) == len(jobs):
            return Space(values, found)
    return Space({POINT: tuple(job.name for job in jobs)}, {(job.name,): job for job in jobs})


def _same(left: str, right: str) -> bool:
    try:
        return left == right or float(left) == float(right)
    except ValueError:
        return False
