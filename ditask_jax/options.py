"""Options declared once: type, default, rule and a line of help, in a field of a dataclass.

Methods, heads and the sections of a configuration declare their options with `option`. Fields of a configuration, the
meaning of a text on a command line, checks, listings and tables of the documentation are made from these declarations.
A dataclass with plain fields works too: the annotation gives the type, and every value of that type is good.
"""

import ast
import dataclasses
import functools
import itertools
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import config_dict

from ditask_jax.errors import ConfigError, check_known

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")


def wrong(where: str, value: Any, expected: str) -> ConfigError:
    """The error of a value that cannot be used."""
    return ConfigError(f"{where}: got {plain(value)!r}, expected {expected}")


def plain(value: Any) -> Any:
    """A value of a configuration as numbers, texts, tuples and dicts.

    >>> plain({"sal": [1, 2]}), plain([3, [4]]), plain(5)
    ({'sal': (1, 2)}, (3, (4,)), 5)
    """
    if hasattr(value, "items"):
        return {name: plain(entry) for name, entry in value.items()}
    return tuple(map(plain, value)) if isinstance(value, tuple | list) else value


def value_text(value: Any) -> str:
    """A value as text that `--config.FIELD=` reads back.

    >>> [value_text(value) for value in (5e-05, None, True, (16, 32), "step")]
    ['5e-05', 'none', 'true', '(16, 32)', 'step']
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(plain(value))


# Rules: what values of a field are good.


@dataclasses.dataclass(frozen=True)
class Rule:
    """What values are good.

    Attributes:
      expected: good values in words, for example "an integer from 1 up".
      holds: whether a value other than None is good.
      known: the good names, where these are few; a message then gives the nearest.
      then: a rule for values that pass this one.
      by_stage: whether a value may be a tuple with an entry per stage of a backbone.
      by_task: whether a value may be a mapping from task names.
    """

    expected: str
    holds: Callable[[Any], bool] = lambda value: True
    known: tuple[str, ...] = ()
    then: "Rule | None" = None
    by_stage: bool = False
    by_task: bool = False

    def check(self, where: str, value: Any, or_none: bool = False) -> None:
        """Raises ConfigError naming `where` for a value that is not good."""
        if self.known and isinstance(value, str) and value.strip():
            check_known(where, value, self.known)
        elif self.known or not self.holds(value):
            raise wrong(where, value, self.expected + " or none" * or_none)
        if self.then is not None:
            self.then.check(where, value, or_none)


def is_integer(value: Any) -> bool:
    """Whether a value is a whole number that JAX can hold, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and no bool."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False


def integer(least: int) -> Rule:
    """Whole numbers from `least` up.

    >>> integer(1).check("config: batch_size", 0)
    Traceback (most recent call last):
    ...
    ditask_jax.errors.ConfigError: config: batch_size: got 0, expected an integer from 1 up
    """
    return Rule(f"an integer from {least} up", lambda value: is_integer(value) and value >= least)


def number(words: str, holds: Callable[[float], bool]) -> Rule:
    """Finite numbers with a property."""
    return Rule(f"a number {words}", lambda value: is_number(value) and holds(value))


def one_of(*names: str) -> Rule:
    """One of a few names."""
    return Rule("a name", known=names)


def pair(words: str, holds: Callable[[float, float], bool]) -> Rule:
    """Two numbers with a property."""
    return Rule(words, lambda value: _items(value, is_number) and len(value) == 2 and holds(*value))


def several(words: str, holds: Callable[[Any], bool], empty: bool = False) -> Rule:
    """Values with a property each: at least one of them, or none where `empty`."""
    return Rule(words, lambda value: _items(value, holds) and (empty or len(value) > 0))


def rising(words: str) -> Rule:
    """Numbers each larger than the one before; for `Rule.then`."""
    return Rule(words, lambda value: all(a < b for a, b in itertools.pairwise(value)))


def names(words: str, what: str, known: tuple[str, ...] = ()) -> Rule:
    """Names, each at most once, of these where they are known; `what` calls one of them."""
    once = Rule(f"each {what} once", lambda value: len(set(value)) == len(value), then=_Known("", known=known))
    return Rule(words, lambda value: _items(value, lambda item: isinstance(item, str)), then=once)


GROUPS = ("adapters", "pretrained", "decoders")
"""Groups of parameters: what a method adds, weights of the backbone that train, and the rest: necks and heads."""


