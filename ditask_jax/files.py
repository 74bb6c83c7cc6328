"""Small files written so that a reader or a killed process never meets half of one."""

import json
import math
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any, BinaryIO


def atomic_write(path: str | os.PathLike, write: Callable[[BinaryIO], Any]) -> pathlib.Path:
    """Writes a file by way of a temporary neighbour and a rename; it holds the old content or the new, never a part.

    Args:
        path: Target file; missing parent folders are made.
        write: Called with the open binary file.

    Returns:
        The path.

    Raises:
        OSError: The folder cannot be written or the disk is full; the old file is then untouched.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private to the user; results are shared like any other file.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    return path


def user_path(path: str | os.PathLike) -> pathlib.Path:
    """A path with `~` as the home folder; the `~name` of a user who does not exist is a name like any other.

    >>> user_path("~nobody-of-that-name/x").as_posix()
    '~nobody-of-that-name/x'
    """
    return pathlib.Path(os.path.expanduser(path))


def atomic_write_bytes(path: str | os.PathLike, content: bytes) -> pathlib.Path:
    """Writes bytes atomically; see `atomic_write`."""
    return atomic_write(path, lambda file: file.write(content))


def atomic_write_text(path: str | os.PathLike, text: str) -> pathlib.Path:
    """Writes UTF-8 text atomically; see `atomic_write`.

    Bytes of a file's name that are no UTF-8 are written as `\\udcXX`, from which JSON gets the name back.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     atomic_write_text(pathlib.Path(folder) / "new" / "note.txt", "whole").read_text(encoding="utf-8")
    'whole'
    """
    return atomic_write_bytes(path, text.encode("utf-8", "backslashreplace"))


def atomic_write_json(path: str | os.PathLike, value: Any) -> pathlib.Path:
    """Writes a value as indented JSON, atomically; see `json_text`."""
    return atomic_write_text(path, json_text(value, indent=2) + "\n")


def json_text(value: Any, indent: int | None = None, *, ascii: bool = False) -> str:
    """A value as JSON; numbers keep every bit (`repr` form) and key order is kept.

    NaN and infinities, which JSON does not have and other readers refuse, are unknown values: null. Everything that
    this package writes as JSON follows that rule; read it by `parse_json`.

    Args:
        value: Dicts, lists, tuples, texts, numbers, booleans and None.
        indent: Spaces per level; None: one line.
        ascii: Whether other letters are escaped, for a place that may not take them.

    >>> json_text({"rmse": float("inf"), "mIoU": [0.1, float("nan")]})
    '{"rmse": null, "mIoU": [0.1, null]}'
    """
    value = _without_nonfinite(value)
    text = json.dumps(value, indent=indent, ensure_ascii=ascii, allow_nan=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # the name of a file that is no UTF-8: escaped, it comes back as it was
        text = json.dumps(value, indent=indent, allow_nan=False)
    return text


def parse_json(text: str | bytes) -> Any:
    """Reads JSON; the NaN and Infinity of files written before 0.2 become None, as `json_text` has it.

    Raises:
        ValueError: it is no JSON.

    >>> parse_json('{"rmse": Infinity, "mIoU": NaN}')
    {'rmse': None, 'mIoU': None}
    """
    return json.loads(text, parse_constant=lambda _: None)


def _without_nonfinite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nonfinite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nonfinite(entry) for entry in value]
    return value


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _sync_folder(folder: pathlib.Path) -> None:
    """Makes a rename itself durable, where the file system lets a folder be opened."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        return  # some network file systems refuse to sync a folder; the rename has happened all the same
    finally:
        os.close(descriptor)
