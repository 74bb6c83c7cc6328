"""Pictures of a data set with their labels, for predictions of several runs on the same ones."""

from collections.abc import Sequence

import numpy as np

from ditask_jax.data import transform
from ditask_jax.errors import ConfigError
from ditask_jax.reports.runs import Run
from ditask_jax.tasks import Task
from ditask_jax.training.build import build_augmentation, build_source

# What must agree for two runs to have been scored on the same pictures.
_SAME = ("data.name", "data.seed", "data.layout", "data.depth_unit", "data.val_fraction", "data.vtab_task")


def check_same_data(runs: Sequence[Run]) -> None:
    """Raises ConfigError unless all runs were scored on the same pictures."""
    first = runs[0].fields
    for run in runs[1:]:
        for name in _SAME:
            if run.fields.get(name) != first.get(name):
                raise ConfigError(
                    f"figures: runs of different data cannot share panels: {name} is {first.get(name)} in "
                    f"'{runs[0].path}' and {run.fields.get(name)} in '{run.path}'; draw them apart"
                )


def all_tasks(runs: Sequence[Run]) -> tuple[Task, ...]:
    """The tasks of all runs, each once, in the order in which they appear."""
    return tuple({task.name: task for run in runs for task in run.tasks}.values())


def validation_examples(
    run: Run, tasks: Sequence[Task], numbers: Sequence[int]
) -> list[tuple[str, np.ndarray, dict[str, np.ndarray]]]:
    """Examples of the validation split as (id, picture, labels by task), of their own size, missing values marked.

    Args:
      run: whose data.
      tasks: labels to read.
      numbers: of the examples.

    Raises:
      ConfigError: a number that the split does not have.
      DataError: a file cannot be read.
    """
    config = run.config.copy_and_resolve_references()
    with config.unlocked():
        config.tasks = "+".join(task.name for task in tasks)
    source = build_source(config, "val")
    if (worst := max(numbers, key=lambda k: k if k >= 0 else len(source))) not in range(len(source)):
        raise ConfigError(f"figures: --examples: got {worst}, expected 0 to {len(source) - 1}")
    augmentation = build_augmentation(config).for_evaluation()
    specs = [task.label_spec for task in tasks]
    found = []
    for number in numbers:
        example = source[number]
        done = transform(example, specs, example["image"].shape[:2], None, augmentation)
        found.append((str(example.get("id", number)), done["image"], done["labels"]))
    return found
