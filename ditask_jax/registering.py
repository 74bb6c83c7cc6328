"""Tasks and data sets of one's own, known by name from then on; docs/extending.md shows each in a file.

Methods register themselves by their `name` (`ditask_jax.adapters.Method`), backbones by
`ditask_jax.backbones.register_backbone`.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ditask_jax.data.sources import OPENERS, Request
from ditask_jax.data.wrappers import LABELS, DerivedLabel, Source
from ditask_jax.errors import ConfigError, check_known
from ditask_jax.tasks.base import Task
from ditask_jax.tasks.task_registry import DATASETS, DatasetInfo, add_task, check_name, known_tasks


def register_task(
    task: Task,
    datasets: Sequence[str],
    label: Callable[[Mapping], np.ndarray] | None = None,
    needs: Sequence[str] = (),
) -> None:
    """Adds a task to data sets.

    Args:
      task: what is predicted; `task.name` is what configurations and labels call it.
      datasets: names of data sets that have its label.
      label: makes the label `[H, W]` or `[H, W, channels]` of an example `{"image", "id", ...}`, before any
        augmentation; a function of a module. None where the sources of these data sets hold it by themselves.
      needs: labels that `label` looks at; they are read for it.

    Raises:
      ConfigError: the name is taken or cannot be one, or a data set is unknown.

    >>> from ditask_jax.tasks import Depth
    >>> register_task(Depth(), ["scenes"])
    Traceback (most recent call last):
    ...
    ditask_jax.errors.ConfigError: task 'depth' is registered already; choose another name
    """
    if not isinstance(task, Task):
        hint = "an object of the class, not the class itself" if isinstance(task, type) else f"got {task!r}"
        raise ConfigError(f"register_task: task: expected a ditask_jax.tasks.Task, {hint}")
    check_name(f"task '{task.name}'", task.name)
    datasets = _names(f"task '{task.name}': datasets", datasets)
    for name in _names(f"task '{task.name}': needs", needs):
        check_known(f"task '{task.name}': needs", name, [known for known in known_tasks() if known not in LABELS])
    add_task(task, datasets)
    if label is not None:
        LABELS[task.name] = DerivedLabel(label, tuple(needs))


def register_dataset(
    name: str,
    opener: Callable[[Request], Source],
    tasks: Sequence[str],
    class_names: Mapping[str, Sequence[str]] | None = None,
    depth_unit: str = "metres",
    train_examples: int | None = None,
    val_examples: int | None = None,
    terms: str = "",
) -> None:
    """Adds a data set, which `data.name` then knows.

    Args:
      name: of the data set.
      opener: from a `Request` (split, labels, `data.root`, number of examples ...) to a source of examples; see
        docs/extending.md for what they hold.
      tasks: that it has labels of, built in or registered before.
      class_names: of `semseg` and `human_parts`, background included; numbers of classes follow from it.
      depth_unit: "metres", "pixels" of disparity or "inverse" depth.
      train_examples, val_examples: lengths of the splits, where they are known beforehand.
      terms: what the images are and under whose terms, one line for model cards.

    Raises:
      ConfigError: the name is taken or cannot be one, or a task is unknown.

    >>> register_dataset("scenes", lambda request: [], ["depth"])
    Traceback (most recent call last):
    ...
    ditask_jax.errors.ConfigError: data set 'scenes' is registered already; choose another name
    """
    check_name(f"data set '{name}'", name)
    if name in DATASETS or name in OPENERS:
        raise ConfigError(f"data set '{name}' is registered already; choose another name")
    if not callable(opener):
        raise ConfigError(f"data set '{name}': opener: got {opener!r}, expected a function of one Request")
    for task in _names(f"data set '{name}': tasks", tasks):
        check_known(f"data set '{name}': tasks", task, known_tasks())
    check_known(f"data set '{name}': depth_unit", depth_unit, ("metres", "pixels", "inverse"))
    named = {task: tuple(names) for task, names in (class_names or {}).items()}
    DATASETS[name] = DatasetInfo(tuple(tasks), named, depth_unit, train_examples, val_examples, terms=terms)
    OPENERS[name] = opener


def _names(field: str, names: Sequence[str]) -> Sequence[str]:
    if isinstance(names, str):
        raise ConfigError(f"{field}: got the text '{names}', expected a list of names, such as ['{names}']")
    return names
