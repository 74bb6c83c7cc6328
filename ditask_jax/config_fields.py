"""Configurations from the declared sections: defaults, fields set by name, checks that need no model or data."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, ClassVar

from ml_collections import ConfigDict

from ditask_jax.config_sections import LISTED, SECTIONS
from ditask_jax.config_tasks import SECTION, TaskFields, check_section, task_field, task_options
from ditask_jax.errors import ConfigError, check_known, did_you_mean
from ditask_jax.files import user_path
from ditask_jax.hub.addresses import is_hub, local_or_hub
from ditask_jax.options import Option, options_of, plain, value_text, wrong

# Sections whose fields depend on a name: methods and heads declare their options where they are implemented.


def choices(section: str) -> dict[str, type]:
    """The dataclasses of options of all methods (section "method") or heads ("head"), by name."""
    # Imported when a configuration is made, not with this module: they bring JAX, which `--help` and the processes that
    # load data do without.
    if section == "method":
        from ditask_jax.adapters import method_class, method_names

        return {name: method_class(name) for name in method_names()}
    from ditask_jax.heads import HEADS

    return {name: cls.options for name, cls in sorted(HEADS.items())}


def chosen_options(section: str, name: str, field: str = "name") -> Mapping[str, Option]:
    """Options of one method or head, by name.

    Raises:
        ConfigError: There is none of this name; `field` gave it.
    """
    known = choices(section)
    check_known(f"config: {section}.{field}", name, known)
    return options_of(known[name])


def section_options(section: str, values: Mapping[str, Any]) -> dict[str, Option]:
    """Options of what a section names: its `name`, and heads of single tasks.

    >>> list(section_options("head", {"name": "linear", "per_task": {"depth": "hrnet"}}))
    ['widths']
    """
    found = dict(chosen_options(section, values["name"]))
    heads = values.get("per_task", None) if section == "head" else None
    for head in heads.values() if hasattr(heads, "values") else ():
        found |= chosen_options(section, head, "per_task") if isinstance(head, str) else {}  # `validate` names others
    return found


def not_an_option(section: str, values: Mapping[str, Any], key: str) -> ConfigError:
    """The error of an option that a method or head does not have: whose it is, and what this one has."""
    known, chosen = choices(section), values.get("name", None)
    owners = [f"'{name}'" for name, cls in known.items() if key in options_of(cls)]
    own = sorted(section_options(section, values)) if chosen in known else []
    hint = did_you_mean(key, [*options_of(SECTIONS[section]), *own])
    near = hint.partition(" Known:")[0] + " " if hint.startswith("Did") and not owners else ""
    former = getattr(known.get(chosen), "former_names", {})
    if key in former:
        near = f"'{chosen}' calls it '{former[key]}' since version 0.2; "
    whose = f"an option of {' '.join(owners)}; " if owners else "unknown field. "
    return ConfigError(f"config: {section}.{key}: {whose}{near}'{chosen}' has: {' '.join(own) or 'no options'}")


class ChosenSection(ConfigDict):
    """A section that has the options of what its `name` says; another name replaces them by that one's defaults.

    >>> config = base_config()
    >>> config.method.name = "lora"
    >>> config.method.rank
    4
    >>> config.method.task_cells = 16  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ditask_jax.errors.ConfigError: config: method.task_cells: an option of 'ditask'; 'lora' has: dropout layers rank ...
    """

    _section: ClassVar[str]

    def __setitem__(self, key: str, value: Any) -> None:
        if key == "name" and isinstance(value, str) and value != self.get("name"):
            self._choose(key, value, keep=())
        elif key == "per_task" and key in self and value != self[key]:
            self._choose(key, value, keep=self)
        elif self.is_locked and key not in self:
            raise not_an_option(self._section, self, key)
        else:
            super().__setitem__(key, value)

    def _choose(self, key: str, value: Any, keep: Collection[str]) -> None:
        """Sets a field that names a method or heads, and has their options in place of those before."""
        options = section_options(self._section, {**self, key: value})
        own = options_of(SECTIONS[self._section])
        with self.unlocked():
            super().__setitem__(key, value)
            for old in set(self) - set(own) - (set(options) & set(keep)):
                del self[old]
            for each in options.values():
                if each.name not in self:
                    super().__setitem__(each.name, each.field())


class MethodFields(ChosenSection):
    """The section `method`."""

    _section = "method"


class HeadFields(ChosenSection):
    """The section `head`."""

    _section = "head"


CHOSEN: dict[str, type[ChosenSection]] = {"head": HeadFields, "method": MethodFields}
_GROUPS: dict[str, type[ConfigDict]] = {**CHOSEN, SECTION: TaskFields}


def _changed(group: ChosenSection) -> dict[str, Any]:
    """The options that differ from their defaults."""
    options = section_options(group._section, group)
    return {key: group[key] for key in group if key in options and plain(group[key]) != plain(options[key].default)}


# Configurations: the defaults, and setting fields.


def make_section(section: str, values: Mapping[str, Any] | None = None) -> ConfigDict:
    """A section with its defaults, and these values in place of some; `name` is set first."""
    made, values = _GROUPS.get(section, ConfigDict)(), dict(values or {})
    for name, each in options_of(SECTIONS[section]).items():
        made[name] = values.pop("name", each.default) if name == "name" else each.field()
    for name, value in values.items():
        made[name] = value
    return made


def base_config() -> ConfigDict:
    """The defaults of all fields, locked: a field that no section declares cannot be set by mistake.

    >>> config = base_config()
    >>> config.batch_size, config.method.name, config.method.shared_cells
    (32, 'ditask', 64)
    """
    config = make_section("")
    for section in SECTIONS:
        if section:
            config[section] = make_section(section)
    return config.lock()


def all_fields() -> dict[str, Option]:
    """All fields by dotted name, whatever the method and head; of an option that several have, one declaration.

    Those of a task stand under `task.NAME`.
    """
    found = {}
    for section, cls in SECTIONS.items():
        for each in [*(choices(section).values() if section in CHOSEN else ()), cls]:
            found |= {f"{section}.{name}".lstrip("."): declared for name, declared in options_of(each).items()}
    return found | {f"{SECTION}.NAME.{name}": declared for name, declared in task_options().items()}


def set_fields(config: ConfigDict, values: Iterable[tuple[str, Any]], say: Callable[[str], None] = print) -> None:
    """Sets fields of a configuration in place: names of method and head first, the rest in order.

    Args:
        config: The configuration.
        values: Dotted names such as `"optimizer.learning_rate"`, each with a text, which is read by the type of the
            field (`none` unsets an optional one, tuples are written `0.9,0.95`), or a Python value of that type.
        say: Is called with a line where another method or head drops options that were set.

    Raises:
        ConfigError: Unknown field, or a value of another type.

    >>> config = base_config()
    >>> set_fields(config, [("method.rank", "8"), ("optimizer.betas", "0.8,0.95"), ("method.name", "lora")])
    >>> config.method.rank, config.optimizer.betas
    (8, (0.8, 0.95))
    >>> set_fields(config, [("method.name", "full")])
    config: method.name: 'full' in place of 'lora' drops its options: method.rank=8
    >>> set_fields(config, [("optimizr.betas", "1")])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ditask_jax.errors.ConfigError: config: optimizr: unknown field. Did you mean 'optimizer'? Known: backbone ...
    """
    values = list(values)
    first = ("method.name", "head.name", "head.per_task")
    names = {name: value for field in first for name, value in values if name == field}
    for name, value in names.items():
        group = config.get(name.partition(".")[0], None)
        before = (group.name, _changed(group)) if isinstance(group, ChosenSection) else (None, {})
        _set_field(config, name, value)
        if before[1] and group.name != before[0]:
            dropped = " ".join(f"{group._section}.{key}={value_text(old)}" for key, old in before[1].items())
            say(f"config: {name}: '{group.name}' in place of '{before[0]}' drops its options: {dropped}")
    backbone = config.get("backbone", None)
    before = None if backbone is None else (backbone.get("name", None), backbone.get("weights", None))
    for name, value in values:
        if name not in names:
            _set_field(config, name, value)
    # Weights that a file fetches are of the backbone that it names, and of no other.
    if before and is_hub(before[1]) and backbone.name != before[0] and "backbone.weights" not in dict(values):
        backbone.weights = None
        say(f"config: backbone.name: '{backbone.name}' in place of '{before[0]}' drops backbone.weights={before[1]}")


def _set_field(config: ConfigDict, name: str, value: Any) -> None:
    group, key, section = _find(config, name)
    if section.startswith(f"{SECTION}."):
        group[key] = task_options()[key].read(f"config: {section}.{key}", value) if isinstance(value, str) else value
        return
    kind = group.get_type(key)
    if isinstance(value, str):
        current = plain(group[key])
        item = type(current[0]) if isinstance(current, tuple) and current else None
        declared = options_of(SECTIONS.get(section, object)).get(key)
        if declared is None and isinstance(group, ChosenSection):
            declared = section_options(section, group).get(key)
        # A file may have added fields of its own: their values tell what they are.
        value = (declared or Option(key, kind=kind, item=item)).read(f"config: {name}", value)
    try:
        group[key] = value
    except (TypeError, ValueError):
        words = {int: "an integer", float: "a number", str: "a text", bool: "True or False", tuple: "a tuple"}
        raise wrong(f"config: {name}", value, words.get(kind, kind.__name__)) from None


def _find(config: ConfigDict, name: str) -> tuple[ConfigDict, str, str]:
    """The group that holds a field, the field's own name, and that of its section."""
    group = config
    parts = name.split(".")
    if (found := task_field(config, parts)) is not None:
        return found
    for depth, part in enumerate(parts):
        so_far = ".".join(parts[: depth + 1])
        if not isinstance(group, ConfigDict):
            raise ConfigError(f"config: {name}: unknown field, '{'.'.join(parts[:depth])}' is a single value")
        if part not in group:
            if isinstance(group, ChosenSection):
                raise not_an_option(group._section, group, part)
            raise ConfigError(f"config: {so_far}: unknown field. {_nearest(config, group, parts, depth)}")
        parent, group = group, group[part]
    if isinstance(group, ConfigDict) and parent.get_type(parts[-1]) is not object:
        raise ConfigError(f"config: {name}: is a group of fields; set one of them. Known: {' '.join(group.keys())}")
    return parent, parts[-1], ".".join(parts[:-1])


