"""From a string such as `semseg+depth` to task objects."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from ditask_jax.errors import ConfigError, check_known, did_you_mean
from ditask_jax.tasks.base import Task
from ditask_jax.tasks.classification import Classification
from ditask_jax.tasks.datasets import DATASETS, HUMAN_PARTS, DatasetInfo
from ditask_jax.tasks.depth import Depth
from ditask_jax.tasks.edge import EdgeDetection
from ditask_jax.tasks.human_parts import HumanParts
from ditask_jax.tasks.normals import SurfaceNormals
from ditask_jax.tasks.sal import Saliency
from ditask_jax.tasks.semseg import SemanticSegmentation

# Tasks with a number of classes, and the most there can be: 255 means "no label" in maps.
_CLASSES = {"semseg": SemanticSegmentation, "human_parts": HumanParts, "classification": Classification}
_MOST_CLASSES = {"semseg": 255, "human_parts": 255, "classification": 2**20}
_MAPS = ("semseg", "human_parts")  # of these the configuration has a field
_OTHERS: dict[str, Callable[[DatasetInfo], Task]] = {
    "sal": lambda info: Saliency(),
    "normals": lambda info: SurfaceNormals(),
    # A zoom divides distances, not disparities; the benchmark on inverse depth divides that as well (MTAN).
    "depth": lambda info: Depth(unit=info.depth_unit, scales_inversely=info.depth_unit != "pixels"),
    "edge": lambda info: EdgeDetection(),
}


def tasks(
    names: str | Sequence[str],
    dataset: str = "scenes",
    num_classes: Mapping[str, int] | None = None,
    depth_unit: str | None = None,
) -> tuple[Task, ...]:
    """Task objects of a data set, in the order they are named.

    Args:
      names: task ids joined by "+", or a sequence of them.
      dataset: one of `ditask_jax.tasks.datasets.DATASETS`.
      num_classes: number of classes of `semseg` (needed) and `human_parts` (7 unless given), background included and
        at most 255, for the data set `folder`; of `classification` for `vtab`. Elsewhere it is known.
      depth_unit: of the depth labels, where a data set comes in several; None: its usual one.

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
    if depth_unit is not None:
        info = dataclasses.replace(info, depth_unit=depth_unit)
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
        _CLASSES[name](num_outputs=len(class_names[name]), class_names=class_names[name])
        if name in _CLASSES
        else _OTHERS[name](info)
        for name in chosen
    )


def add_task(task: Task, datasets: Sequence[str]) -> None:
    """Lets data sets have a further task; `ditask_jax.registering.register_task` says where its label comes from.

    Raises:
      ConfigError: an unknown data set, or a task of that name is there already.
    """
    for dataset in datasets:
        check_known(f"task '{task.name}': datasets", dataset, DATASETS)
    if task.name in _CLASSES or task.name in _OTHERS:
        raise ConfigError(f"task '{task.name}' is registered already; choose another name")
    _OTHERS[task.name] = lambda info: task
    for dataset in datasets:
        info = DATASETS[dataset]
        DATASETS[dataset] = dataclasses.replace(info, tasks=(*info.tasks, task.name))


def known_tasks() -> list[str]:
    """Names of every task, of whichever data set."""
    return [*_CLASSES, *_OTHERS]


def _classes_field(name: str) -> str:
    """What sets the number of classes of a task: a field for maps, elsewhere the argument of `tasks` alone."""
    return f"config: data.{name}_classes" if name in _MAPS else f"tasks: num_classes of '{name}'"


def has_classes(name: str) -> bool:
    """Whether the number of classes of a task is for a data set, or the user, to say.

    >>> has_classes("semseg"), has_classes("depth")
    (True, False)
    """
    return name in _CLASSES


def dataset_with(names: Sequence[str]) -> str:
    """The first data set that has all of these tasks, "folder" and "vtab" before any with classes of its own.

    >>> dataset_with(["semseg", "depth"]), dataset_with(["classification"])
    ('folder', 'vtab')
    """
    order = dict.fromkeys(["folder", "vtab", *DATASETS])
    return next((dataset for dataset in order if set(names) <= set(DATASETS[dataset].tasks)), "folder")


def primary_score(name: str) -> tuple[str, bool]:
    """The primary metric of a task of whichever data set, and whether it is a fraction.

    >>> primary_score("semseg"), primary_score("depth")
    (('mIoU', True), ('rmse', False))
    """
    task = _CLASSES[name] if name in _CLASSES else _OTHERS[name](DatasetInfo((), {}))
    return task.primary_metric, task.unit == "fraction"


def _class_names(
    chosen: Sequence[str], dataset: str, info: DatasetInfo, num_classes: Mapping[str, int]
) -> dict[str, tuple[str, ...]]:
    for name, count in num_classes.items():
        check_known("tasks: num_classes", name, _CLASSES)
        most = _MOST_CLASSES[name]
        if isinstance(count, bool) or not isinstance(count, int) or not 2 <= count <= most:
            raise ConfigError(f"{_classes_field(name)}: got {count!r}, expected a whole number from 2 to {most}")
        known = info.class_names.get(name)
        if count in [len(names) for names in info.other_class_names.get(name, ())]:
            continue
        if name in info.tasks and known is not None and count != len(known):
            raise ConfigError(
                f"{_classes_field(name)}: got {count}, but '{dataset}' has {len(known)}; "
                "set it for data.name=folder only"
            )
    result = dict(info.class_names)
    for name, others in info.other_class_names.items():
        for names in others:
            if len(names) == num_classes.get(name):
                result[name] = names
    for name in chosen:
        if name not in _CLASSES or name in result:
            continue
        background = () if name == "classification" else ("background",)
        if name in num_classes:
            result[name] = (*background, *(f"class {k}" for k in range(len(background), num_classes[name])))
        elif name == "human_parts":
            result[name] = HUMAN_PARTS
        else:
            included = " (background included)" if background else ""
            raise ConfigError(
                f"{_classes_field(name)}: '{dataset}' needs the number of classes of '{name}'{included}, for example "
                + (f"--config.data.{name}_classes=21" if name in _MAPS else f"num_classes={{'{name}': 21}}")
            )
    return result