def by_group(words: str, good: Callable[[Any], bool]) -> Rule:
    """A value by group of parameters, or by `GROUP:PATTERN`, a part of one.

    >>> by_group("numbers", is_number).check("config: optimizer.rates", {"adapter": 3})
    Traceback (most recent call last):
    ...
    ditask_jax.errors.ConfigError: config: optimizer.rates: unknown name 'adapter'. Did you mean 'adapters'? Known: \
adapters pretrained decoders
    """

    def holds(value: Any) -> bool:
        entries = value.items() if hasattr(value, "items") else ()
        return len(entries) > 0 and all(isinstance(name, str) and good(entry) for name, entry in entries)

    return Rule(f"{words}, by {', '.join(GROUPS)} or GROUP:PATTERN", holds, then=_Groups(""))


class _Groups(Rule):
    """Every key is a group, or a group, a colon and a pattern."""

    def check(self, where: str, value: Any, or_none: bool = False) -> None:
        for name in value:
            group, colon, pattern = name.partition(":")
            check_known(where, group, GROUPS)
            if colon and not pattern:
                raise wrong(where, name, "a pattern behind the colon, for example 'adapters:*/fc1/*'")


class _Known(Rule):
    """Every one of several names is known."""

    def check(self, where: str, value: Any, or_none: bool = False) -> None:
        for name in value if self.known else ():
            check_known(where, name, self.known)


def by_stage(least: int | None, by_task: bool = False) -> Rule:
    """A number, or one per stage; with `by_task` also a mapping from task names to either.

    Args:
      least: the smallest whole number; None: any finite number.
      by_task: whether tasks may differ.
    """
    words = "a number" if least is None else f"an integer from {least} up"
    words += ", or one per stage (4,4,8,8)" + (", or either by task ({'semseg': 4})" if by_task else "")
    good = is_number if least is None else lambda value: is_integer(value) and value >= least
    entry = lambda value: good(value) or (_items(value, good) and len(value) > 0)

    def holds(value: Any) -> bool:
        if not by_task or not hasattr(value, "items"):
            return entry(value)
        return len(value) > 0 and all(isinstance(task, str) and entry(item) for task, item in value.items())

    return Rule(words, holds, by_stage=True, by_task=by_task)


def _items(value: Any, holds: Callable[[Any], bool]) -> bool:
    return isinstance(value, tuple | list) and all(map(holds, value))


POSITIVE = number("above 0", lambda x: x > 0)
NOT_NEGATIVE = number("at least 0", lambda x: x >= 0)
RATE = number("in [0, 1)", lambda x: 0 <= x < 1)
FRACTION = number("in [0, 1]", lambda x: 0 <= x <= 1)
SHA256 = Rule("64 hexadecimal digits", lambda x: isinstance(x, str) and re.fullmatch("[0-9a-f]{64}", x) is not None)
# Of fields that state no rule, by type.
_RULES = {
    bool: Rule("true or false", lambda value: isinstance(value, bool)),
    int: Rule("an integer", is_integer),
    float: Rule("a number", is_number),
    str: Rule("a name", lambda value: isinstance(value, str) and bool(value.strip())),
    tuple: Rule("a tuple", lambda value: isinstance(value, tuple | list)),
}


# Options: declared by `option` in a dataclass, read by `options_of`.


def option(default: Any, help: str, rule: Rule | None = None, *, path: bool = False, hub: bool = False) -> Any:
    """A field of a dataclass of options.

    Args:
      default: its value where none is given.
      help: one line that says what it is, shown in listings and in the documentation.
      rule: what values are good; None: those of the annotated type.
      path: whether a value is a path, which is kept as it was written.
      hub: whether such a path may be an address on a model hub too.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Scaling:
    ...     power: float = option(1.0, "Exponent of the factors.", POSITIVE)
    >>> [(o.name, o.default, o.help) for o in options_of(Scaling).values()]
    [('power', 1.0, 'Exponent of the factors.')]
    """
    return dataclasses.field(default=default, metadata={"help": help, "rule": rule, "path": path, "hub": hub})


