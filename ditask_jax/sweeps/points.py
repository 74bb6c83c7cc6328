"""What a sweep file returns: a list of points, each a configuration with a few fields changed."""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ditask_jax.errors import ConfigError
from ditask_jax.options import value_text


@dataclasses.dataclass(frozen=True)
class Point:
    """One training.

    Attributes:
        name: Name of its run folder; unique in the sweep, no path separators.
        config: Configuration file with an optional `:VARIANT`; None: that of the sweep.
        overrides: Values by dotted field name, for example `{"optimizer.learning_rate": 5e-4}`.
        axes: Where the point stands in a grid: value (or name of a value) by axis. Empty outside of grids.
    """

    name: str
    config: str | None = None
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    axes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Points that belong together.

    Attributes:
        points: In the order in which they are to run.
        config: Configuration of points that name none.
        overrides: Fields changed in every point; a point's own values win.
        metric: Which number a search improves: "delta_m", or a score such as "semseg/mIoU".
        goal: "max" or "min".
    """

    points: Sequence[Point]
    config: str | None = None
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metric: str = "delta_m"
    goal: str = "max"


def grid(config: str, axes: Mapping[str | tuple[str, ...], Any], name: str = "") -> list[Point]:
    """All combinations of the values of some fields; the last axis changes fastest.

    Args:
        config: Configuration file with an optional `:VARIANT`.
        axes: Per axis a field and its values; or several fields, as a tuple, that always have the same value; or any
            name and a mapping from names of values to overrides, for fields that change together.
        name: Start of the points' names; the axes follow, as in `ditask_learning_rate0.005_seed1`.

    Returns:
        The points.

    Raises:
        ConfigError: An axis without values, or one whose values are a single text or number.

    >>> points = grid("configs/scenes.py", {"optimizer.learning_rate": [0.1, 0.2], "seed": range(2)})
    >>> [point.name for point in points]
    ['learning_rate0.1_seed0', 'learning_rate0.1_seed1', 'learning_rate0.2_seed0', 'learning_rate0.2_seed1']
    >>> points[1].overrides
    {'optimizer.learning_rate': 0.1, 'seed': 1}
    >>> cells = {"few": {"method.shared_cells": 16, "method.task_cells": 4}, "many": {"method.shared_cells": 64}}
    >>> [point.name for point in grid("configs/scenes.py", {"cells": cells}, name="ditask")]
    ['ditask_few', 'ditask_many']
    """
    columns = [_choices(axis, values) for axis, values in axes.items()]
    points = []
    for combination in itertools.product(*columns):
        parts = [part for _, _, part, _ in combination]
        overrides = {field: value for *_, changed in combination for field, value in changed.items()}
        full_name = "_".join([name] * bool(name) + parts) or _stem(config)
        points.append(Point(full_name, config, overrides, {axis: value for axis, value, _, _ in combination}))
    return points


def seeds(points: Iterable[Point], values: Iterable[int]) -> list[Point]:
    """Every point with every seed; seeds of one point follow each other, so that they share what was compiled.

    >>> [point.name for point in seeds([Point("lora", "configs/scenes.py")], range(3))]
    ['lora_seed0', 'lora_seed1', 'lora_seed2']
    """
    numbers = list(values)
    return [
        dataclasses.replace(
            point,
            name=f"{point.name}_seed{seed}",
            overrides={**point.overrides, "seed": seed},
            axes={**point.axes, "seed": seed},
        )
        for point in points
        for seed in numbers
    ]


def _choices(axis: str | tuple[str, ...], values: Any) -> list[tuple[str, Any, str, dict[str, Any]]]:
    """Per value of an axis: the axis's name, the value or its name, its part of a point's name, and the overrides."""
    fields = axis if isinstance(axis, tuple) else (axis,)
    title = fields[0]
    if isinstance(values, Mapping):
        found = [(title, str(label), str(label), dict(changed)) for label, changed in values.items()]
    elif isinstance(values, str) or not isinstance(values, Iterable):
        raise ConfigError(f"sweep: axis {title}: got {values!r}, expected a list of values")
    else:
        # What is said of one task (task.edge.loss_weight) keeps its name.
        short = "_".join(title.split(".")[1:]) if title.startswith(("task.", "tasks.")) else title.rsplit(".", 1)[-1]
        found = [(title, value, f"{short}{_in_name(value)}", dict.fromkeys(fields, value)) for value in values]
    if not found:
        raise ConfigError(f"sweep: axis {title}: no values; give at least one")
    return found


def _in_name(value: Any) -> str:
    if isinstance(value, tuple | list):
        return "-".join(_in_name(item) for item in value)
    text = value_text(value)
    if not isinstance(value, str):
        return text
    # A file's own name says enough; signs that shells and paths take for their own are left out.
    kept = "".join(sign if sign.isalnum() or sign in "+-." else "-" for sign in pathlib.PurePath(text).name)
    return f"-{kept}" if kept[:1].isalpha() else kept


def _stem(config: str) -> str:
    path, _, variant = config.partition(":")
    return "_".join([pathlib.PurePath(path).stem, *([variant] if variant else [])])
