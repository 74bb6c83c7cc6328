"""From a string such as `semseg+depth` to task objects."""

from collections.abc import Callable, Mapping, Sequence

from ditask_jax.errors import ConfigError, check_known, did_you_mean
from ditask_jax.tasks.base import Task
from ditask_jax.tasks.datasets import DATASETS, HUMAN_PARTS, DatasetInfo
from ditask_jax.tasks.depth import Depth
from ditask_jax.tasks.edge import EdgeDetection
from ditask_jax.tasks.human_parts import HumanParts
from ditask_jax.tasks.normals import SurfaceNormals
from ditask_jax.tasks.sal import Saliency
from ditask_jax.tasks.semseg import SemanticSegmentation

_CLASS_MAPS = {"semseg": SemanticSegmentation, "human_parts": HumanParts}
_OTHERS: dict[str, Callable[[DatasetInfo], Task]] = {
    "sal": lambda info: Saliency(),
    "normals": lambda info: SurfaceNormals(),
    # A zoom divides distances, not disparities.
    "depth": lambda info: Depth(unit=info.depth_unit, scales_inversely=info.depth_unit == "metres"),
    "edge": lambda info: EdgeDetection(),
}


def tasks(
    names: str | Sequence[str], dataset: str = "scenes", num_classes: Mapping[str, int] | None = None
) -> tuple[Task, ...]:
    """Task objects of a data set, in the order they are named.

    Args:
      names: task ids joined by "+", or a sequence of them.
      dataset: one of `ditask_jax.tasks.datasets.DATASETS`.
      num_classes: number of classes of `semseg` (needed) and `human_parts` (7 unless given), background included and
        at most 255; for the data set `folder` only, where nothing else knows.

    Returns:
      One `Task` per name.

    Raises:
      ConfigError: unknown data set or task, a task named twice, none named, or class counts that do not fit.

    >>> [task.name for task in tasks("semseg+depth", dataset="nyud")]
    ['semseg', 'depth']
    >>> tasks("semsge", dataset="pascal")
    Traceback (most recent call last):
    ...
    ditask_jax.errors.ConfigError: config: tasks: 'semsge' is not a task of 'pascal'. Did you mean 'semseg'? \
Known: semseg human_parts sal normals edge
    """
    check_known("config: data.name", dataset, DATASETS)
    info = DATASETS[dataset]
    chosen = [name.strip() for name in (names.split("+") if isinstance(names, str) else names)]
    if chosen in ([], [""]):
        raise ConfigError(f"config: tasks: none given; join one or more with '+'. Known: {' '.join(info.tasks)}")
    for position, name in enumerate(chosen):
        if name not in info.tasks:
            raise ConfigError(f"config: tasks: '{name}' is not a task of '{dataset}'. {did_you_mean(name, info.tasks)}")
        if name in chosen[:position]:
            raise ConfigError(f"config: tasks: '{name}' is named twice in '{'+'.join(chosen)}'")
    class_names = _class_names(chosen, dataset, info, dict(num_classes or {}))
    return tuple(
        _CLASS_MAPS[name](num_outputs=len(class_names[name]), class_names=class_names[name])
        if name in _CLASS_MAPS
        else _OTHERS[name](info)
        for name in chosen
    )


def _class_names(
    chosen: Sequence[str], dataset: str, info: DatasetInfo, num_classes: Mapping[str, int]
) -> dict[str, tuple[str, ...]]:
    for name, count in num_classes.items():
        check_known("config: data.num_classes", name, _CLASS_MAPS)
        if isinstance(count, bool) or not isinstance(count, int) or not 2 <= count <= 255:
            raise ConfigError(f"config: data.num_classes.{name}: got {count!r}, expected a whole number from 2 to 255")
        known = info.class_names.get(name)
        if name in info.tasks and known is not None and count != len(known):
            raise ConfigError(
                f"config: data.num_classes.{name}: got {count}, but '{dataset}' has {len(known)}; "
                "set it for data.name=folder only"
            )
    result = dict(info.class_names)
    for name in chosen:
        if name not in _CLASS_MAPS or name in result:
            continue
        if name in num_classes:
            result[name] = ("background", *(f"class {k}" for k in range(1, num_classes[name])))
        elif name == "human_parts":
            result[name] = HUMAN_PARTS
        else:
            raise ConfigError(
                f"config: data.num_classes: '{dataset}' needs the number of classes of '{name}' "
                f"(background included), for example data.num_classes.{name}=21"
            )
    return result
