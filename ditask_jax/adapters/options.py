"""Options that may differ by stage and by task: one value, a tuple with one per stage, or a mapping from task name."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ditask_jax.errors import ConfigError, check_known
from ditask_jax.nn.linear import KNOWN_ROLES

Number = int | float
PerStage = Number | Sequence[Number]
PerTask = PerStage | Mapping[str, PerStage]


def pick(value: PerTask, stage: int, task: str | None = None) -> Number:
    """The value of one stage and task.

    >>> pick(4, 2), pick((1, 2, 3), 2), pick({"depth": (1, 2, 3), "sal": 7}, 1, "depth")
    (4, 3, 2)
    """
    if isinstance(value, Mapping):
        value = value[task]
    return value[stage] if isinstance(value, tuple | list) else value


def check_option(
    field: str,
    value: Any,
    tasks: Sequence[str],
    stages: int | None,
    holds: Callable[[Any], bool],
    words: str,
) -> None:
    """Checks every number of such an option.

    Args:
      field: its name, for the message.
      value: what was given.
      tasks: that need a value; empty where the option has none per task.
      stages: of the backbone, None where it is not known yet.
      holds: whether a number is good.
      words: what a number must be.

    Raises:
      ConfigError: a task without an entry, a tuple of another length, or a number that is no good.

    >>> check_option("task_cells", {"sal": 1}, ["sal"], 4, lambda n: n >= 2, "a whole number of cells >= 2")
    Traceback (most recent call last):
    ...
    ditask_jax.errors.ConfigError: config: method.task_cells: got 1, expected a whole number of cells >= 2
    """
    if isinstance(value, Mapping):
        missing = [task for task in tasks if task not in value]
        if missing:
            raise ConfigError(f"config: method.{field}: no entry for {' '.join(missing)}; give every task a value")
        entries = [value[task] for task in tasks]
    else:
        entries = [value]
    for entry in entries:
        numbers = entry if isinstance(entry, tuple | list) else (entry,)
        if isinstance(entry, tuple | list) and stages is not None and len(entry) != stages:
            raise ConfigError(
                f"config: method.{field}: got {len(entry)} values, expected one, or one per stage ({stages})"
            )
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, int | float) or not holds(number):
                raise ConfigError(f"config: method.{field}: got {number!r}, expected {words}")


def plain(value: Any) -> Any:
    """An option of a configuration as numbers, tuples and dicts.

    >>> plain({"sal": [1, 2]}), plain([3, 4]), plain(5)
    ({'sal': (1, 2)}, (3, 4), 5)
    """
    if hasattr(value, "items"):
        return {name: plain(entry) for name, entry in value.items()}
    return tuple(value) if isinstance(value, tuple | list) else value


def is_count(least: int) -> Callable[[Any], bool]:
    """Whether a number is whole and at least so much.

    >>> is_count(2)(2), is_count(2)(2.0), is_count(2)(1)
    (True, False, False)
    """
    return lambda number: isinstance(number, int) and number >= least


def is_scale(number: Any) -> bool:
    """Whether a number is finite.

    >>> is_scale(-0.5), is_scale(float("inf"))
    (True, False)
    """
    return float("-inf") < number < float("inf")


def check_layers(shared_layers: Sequence[str], task_layers: Sequence[str], task_blocks: int) -> None:
    """Checks the roles that adapters are attached to, and how far task streams reach back.

    Raises:
      ConfigError: an unknown role, or no whole number of blocks.
    """
    for field, layers, kind in (("shared_layers", shared_layers, "order"), ("task_layers", task_layers, "task")):
        # Queries, keys and values are shared: a task's stream starts behind the attention.
        known = list(dict.fromkeys(role for roles in KNOWN_ROLES for role in getattr(roles, kind)))
        for role in layers:
            check_known(f"config: method.{field}", role, known)
    if not isinstance(task_blocks, int) or task_blocks < 1:
        raise ConfigError(f"config: method.task_blocks: got {task_blocks}, expected a whole number of blocks >= 1")


def check_dropout(rate: float) -> None:
    """Raises ConfigError unless a rate is in [0, 1)."""
    if not 0 <= rate < 1:
        raise ConfigError(f"config: method.dropout: got {rate}, expected a rate in [0, 1)")
