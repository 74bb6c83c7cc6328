"""The registry of methods, and the options that methods share. A new method is one file: a class that names itself and
says what it attaches.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from flax import nnx

from ditask_jax.adapters.plan import LayerPlan, Site
from ditask_jax.backbones import known_roles
from ditask_jax.errors import ConfigError, check_known, defined_in
from ditask_jax.nn.linear import Linear

# Options that may differ by stage and by task: one value, a tuple with one per stage, or a mapping from task name.


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
        known = list(dict.fromkeys(role for roles in known_roles() for role in getattr(roles, kind)))
        for role in layers:
            check_known(f"config: method.{field}", role, known)
    if not isinstance(task_blocks, int) or task_blocks < 1:
        raise ConfigError(f"config: method.task_blocks: got {task_blocks}, expected a whole number of blocks >= 1")


def check_dropout(rate: float) -> None:
    """Raises ConfigError unless a rate is in [0, 1)."""
    if not 0 <= rate < 1:
        raise ConfigError(f"config: method.dropout: got {rate}, expected a rate in [0, 1)")


# The registry of methods. A new method is one file: a class that names itself and says what it attaches.


_METHODS: dict[str, type["Method"]] = {}


class Method:
    """How to adapt a backbone. Subclasses are frozen dataclasses of options; `name` registers them.

    A method never touches a backbone's code: it plans one `LayerPlan` per dense layer, says which other parameters
    train, and builds an adapter for a layer's slot.
    """

    name: ClassVar[str] = ""
    # Fields of the `method` section of a configuration, by option, where they are called otherwise.
    config_names: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if not cls.name:
            return
        there, same = _METHODS.get(cls.name), lambda other: (other.__module__, other.__qualname__)
        # A decorator such as `dataclass(slots=True)` and a notebook's cell that runs again make the class anew.
        if there is not None and same(there) != same(cls):
            raise ConfigError(
                f"method '{cls.name}' is registered already, {defined_in(there)}; give {cls.__qualname__} another name"
            )
        _METHODS[cls.name] = cls

    @classmethod
    def from_config(cls, config) -> "Method":
        """Builds the method from the `method` section of a configuration: its fields, by name, that stand there."""
        if not dataclasses.is_dataclass(cls):
            return cls()
        asked = dict(config.items()) if config is not None else {}
        there = {
            field.name: cls.config_names.get(field.name, field.name) for field in dataclasses.fields(cls) if field.init
        }
        return cls(**{option: _plain(asked[name]) for option, name in there.items() if name in asked})

    def describe(self) -> str:
        """The options in words, for a model card; "" for none."""
        if not dataclasses.is_dataclass(self):
            return ""
        return ", ".join(f"{f.name} {words(getattr(self, f.name))}" for f in dataclasses.fields(self))

    @property
    def identity_at_start(self) -> bool:
        """Whether a freshly wrapped model computes what the model did before."""
        return True

    def check(self, tasks: Sequence[str], stages: int | None = None) -> None:
        """Raises ConfigError if the options fit neither the tasks nor the number of stages (None: not known yet)."""

    @property
    def layer_roles(self) -> tuple[str, ...]:
        """Roles of dense layers that the options name; () where they name none."""
        return ()

    def plan_layer(self, site: Site) -> LayerPlan | None:
        """The plan of one dense layer, or None where nothing is attached."""
        return None

    def trains(self, path: str) -> bool:
        """Whether a backbone parameter (its `/`-joined path, adapters aside) trains."""
        raise TypeError(f"method '{self.name}' does not say what trains")

    def needs_factors(self) -> bool:
        """Whether `attach` wants the singular value decomposition of each layer."""
        return False

    def attach(self, linear: Linear, plan: LayerPlan, factors, seed: int) -> nnx.Module:
        """The adapter for a planned layer."""
        raise TypeError(f"method '{self.name}' attaches no adapters")

    def upstream_extra(self, sites: Sequence[Site]) -> dict[str, int]:
        """Parameters that the originals count as trainable though they never receive a gradient, by group."""
        return {}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple(map(_plain, value))
    return {name: _plain(entry) for name, entry in value.items()} if hasattr(value, "items") else value


def words(value: Any) -> str:
    """An option as people read it.

    >>> words((16, 32)), words({"depth": 4}), words(())
    ('16/32', 'depth 4', 'none')
    """
    if isinstance(value, tuple | list):
        return "/".join(map(words, value)) or "none"
    if hasattr(value, "items"):
        return ", ".join(f"{name} {words(entry)}" for name, entry in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def method_names() -> list[str]:
    """Names of every registered method."""
    return sorted(_METHODS)


def method_class(name: str) -> type[Method]:
    """The method of a name; an unknown one raises ConfigError with the nearest."""
    check_known("config: method.name", name, method_names())
    return _METHODS[name]
