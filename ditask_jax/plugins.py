"""Files of a user's own that add tasks, methods, backbones and data sets: named by a variable, imported once.

`DITASK_PLUGINS=my_task.py:my_method.py python -m ditask_jax.train ...` works for every command and is handed down to
loader processes, sweeps and the tasks of a cluster. Code is never read from where a run's folder points.
"""

import importlib
import os
import pathlib
import re
import sys
import traceback
import types

from ditask_jax.errors import ConfigError, DitaskError
from ditask_jax.files import user_path

VARIABLE = "DITASK_PLUGINS"
# File of every plugin that was imported -> the name it was given by; a package is its folder.
_FILES: dict[str, str] = {}


def load_plugins(names: str | None = None) -> list[types.ModuleType]:
    """Imports plugins; one that was imported before is left as it is.

    Args:
        names: Python files, or dotted names of installed modules, joined by ":" (`os.pathsep`); None: those of the
            environment variable `DITASK_PLUGINS`.

    Returns:
        The modules, in order.

    Raises:
        ConfigError: A file is missing, fails, or has the name of another module.

    >>> [module.__name__ for module in load_plugins("json")]
    ['json']
    >>> load_plugins("my_tusk.py")
    Traceback (most recent call last):
    ...
    ditask_jax.errors.ConfigError: plugins: my_tusk.py: no such file; DITASK_PLUGINS names Python files or modules
    """
    text = os.environ.get(VARIABLE, "") if names is None else names
    # Before the text is cut at its colons.
    for name in re.findall(r"(?:[A-Za-z][A-Za-z0-9+.-]*://|(?<![\w.])(?i:file):/)[^:]*", text):
        user_path(name, f"plugins ({VARIABLE})")
    return [_load(name.strip()) for name in text.split(os.pathsep) if name.strip()]


def place_of(error: BaseException) -> str | None:
    """Where in a plugin something was raised, or passed through last: "people.py, line 31, in loss"; None: nowhere.

    >>> place_of(ValueError("ours")) is None
    True
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            shown = _shown(frame.filename)
            if shown is not None:
                inside = f", in {frame.name}" if frame.name != "<module>" else ""
                return f"{shown}, line {frame.lineno}{inside}"
        error = error.__cause__ or error.__context__
    return None


def _shown(filename: str) -> str | None:
    for file, name in _FILES.items():
        if filename == file:
            return name
        if filename.startswith(file + os.sep):
            return os.path.join(name, os.path.relpath(filename, file))
    return None


def _load(name: str) -> types.ModuleType:
    if not name.endswith(".py"):
        return _imported(name, name)
    path = user_path(name, f"plugins ({VARIABLE})").resolve()
    if not path.is_file():
        raise ConfigError(f"plugins: {name}: no such file; {VARIABLE} names Python files or modules")
    if not path.stem.isidentifier():
        raise ConfigError(f"plugins: {name}: a file's name is made of letters, digits and _, and ends in .py")
    # Imported under its own name, from a folder on the path, so that loader processes find what they are sent.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    _FILES[str(path)] = name
    module = _imported(path.stem, name)
    if pathlib.Path(getattr(module, "__file__", None) or ".").resolve() != path:
        raise ConfigError(f"plugins: {name}: there is another module '{path.stem}'; give the file a name of its own")
    return module


def _imported(module: str, shown: str) -> types.ModuleType:
    try:
        found = importlib.import_module(module)
    except DitaskError as error:
        raise type(error)(f"plugins: {place_of(error) or shown}: {error}") from error
    except SyntaxError as error:
        # It stands where the file could not be read, in this one or in one that it imports.
        where = f"{_shown(error.filename or '') or error.filename or shown}, line {error.lineno}"
        raise ConfigError(f"plugins: {where}: {type(error).__name__}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split())[:300]
        if isinstance(error, ImportError) and str(error.name).partition(".")[0] == "ditask_jax":
            text += "; CHANGELOG.md says what moved in version 0.2"
        raise ConfigError(f"plugins: {place_of(error) or shown}: {type(error).__name__}: {text}") from error
    file = pathlib.Path(getattr(found, "__file__", None) or ".").resolve()
    _FILES.setdefault(str(file.parent if file.name == "__init__.py" else file), shown)
    return found
