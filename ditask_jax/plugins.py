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
    for name in re.findall(r"[A-Za-z][A-Za-z0-9+.-]*://[^:]*", text):
        user_path(name, f"plugins ({VARIABLE})")
    return [_load(name.strip()) for name in text.split(os.pathsep) if name.strip()]


def _load(name: str) -> types.ModuleType:
    if not name.endswith(".py"):
        return _imported(name, name)
    path = user_path(name, f"plugins ({VARIABLE})").resolve()
    if not path.is_file():
        raise ConfigError(f"plugins: {name}: no such file; {VARIABLE} names Python files or modules")
    # Imported under its own name, from a folder on the path, so that loader processes find what they are sent.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    module = _imported(path.stem, name)
    if pathlib.Path(getattr(module, "__file__", None) or ".").resolve() != path:
        raise ConfigError(f"plugins: {name}: there is another module '{path.stem}'; give the file a name of its own")
    return module


def _imported(module: str, shown: str) -> types.ModuleType:
    try:
        return importlib.import_module(module)
    except DitaskError as error:
        raise type(error)(f"plugins: {shown}: {error}") from error
    except (Exception, SystemExit) as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(shown)]
        where = f"{shown}, line {frames[-1].lineno}" if frames else shown
        raise ConfigError(f"plugins: {where}: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