@dataclasses.dataclass(frozen=True)
class Option:
    """A field as a configuration knows it.

    Attributes:
      name: its name within its section.
      default: its default; None where a plain field has none.
      help: what it is, "" for a plain field.
      rule: what values are good; None: those of the type.
      kind: type of its values; `object` for several.
      item: type of a tuple's items, where known.
      optional: whether None is a value.
      path: whether it holds a path.
      hub: whether that may be an address on a model hub.
    """

    name: str
    default: Any = None
    help: str = ""
    rule: Rule | None = None
    kind: type = object
    item: type | None = None
    optional: bool = False
    path: bool = False
    hub: bool = False

    @property
    def expected(self) -> str:
        """Good values in words; "" where anything goes."""
        rule = self.rule or (Rule("a path") if self.path else _RULES.get(self.kind))
        if rule is None:
            return ""
        words = f"one of {' '.join(rule.known)}" if rule.known else rule.expected
        return words + " or none" * self.optional

    def text(self, value: Any) -> str:
        """A value of it as people write it on a command line."""
        return ",".join(value) if self.item is str and value else value_text(value)

    def check(self, where: str, value: Any) -> None:
        """Raises ConfigError naming `where` for a value that is not good."""
        rule = self.rule or _RULES.get(self.kind)
        if rule is not None and not (value is None and self.optional):
            rule.check(where, value, self.optional)

    def field(self) -> Any:
        """What a ConfigDict holds for it, so that other types are refused."""
        if self.kind is object or self.optional or self.default is None:
            return config_dict.FieldReference(self.default, field_type=self.kind)
        return self.default

    def read(self, where: str, text: str) -> Any:
        """The value of a text of a command line: `none` unsets an optional field, tuples are written `0.9,0.95`.

        Raises:
          ConfigError: the text is no value of the type.
        """
        written, text = text, text.strip()
        if text.lower() in ("none", "null"):
            return "none" if self.rule is not None and "none" in self.rule.known else None
        if self.path:
            return written  # a folder's name may begin or end with a blank
        readers = {bool: _read_bool, int: _read_int, float: _read_float, object: _read_any}
        if self.kind in (tuple, list):
            return _read_tuple(where, text, self.item)
        return readers[self.kind](where, text) if self.kind in readers else text


@functools.cache
def options_of(cls: type) -> Mapping[str, Option]:
    """The options that a dataclass declares, by name; of a class that is none, no options."""
    if not dataclasses.is_dataclass(cls):
        return types.MappingProxyType({})
    try:
        hints = typing.get_type_hints(cls)
    except (NameError, TypeError):  # annotations that mean something only where the class was written
        hints = {}
    found = {}
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        default = field.default if field.default is not dataclasses.MISSING else None
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        kind, item, optional = _kind(hints.get(field.name, type(default) if default is not None else object))
        said = {key: field.metadata[key] for key in ("help", "rule", "path", "hub") if key in field.metadata}
        found[field.name] = Option(field.name, default, kind=kind, item=item, optional=optional, **said)
    return types.MappingProxyType(found)


def _kind(annotation: Any) -> tuple[type, type | None, bool]:
    """Type, type of items, and whether None is a value.

    >>> _kind(int | None), _kind(tuple[str, ...]), _kind(int | tuple[int, ...])
    ((<class 'int'>, None, True), (<class 'tuple'>, <class 'str'>, False), (<class 'object'>, None, False))
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        kinds = [_kind(argument) for argument in arguments if argument is not type(None)]
        optional = len(kinds) < len(arguments)
        return (*kinds[0][:2], optional) if len(kinds) == 1 else (object, None, optional)
    if origin in (tuple, list):
        items = {argument for argument in arguments if argument is not Ellipsis}
        return origin, items.pop() if len(items) == 1 else None, False
    return (annotation if annotation in (bool, int, float, str, tuple, list) else object), None, False


def check_options(cls: type, values: Mapping[str, Any], where: str) -> None:
    """Checks a value of every option of a dataclass.

    Raises:
      ConfigError: the first that is not good, by the name `where.OPTION`.
    """
    for name, declared in options_of(cls).items():
        declared.check(f"{where}.{name}", values[name])


def _read_bool(where: str, text: str) -> bool:
    if text.lower() in _TRUE + _FALSE:
        return text.lower() in _TRUE
    raise wrong(where, text, "true or false")


def _read_int(where: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        pass  # 1e4 is a usual way to write a number of steps
    try:
        value = float(text)
    except ValueError:
        raise wrong(where, text, "an integer") from None
    if "." in text or not math.isfinite(value) or value != int(value):
        raise wrong(where, text, "an integer")
    return int(value)


def _read_float(where: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise wrong(where, text, "a number") from None
    if not math.isfinite(value):
        raise wrong(where, text, "a finite number")
    return value


def _read_number(where: str, text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return _read_float(where, text)


def _read_tuple(where: str, text: str, item: type | None) -> tuple:
    inner = text.removeprefix("(").removesuffix(")").removeprefix("[").removesuffix("]")
    items = [found for part in inner.split(",") if (found := part.strip().strip("'\""))]
    if item is str:
        return tuple(items)
    read = _read_float if item is float else _read_number
    return tuple(read(where, found) for found in items)


def _read_any(where: str, text: str) -> Any:
    """A field of several types: a Python literal, `448x320` as a pair, else the text."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        height, cross, width = text.partition("x")
        if cross and height.isdecimal() and width.isdecimal():
            return int(height), int(width)
        return text
    return tuple(value) if isinstance(value, list) else value
