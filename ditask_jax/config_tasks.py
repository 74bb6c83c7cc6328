"""The section `task` of a configuration: by name of a task, what is said of it (`ditask_jax.tasks.declared`).

`tasks` says which tasks there are, `task.NAME.FIELD` something about one of them. What is not said has no field, so
that files, listings and comparisons of configurations hold what somebody wrote and no more.
"""

import re
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from ditask_jax.errors import ConfigError, did_you_mean
from ditask_jax.options import Option, options_of, plain

SECTION = "task"
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def task_options() -> Mapping[str, Option]:
    """The fields of a task, by name."""
    # Imported when a configuration is made, not with this module: it brings JAX.
    from ditask_jax.tasks.declared import TaskOptions

    return options_of(TaskOptions)


class TaskGroup(ConfigDict):
    """What is said of one task; a known field that is not said is None, and setting it to None takes it back."""

    def __getitem__(self, key: str) -> Any:
        return None if key not in self._fields and key in task_options() else super().__getitem__(key)

    def __setitem__(self, key: str, value: Any) -> None:
        if key not in task_options():
            raise ConfigError(f"config: task.NAME.{key}: unknown field. {did_you_mean(key, task_options())}")
        with self.unlocked():
            if key in self._fields:
                del self[key]
            if value is not None:
                super().__setitem__(key, _one_form(key, plain(value)))


def _one_form(key: str, value: Any) -> Any:
    """A value as it is kept, so that `a,b` on a command line and `("a", "b")` in a file are the same."""
    if key in ("classes", "colours") and isinstance(value, str):
        value = tuple(part.strip() for part in value.split(",") if part.strip())
    if key == "ignore" and isinstance(value, str) and "," in value:
        value = tuple(part.strip() for part in value.split(","))
    return value


class TaskFields(ConfigDict):
    """The section `task`: a group by name of a task, made when it is first looked at.

    >>> tasks = TaskFields().lock()
    >>> tasks.edge.loss_weight = 5.0
    >>> tasks.garments = {"kind": "classes", "classes": ["background", "shirt"]}
    >>> said(tasks)
    {'edge': {'loss_weight': 5.0}, 'garments': {'classes': ('background', 'shirt'), 'kind': 'classes'}}
    """

    def __getattr__(self, name: str) -> Any:
        if _NAME.fullmatch(name) and name not in self:
            self[name] = {}
        return super().__getattr__(name)

    def __setitem__(self, name: str, value: Any) -> None:
        if not isinstance(value, Mapping | ConfigDict):
            raise ConfigError(f"config: task.{name}: got {value!r}, expected fields of a task, {{'loss_weight': 5.0}}")
        group = TaskGroup()
        for key, entry in value.items():
            group[key] = entry
        with self.unlocked():
            self._fields[name] = group
        if self.is_locked:
            group.lock()


def said(section: Any) -> dict[str, dict[str, Any]]:
    """What a section `task` says, by task, as plain data; tasks of which nothing is said are left out."""
    return {name: dict(plain(group)) for name, group in (section or {}).items() if len(group)}


def task_field(config: ConfigDict, parts: list[str]) -> tuple[ConfigDict, str, str] | None:
    """Group, field and section of a dotted name such as `task.edge.loss_weight`, `tasks.` for short; None for others.

    Raises:
        ConfigError: No name of a task, or no field of one.
    """
    if parts[0] not in (SECTION, "tasks") or len(parts) == 1:
        return None
    name, where = parts[1], f"config: {'.'.join([SECTION, *parts[1:]])}"
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: '{name}' is no name of a task: small letters, digits and _, such as 'garments'")
    if len(parts) == 2:
        known = " ".join(task_options())
        raise ConfigError(f"{where}: is a group of fields; set one of them. Known: {known}")
    if len(parts) > 3 or parts[2] not in task_options():
        raise ConfigError(f"{where}: unknown field. {did_you_mean(parts[2], task_options())}")
    section = config[SECTION]
    if name not in section:
        section[name] = {}
    return section[name], parts[2], f"{SECTION}.{name}"


def check_section(config: ConfigDict) -> None:
    """Checks all that is said of tasks, of those that `tasks` leaves out too.

    Raises:
        ConfigError: A value that cannot be used, or something said of a task that there is not.
    """
    found = said(config.get(SECTION, None))
    if not found:
        return
    from ditask_jax.tasks.declared import check_declaration
    from ditask_jax.tasks.task_registry import known_tasks

    named = [name.strip() for name in str(config.tasks).split("+")]
    known = list(dict.fromkeys((*named, *known_tasks())))
    for name, values in found.items():
        if name not in known and "kind" not in values:
            raise ConfigError(
                f"config: task.{name}: there is no such task. {did_you_mean(name, known)}; task.{name}.kind declares "
                "one of your own"
            )
        check_declaration(name, values)
