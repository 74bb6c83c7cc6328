"""Loading, overriding, saving and comparing configurations.

A configuration file is Python code with `get_config(variant)` that returns an `ml_collections.ConfigDict`; it is read
from the path a user names, never from a run folder. A run folder holds `config.json`, which is data.
"""

import contextlib
import inspect
import json
import math
import os
import pathlib
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from ditask_jax.config_fields import base_config, choices, set_fields, validate
from ditask_jax.config_sections import LISTED, SECTIONS
from ditask_jax.errors import ConfigError, did_you_mean
from ditask_jax.files import user_path
from ditask_jax.options import options_of

__all__ = [
    "base_config",
    "call_file",
    "config_diff",
    "find_file",
    "flatten",
    "from_json",
    "load_config",
    "packaged",
    "recipe",
    "to_json",
    "validate",
]

FORMAT = "ditask_jax/config/2"
# Without a format in the file: all options of all methods side by side, some under other names.
FIRST_FORMAT = "ditask_jax/config/1"
_ABSENT = object()


def _above_configs(package: pathlib.Path) -> pathlib.Path:
    """An installed package has the folder `configs` inside, a checkout beside the package."""
    return package if (package / "configs").is_dir() else package.parent


_ROOT = _above_configs(pathlib.Path(__file__).resolve().parent)


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def load_config(
    source: str | os.PathLike,
    overrides: Iterable[str] | Mapping[str, Any] = (),
    *,
    check: bool = True,
    say: Callable[[str], None] = _to_stderr,
) -> ConfigDict:
    """Loads a configuration file, applies overrides and checks the result.

    Args:
        source: Name of a configuration that comes with the package, or path of a file, with an optional variant:
            `scenes`, `scenes:frozen`, `configs/scenes.py:frozen`. A relative path is looked up in the current folder,
            then beside the configurations of the package.
        overrides: Texts such as `"batch_size=8"` or `"--config.optimizer.learning_rate=1e-3"`, or a mapping of dotted
            names to values. `method.name` and `head.name` are applied first, whatever the order; of the others later
            ones win.
        check: Whether to run `validate`.
        say: Is called with a line where another method or head drops options that the file had set.

    Returns:
        The locked configuration.

    Raises:
        ConfigError: The file is missing or fails, a field is unknown, or a value has the wrong type or range.

    >>> config = load_config("configs/pascal_swin_tiny.py:full", ["batch_size=8", "image_size=448,320"])
    >>> config.method.name, config.batch_size, config.image_size
    ('full', 8, (448, 320))
    """
    path, variant = find_file(os.fspath(source))
    config = call_file(path, variant)
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"config: {path}: get_config() returned a {type(config).__name__}, expected a ConfigDict")
    items = overrides.items() if isinstance(overrides, Mapping) else (_split_override(text) for text in overrides)
    notes: list[str] = []
    set_fields(config, items, notes.append)
    if check:
        validate(config)
    for note in notes:  # behind the checks: a mistake is one line
        say(note)
    return config.lock()


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Fields by dotted name, groups resolved, lists as tuples; a ConfigDict gives them in alphabetical order.

    >>> flatten({"a": 1, "b": {"c": [2, 3]}})
    {'a': 1, 'b.c': (2, 3)}
    """
    flat = {}
    for name, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = _to_tuple(value)
    return flat


def to_json(config: ConfigDict) -> str:
    """JSON text of a configuration, fields in alphabetical order; `from_json` gives back an equal one.

    Raises:
        ConfigError: A field holds something other than numbers, texts, None, tuples and groups.
    """
    fields = {"format": FORMAT, **_plain(config, "")}
    return json.dumps(fields, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(text: str, source: str = "config.json") -> ConfigDict:
    """Reads the output of `to_json`; integers, floats, None and tuples come back as they were.

    Of the first format, which version 0.1 wrote, the options of other methods and heads than the chosen ones are left
    out, and names of options are those of today.

    Args:
        text: The JSON text.
        source: Name of the file, for error messages.

    Raises:
        ConfigError: The text is no JSON object, or of a newer format.

    >>> config = from_json('{"image_size": [64, 96], "optimizer": {"eps": 1e-08}, "total_steps": null}')
    >>> config.image_size, config.optimizer.eps, config.total_steps
    ((64, 96), 1e-08, None)
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"config: {source}: not valid JSON ({error}); restore the file or use another run") from None
    if not isinstance(value, dict):
        raise ConfigError(f"config: {source}: got a {type(value).__name__}, expected a JSON object of fields")
    found = value.pop("format", FIRST_FORMAT)
    if found not in (FORMAT, FIRST_FORMAT):
        raise ConfigError(
            f"config: {source}: of format {found!r}, this version of ditask_jax reads '{FORMAT}' and '{FIRST_FORMAT}'; "
            "update the package"
        )
    if found == FIRST_FORMAT:
        value = _from_first(value)
    try:
        return _from_plain(value).lock()
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"config: {source}: {reason}; restore the file or use another run") from None