def _nearest(config: ConfigDict, group: ConfigDict, parts: list[str], depth: int) -> str:
    hint = did_you_mean(parts[depth], group.keys())
    if not hint.startswith("Did") and depth == len(parts) - 1:
        # The right name in the wrong group: learning_rate for optimizer.learning_rate.
        elsewhere = [found for found in _names(config) if found.split(".")[-1] == parts[-1]]
        if elsewhere:
            return f"Did you mean '{elsewhere[0]}'? {hint}"
    return hint


def _names(config: ConfigDict, prefix: str = "") -> list[str]:
    found = []
    for name, value in config.items():
        found += _names(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else [prefix + name]
    return found


# Checks.


def validate(config: ConfigDict) -> None:
    """Checks a configuration before anything is built.

    Names of tasks, backbones and data sets are checked where they are looked up.

    Raises:
        ConfigError: The first thing wrong, as `config: FIELD: got ..., expected ...`.

    >>> config = base_config()
    >>> config.total_steps = 100
    >>> validate(config)
    >>> config.method.headroom = 0.5
    >>> validate(config)
    Traceback (most recent call last):
    ...
    ditask_jax.errors.ConfigError: config: method.headroom: got 0.5, expected a number at least 1
    """
    for section, cls in SECTIONS.items():
        values = config.get(section, None) if section else config
        if not isinstance(values, Mapping | ConfigDict):
            raise _missing(section)
        _check_fields(values, section, options_of(cls))
        if section in CHOSEN:
            options = section_options(section, values)
            for key in values:
                if key not in options and key not in options_of(cls):
                    raise not_an_option(section, values, key)
            _check_fields(values, section, options)
    check_section(config)
    for cls in SECTIONS.values():
        if hasattr(cls, "check"):
            cls.check(config)


def _check_fields(values: Any, section: str, options: Mapping[str, Option]) -> None:
    for key, declared in options.items():
        name = f"{section}.{key}".lstrip(".")
        if key not in values:
            raise _missing(name)
        declared.check(f"config: {name}", values[key])
        if declared.path and values[key] is not None:
            (local_or_hub if declared.hub else user_path)(values[key], f"config: {name}")


def _missing(name: str) -> ConfigError:
    return ConfigError(f"config: {name}: missing; start from ditask_jax.config.base_config; {LISTED}")
