"""Setting one field of a configuration from the text of a command line, by the field's own type."""

import ast
import math
from typing import Any

from ml_collections import ConfigDict

from ditask_jax.config_rules import NONE_IS_A_NAME, PATHS
from ditask_jax.errors import ConfigError, did_you_mean

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")


def apply_override(config: ConfigDict, name: str, value: Any) -> None:
    """Sets the field `name` (dotted) of a configuration in place.

    Args:
        config: The configuration.
        name: Dotted name such as `"optimizer.learning_rate"`.
        value: A text, read by the type of the field (`none` unsets an optional field, tuples are written `0.9,0.95`),
            or a Python value of that type.

    Raises:
        ConfigError: Unknown field, or a value of another type.

    >>> config = ConfigDict({"optimizer": {"betas": (0.9, 0.999)}})
    >>> apply_override(config, "optimizer.betas", "0.8,0.95")
    >>> config.optimizer.betas
    (0.8, 0.95)
    >>> apply_override(config, "optimizr.betas", "1")
    Traceback (most recent call last):
    ...
    ditask_jax.errors.ConfigError: config: optimizr: unknown field. Did you mean 'optimizer'? Known: optimizer
    """
    group, key = _find(config, name)
    if isinstance(value, str):
        value = _read(name, value, group.get_type(key), group[key])
    try:
        group[key] = value
    except (TypeError, ValueError):
        raise _wrong(name, value, _words(group.get_type(key))) from None


def _find(config: ConfigDict, name: str) -> tuple[ConfigDict, str]:
    """The group that holds a field, and the field's own name."""
    group = config
    parts = name.split(".")
    for depth, part in enumerate(parts):
        so_far = ".".join(parts[: depth + 1])
        if not isinstance(group, ConfigDict):
            raise ConfigError(f"config: {name}: unknown field, '{'.'.join(parts[:depth])}' is a single value")
        if part not in group:
            raise ConfigError(f"config: {so_far}: unknown field. {_nearest(config, group, parts, depth)}")
        parent, group = group, group[part]
    if isinstance(group, ConfigDict):
        raise ConfigError(f"config: {name}: is a group of fields; set one of them. Known: {' '.join(group.keys())}")
    return parent, parts[-1]


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


def _read(name: str, text: str, field_type: type, current: Any) -> Any:
    written, text = text, text.strip()
    if text.lower() in ("none", "null"):
        return "none" if name in NONE_IS_A_NAME else None
    if name in PATHS:
        return written  # a folder's name may begin or end with a blank
    if field_type is bool:
        return _read_bool(name, text)
    if field_type is int:
        return _read_int(name, text)
    if field_type is float:
        return _read_float(name, text)
    if field_type in (tuple, list):
        return _read_tuple(name, text, current)
    if field_type is object:
        return _read_any(text)
    return text


def _read_bool(name: str, text: str) -> bool:
    if text.lower() in _TRUE + _FALSE:
        return text.lower() in _TRUE
    raise _wrong(name, text, "true or false")


def _read_int(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        pass  # 1e4 is a usual way to write a number of steps
    try:
        number = float(text)
    except ValueError:
        raise _wrong(name, text, "an integer") from None
    if "." in text or not math.isfinite(number) or number != int(number):
        raise _wrong(name, text, "an integer")
    return int(number)


def _read_float(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise _wrong(name, text, "a number") from None
    if not math.isfinite(number):
        raise _wrong(name, text, "a finite number")
    return number


def _read_tuple(name: str, text: str, current: Any) -> tuple:
    inner = text.strip().removeprefix("(").removesuffix(")").removeprefix("[").removesuffix("]")
    items = [item.strip().strip("'\"") for item in inner.split(",")]
    items = [item for item in items if item]
    kind = type(current[0]) if current else None
    if kind is str:
        return tuple(items)
    read = _read_float if kind is float else _read_number
    return tuple(read(name, item) for item in items)


def _read_number(name: str, text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return _read_float(name, text)


def _read_any(text: str) -> Any:
    """A field of several types (`image_size`): a Python literal, `448x320` as a pair, else the text."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        height, cross, width = text.partition("x")
        if cross and height.isdecimal() and width.isdecimal():
            return int(height), int(width)
        return text
    return tuple(value) if isinstance(value, list) else value


def _words(field_type: type) -> str:
    words = {int: "an integer", float: "a number", str: "a text", bool: "True or False", tuple: "a tuple"}
    return words.get(field_type, field_type.__name__)


def _wrong(name: str, value: Any, expected: str) -> ConfigError:
    return ConfigError(f"config: {name}: got {value!r}, expected {expected}")