def _from_first(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a configuration of version 0.1 as this one has them."""
    known = {name: choices(name) for name in ("method", "head") if isinstance(fields.get(name), dict)}
    for section, classes in known.items():
        values = fields[section]
        cls = classes.get(values.get("name"))
        if cls is None:
            continue  # of a plug-in that is not loaded
        own = {*options_of(SECTIONS[section]), *options_of(cls)}
        former = getattr(cls, "former_names", {})
        renamed = {former.get(name, name): value for name, value in values.items()}
        fields = fields | {section: {name: value for name, value in renamed.items() if name in own}}
    return fields


def config_diff(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Fields that differ, one line each; empty when the two are equal. Options that go with a name are left out.

    >>> config_diff({"a": 1, "o": {"lr": 0.001}}, {"o": {"lr": 0.002}, "b": "x"})
    ['a: 1 -> (absent)', 'o.lr: 0.001 -> 0.002', "b: (absent) -> 'x'"]
    >>> config_diff({"method": {"name": "full"}}, {"method": {"name": "lora", "rank": 4}})
    ["method.name: 'full' -> 'lora'", 'method.rank: (absent) -> 4']
    >>> config_diff({"method": {"name": "lora", "rank": 4}}, {"method": {"name": "full"}})
    ["method.name: 'lora' -> 'full'"]
    """
    before, after = flatten(old), flatten(new)
    lines = []
    for name in dict.fromkeys((*before, *after)):
        left, right = before.get(name, _ABSENT), after.get(name, _ABSENT)
        whose = f"{name.partition('.')[0]}.name"
        if right is _ABSENT and before.get(whose) != after.get(whose):
            continue
        if left is _ABSENT or right is _ABSENT or left != right:
            lines.append(f"{name}: {_shown(left)} -> {_shown(right)}")
    return lines


def _shown(value: Any) -> str:
    return "(absent)" if value is _ABSENT else repr(value)


def _to_tuple(value: Any) -> Any:
    return tuple(_to_tuple(item) for item in value) if isinstance(value, list | tuple) else value


def _plain(value: Any, name: str) -> Any:
    if isinstance(value, Mapping | ConfigDict):
        return {key: _plain(item, f"{name}.{key}".lstrip(".")) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, name) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise ConfigError(f"config: {name}: got {value!r}, expected a finite number, text, True, False, None or a tuple")


def _from_plain(value: dict[str, Any]) -> ConfigDict:
    config = ConfigDict()
    for name, item in value.items():
        if isinstance(item, dict):
            config[name] = _from_plain(item)
        elif item is None:
            config[name] = config_dict.FieldReference(None, field_type=object)
        else:
            config[name] = _to_tuple(item)
    return config


def _split_override(text: str) -> tuple[str, str]:
    name, equals, value = str(text).removeprefix("--").removeprefix("config.").partition("=")
    if not equals:
        raise ConfigError(f"config: {name or repr(text)}: no value; write --config.{name or 'FIELD'}=VALUE")
    return name, value


def find_file(source: str, folder: str = "configs") -> tuple[pathlib.Path, str | None]:
    """Path and variant of a source such as `scenes:frozen` or `configs/scenes.py:frozen`.

    Args:
        source: As `load_config` takes it.
        folder: Where what comes with the package lies: `configs`, `configs/sweeps`.

    Raises:
        ConfigError: There is no such file, no such name, or it is neither.
    """
    if source and "\0" not in source:
        user_path(source, "config")  # a URL is called one, whatever it ends in
    if match := re.fullmatch(r"([\w-]+)(?::(.*))?", source, re.DOTALL):
        return _named(match[1], folder), match[2] or None
    match = re.fullmatch(r"(?s)(.*\.py)(?::(.*))?", source)
    if match is None or "\0" in source:
        raise ConfigError(
            f"config: {source!r}: expected a name such as scenes or scenes:VARIANT, or a Python file such as "
            "configs/scenes.py or configs/scenes.py:VARIANT"
        )
    name, variant = match.groups()
    candidates = [user_path(name, "config"), _ROOT / name]
    for path in candidates:
        if os.path.isfile(path):
            return path.resolve(), variant or None
    near = sorted(p.name for p in candidates[-1].parent.glob("*.py")) if candidates[-1].parent.is_dir() else []
    known = f" {did_you_mean(candidates[0].name, near)}" if near else ""
    raise ConfigError(f"config: {name}: no such file (looked in {os.getcwd()} and {_ROOT}).{known}")


def packaged(folder: str = "configs") -> dict[str, pathlib.Path]:
    """The files that come with the package, by the name that `--config` takes.

    >>> "scenes" in packaged(), "paper_grid" in packaged("configs/sweeps")
    (True, True)
    """
    return {path.stem: path for path in sorted((_ROOT / folder).glob("*.py"))}


def _named(name: str, folder: str) -> pathlib.Path:
    files = packaged(folder)
    if name in files:
        return files[name]
    own = f"; to take the file, write {name}.py" if os.path.isfile(f"{name}.py") else ""
    raise ConfigError(
        f"config: '{name}': no file of that name comes with the package. {did_you_mean(name, list(files))}; a file of "
        f"your own is named by its path, with .py{own}"
    )


def call_file(path: pathlib.Path, variant: str | None, function: str = "get_config") -> Any:
    """Runs a configuration file and calls a function of it, with the variant where there is one.

    Raises:
        ConfigError: The file fails, has no such function, or takes no or another variant.
    """
    with _errors_of(path):
        called = getattr(_run(path), function, None)
        if not callable(called):
            start = "smoke.py" if function == "get_config" else "sweeps/smoke.py"
            raise ConfigError(f"config: {path}: defines no {function}(); start from {_ROOT / 'configs' / start}")
        return called(*_variant_arguments(path, called, variant))


def recipe(beside: str, name: str) -> types.ModuleType:
    """Another configuration file, for one that builds on it.

    Args:
        beside: `__file__` of the one that asks.
        name: Path of the other, relative to the folder of the first.

    Returns:
        The file as a module: `recipe(__file__, "scenes.py").get_config("full")`.

    Raises:
        ConfigError: There is no such file, or it fails.
    """
    path = pathlib.Path(beside).resolve().parent / name
    if not path.is_file():
        raise ConfigError(f"config: {beside}: no recipe '{path}'")
    with _errors_of(path):
        return _run(path)


def _run(path: pathlib.Path) -> types.ModuleType:
    # Compiled here, not imported, so that two files of one name never share a module or a stale cache.
    module = types.ModuleType("ditask_jax_config_file")
    module.__file__ = str(path)
    exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    return module


def _variant_arguments(path: pathlib.Path, called: Callable, variant: str | None) -> tuple[str, ...]:
    parameters = list(inspect.signature(called).parameters.values())
    if variant is not None and not parameters:
        raise ConfigError(f"config: {path.name}: takes no variant, got ':{variant}'; write the path alone")
    if variant is None and parameters and parameters[0].default is inspect.Parameter.empty:
        raise ConfigError(f"config: {path.name}: needs a variant; write {path.name}:{parameters[0].name.upper()}")
    return () if variant is None else (variant,)


@contextlib.contextmanager
def _errors_of(path: pathlib.Path) -> Iterator[None]:
    """Turns whatever a configuration file raises into one line that names the file and line."""
    try:
        yield
    except ConfigError:
        raise
    except SyntaxError as error:
        where = pathlib.Path(error.filename or path)
        raise ConfigError(f"config: {where.name}, line {error.lineno}: syntax error: {error.msg} ({where})") from None
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f"{path.name}, line {lines[-1]}" if lines else path.name
        raise ConfigError(f"config: {where}: {_reason(error)} ({path})") from error


def _reason(error: BaseException) -> str:
    # ml_collections lists every field with its value when a locked group is given an unknown name.
    match = re.search(r'Key "([^"]+)" does not exist', str(error))
    if match:
        return f"unknown field '{match[1]}'; {LISTED}"
    if isinstance(error, ImportError) and str(getattr(error, "name", None)).partition(".")[0] == "configs":
        return (
            "configs is no package: write `from ditask_jax.config import base_config` in place of `from configs import "
            "base`, and recipe(__file__, 'scenes.py') of the same module for another file"
        )
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
