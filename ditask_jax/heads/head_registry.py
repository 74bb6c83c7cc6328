"""The registry of heads: what a head class declares, its options, and which head decodes which task."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
from flax import nnx

from ditask_jax.errors import ConfigError, check_known, defined_in, same_definition
from ditask_jax.nn.context import Context, Scope
from ditask_jax.options import check_options, is_integer, option, options_of, plain, several


@dataclasses.dataclass(frozen=True)
class HeadOptions:
    """The options of a head that has none; those of others are subclasses with a field per option.

    Every field has a default, given by `ditask_jax.options.option` with a line of help and a rule, and holds a number,
    a text, a boolean, None or a tuple of these.
    """


@dataclasses.dataclass(frozen=True)
class NeckOptions(HeadOptions):
    """The options of heads behind a neck."""

    widths: tuple[int, ...] | None = option(
        None,
        "Channels of the per-task maps that enter the head, one per stage; none: 18, doubled from stage to stage.",
        several("channels per stage above 0", lambda width: is_integer(width) and width > 0),
    )


class Head(nnx.Module):
    """The decoder of one task: its features to raw logits. `register_head` gives a subclass a name.

    Shapes: a list of `[B, h_i, w_i, channels_i]` to `[B, h, w, outputs]`, of any size, where `is_map` holds; a list of
    one `[B, h, w, channels]` to `[B, outputs]` otherwise. Logits are float32, whatever dtype features have.

    Args:
      channels: of the maps that come, in order.
      outputs: of the task.
      scope: where the head stands; decides the initial values.
      options: an object of the class `options`.

    Attributes:
      is_map: True: the head makes maps, from a map per stage of the backbone. False: it makes vectors, from the last
        stage's map alone, or from the class token, as a map of one position, where the backbone has one.
      has_neck: whether 1x1 convolutions of the task first narrow the maps to `options.widths` channels, which are the
        head's `channels` then; only for heads that make maps.
      sees_others: whether the head also looks at what the other tasks with this head get. It is then called with a
        third argument: a list of their maps, in the order of tasks, empty where there are none.
      options: the dataclass of its options.
      other_kind: the class that takes its place, under the same name and with the same options, for tasks whose output
        is of the other kind; None: it serves its own kind alone.
    """

    is_map: ClassVar[bool] = True
    has_neck: ClassVar[bool] = False
    sees_others: ClassVar[bool] = False
    options: ClassVar[type[HeadOptions]] = HeadOptions
    other_kind: ClassVar["type[Head] | None"] = None

    def __init__(self, channels: Sequence[int], outputs: int, scope: Scope, options: HeadOptions):
        raise TypeError(f"{type(self).__name__} does not define __init__")

    def __call__(self, maps: Sequence[jax.Array], context: Context) -> jax.Array:
        raise TypeError(f"{type(self).__name__} does not define __call__")


HEADS: dict[str, type[Head]] = {}
# By kind of output (whether it is a map): the head of tasks that the chosen one cannot serve.
DEFAULT_HEADS = {True: "hrnet", False: "linear"}
_KINDS = {True: "a map", False: "one vector per image"}


def register_head(name: str, head: type[Head]) -> None:
    """Adds a head, which `head.name`, `head.per_task` and `create_model` then know.

    Args:
      name: a new name.
      head: the class, called as `head(channels, outputs, scope, options)`; see `ditask_jax.heads.Head`.

    Raises:
      ConfigError: the name is taken or cannot be one, or the class does not declare what it must.

    >>> from ditask_jax.heads import LinearHead
    >>> register_head("hrnet", LinearHead)
    Traceback (most recent call last):
    ...
    ditask_jax.errors.ConfigError: config: head.name: 'hrnet' is registered already; choose another name
    """
    _check_declared(name, head)
    if name in HEADS and not same_definition(HEADS[name], head):
        raise ConfigError(f"config: head.name: '{name}' is registered already; choose another name")
    HEADS[name] = head


def _check_declared(name: str, head: type[Head]) -> None:
    where = f"config: head.name: '{name}'"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ConfigError(f"{where}: a name is made of small letters, digits and _, such as 'my_head'")
    if not (isinstance(head, type) and issubclass(head, Head)):
        raise ConfigError(f"{where}: got {head!r}, expected a subclass of ditask_jax.heads.Head")
    shown = defined_in(head)
    for field in ("is_map", "has_neck", "sees_others"):
        if not isinstance(getattr(head, field), bool):
            raise ConfigError(f"{where}: {shown}: {field}: got {getattr(head, field)!r}, expected True or False")
    for method in ("__init__", "__call__"):
        if getattr(head, method) is getattr(Head, method):
            raise ConfigError(f"{where}: {shown} does not define {method}")
    options = head.options
    # In its own namespace: a subclass without the decorator has the fields of its base alone.
    if not (isinstance(options, type) and issubclass(options, HeadOptions) and "__dataclass_fields__" in vars(options)):
        raise ConfigError(
            f"{where}: {shown}: options: got {options!r}, expected a dataclass, a subclass of HeadOptions"
        )
    if head.has_neck and not (head.is_map and issubclass(options, NeckOptions)):
        raise ConfigError(
            f"{where}: {shown}: has_neck is for heads that make maps and whose options are a subclass of NeckOptions"
        )
    other = head.other_kind
    if other is not None:
        _check_declared(name, other)
        if other.is_map == head.is_map or other.options is not options:
            raise ConfigError(
                f"{where}: {shown}: other_kind: {defined_in(other)} has other options, or makes the same kind of output"
            )
    for field in dataclasses.fields(options):
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}: {defined_in(options)}: '{field.name}' has no default; give it one")
        if field.name in ("name", "per_task"):
            raise ConfigError(
                f"{where}: {defined_in(options)}: no option is called '{field.name}'; choose another name"
            )


def head_class(name: str, field: str = "head.name", is_map: bool | None = None) -> type[Head]:
    """The head of a name; an unknown name raises ConfigError with the nearest one.

    Args:
      name: a registered head.
      field: the field that names it, for errors.
      is_map: what it is to make, where the name stands for both kinds; None: the kind it is registered as.

    >>> head_class("linear").is_map, head_class("linear", is_map=True).is_map, head_class("hrnet", is_map=False).is_map
    (False, True, True)
    """
    check_known(f"config: {field}", name, HEADS)
    cls = HEADS[name]
    return cls.other_kind if is_map not in (None, cls.is_map) and cls.other_kind is not None else cls


def _serves(name: str, is_map: bool, field: str = "head.name") -> bool:
    return head_class(name, field, is_map).is_map == is_map


def heads_of(
    tasks: Sequence[Any], name: str | Mapping[str, str], per_task: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The head of every task, by name.

    A task takes the head that `per_task` names, else `name` where that makes what the task needs, else the default of
    its kind: hrnet for maps, linear for vectors.

    Args:
      tasks: with `name`, and with `is_map` False where the output is one vector per image.
      name: a registered head; a mapping is taken as `per_task`.
      per_task: heads by task; not every task has to be there.

    Raises:
      ConfigError: an unknown head or task; a head of `per_task` that does not make what its task needs; a `name` that
        serves none of the tasks.

    >>> from types import SimpleNamespace
    >>> both = [SimpleNamespace(name="depth"), SimpleNamespace(name="classification", is_map=False)]
    >>> heads_of(both, "hrnet"), heads_of(both, "linear")
    ({'depth': 'hrnet', 'classification': 'linear'}, {'depth': 'linear', 'classification': 'linear'})
    >>> heads_of(both, "hrnet", {"classification": "hrnet"})
    Traceback (most recent call last):
    ...
    ditask_jax.errors.ConfigError: config: head.per_task: 'hrnet' gives a map, but 'classification' needs one vector \
per image; use linear
    """
    if not isinstance(name, str):
        name, per_task = "", name
    per_task = dict(per_task.items()) if per_task is not None else {}
    kinds = {task.name: getattr(task, "is_map", True) for task in tasks}
    for task, head in per_task.items():
        check_known("config: head.per_task: task", task, kinds)
        if not _serves(head, kinds[task], "head.per_task"):
            raise _unfit("head.per_task", head, task, kinds[task])
    rest = [task for task in kinds if task not in per_task]
    served = {kind for kind in kinds.values() if name and _serves(name, kind)}
    if name and rest and not served:
        raise _unfit("head.name", name, rest[0], kinds[rest[0]])
    chosen = {task: name if kinds[task] in served else DEFAULT_HEADS[kinds[task]] for task in rest}
    return {task: per_task.get(task) or chosen[task] for task in kinds}


