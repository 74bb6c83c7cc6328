"""Numbers under the names that the code of DiTASK and MTLoRA logs, so that their dashboards show runs from here."""

from collections.abc import Mapping

_MEGABYTE = 2**20
_RENAMED = {"train/loss": "train/train_loss", "time/step": "train/time"}
_MEMORY = ("time/device_memory", "time/process_memory")


def original_names(
    step: int, values: Mapping[str, float], steps_per_epoch: int, weights: Mapping[str, float]
) -> dict[str, float]:
    """Further names for values of a step; `train/learning_rate`, `train/grad_norm`, `train/tasks/TASK/loss` and
    `val/tasks/TASK/METRIC` are the same in both.

    Args:
      step: optimiser steps done.
      values: by our names.
      steps_per_epoch: of the training set.
      weights: of the losses by task.

    >>> original_names(7, {"train/loss": 0.5, "time/step": 0.1}, 3, {})
    {'train/train_loss': 0.5, 'train/time': 0.1, 'train/epoch_ndx': 2, 'train/batch_ndx': 0}
    >>> original_names(7, {"val/tasks/depth/loss": 0.5, "val/tasks/sal/loss": 0.1}, 3, {"depth": 1.0, "sal": 5.0})
    {'val/val_loss': 1.0, 'val/epoch': 2}
    """
    found: dict[str, float] = {new: values[name] for name, new in _RENAMED.items() if name in values}
    if memory := next((values[name] for name in _MEMORY if name in values), None):
        found["train/memory"] = memory / _MEGABYTE
    if "train/loss" in values:
        found["train/epoch_ndx"], found["train/batch_ndx"] = divmod(step - 1, steps_per_epoch)
    losses = {task: values.get(f"val/tasks/{task}/loss") for task in weights}
    if losses and None not in losses.values():
        found["val/val_loss"] = sum(weights[task] * loss for task, loss in losses.items())
        found["val/epoch"] = (step - 1) // steps_per_epoch
    return found