def _unfit(field: str, head: str, task: str, needs_map: bool) -> ConfigError:
    fitting = " or ".join(name for name in HEADS if _serves(name, needs_map))
    gives, needs = _KINDS[not needs_map], _KINDS[needs_map]
    return ConfigError(f"config: {field}: '{head}' gives {gives}, but '{task}' needs {needs}; use {fitting}")


def option_names(heads: Mapping[str, str]) -> list[str]:
    """Options that any of these heads (by task) has.

    >>> option_names({"depth": "hrnet", "classification": "linear"})
    ['widths']
    """
    return list(dict.fromkeys(key for name in heads.values() for key in options_of(head_class(name).options)))


def options_from(section: Mapping[str, Any], heads: Mapping[str, str]) -> dict[str, Any]:
    """What the `head` section of a configuration says of the options of these heads (by task).

    >>> options_from({"name": "hrnet", "widths": [8, 8]}, {"depth": "hrnet"})
    {'widths': (8, 8)}
    """
    return {name: plain(section[name]) for name in option_names(heads) if name in section}


def build_options(name: str, given: Mapping[str, Any]) -> HeadOptions:
    """The options of a head: those of `given` that it has, and its defaults.

    Raises:
      ConfigError: a value that breaks the option's rule.

    >>> build_options("hrnet", {"widths": (0, 4)})
    Traceback (most recent call last):
    ...
    ditask_jax.errors.ConfigError: config: head.widths: got (0, 4), expected channels per stage above 0 or none
    """
    cls = head_class(name).options
    options = cls(**{key: plain(given[key]) for key in options_of(cls) if key in given})
    check_options(cls, vars(options), "config: head")
    return options
