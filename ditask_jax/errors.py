"""Errors that a person reads: one line each, saying what, where, got, expected and the next step."""

import contextlib
import difflib
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import Any


class DitaskError(Exception):
    """Base of every error caused by input rather than by a bug: one line and exit code 2 on the command line."""


class ConfigError(DitaskError):
    """A configuration field, name or combination that cannot be used."""


class DataError(DitaskError):
    """A data set, image or label file that is missing, unreadable or inconsistent."""


class WeightsError(DitaskError):
    """A weight or adapter file that is missing, damaged or of another model."""


class CheckpointError(DitaskError):
    """A run folder or checkpoint that cannot be used as asked."""


class OutputWarning(UserWarning):
    """Something a command can do without, a figure or a card beside its scores, could not be made."""


@contextlib.contextmanager
def optional(what: str) -> Iterator[None]:
    """Around what a command can do without: should it fail, for whatever reason, that is one warning and no end.

    Only for what comes on top of results that are already in files, as nobody wants to lose an hour's training to a
    font. The one place where any error is taken; tests run with warnings as errors, so that bugs are noticed there.
    `DITASK_TRACEBACK=1` lets the error through.

    Args:
        what: Is not made, for example `"figure runs/x/figures/evaluation.png"`.

    >>> with warnings.catch_warnings(record=True) as shown:
    ...     warnings.simplefilter("always")
    ...     with optional("figure x.png"):
    ...         raise OSError(28, "No space left on device")
    >>> str(shown[0].message)
    'figure x.png was not made: OSError: [Errno 28] No space left on device; DITASK_TRACEBACK=1 shows where'
    """
    try:
        yield
    except Exception as error:
        if os.environ.get("DITASK_TRACEBACK") == "1":
            raise
        kind = "" if isinstance(error, DitaskError) else f"{type(error).__name__}: "
        reason = " ".join(str(error).split())[:300]
        text = " ".join(f"{what} was not made: {kind}{reason}; DITASK_TRACEBACK=1 shows where".split())
        warnings.warn(OutputWarning(text), stacklevel=3)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns `"Did you mean 'x'? Known: x y z"` for an unknown name.

    >>> did_you_mean("semsge", ["semseg", "depth"])
    "Did you mean 'semseg'? Known: semseg depth"
    >>> did_you_mean("zzz", ["semseg", "depth"])
    'Known: semseg depth'
    """
    names = [str(k) for k in known]
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"Did you mean '{near[0]}'? " if near else ""
    return f"{hint}Known: {' '.join(names)}"


def check_known(field: str, name: str, known: Iterable[str], error: type[DitaskError] = ConfigError) -> None:
    """Raises `error` naming `field` unless `name` is one of `known`.

    >>> check_known("config: head", "hrnet", ["hrnet"])
    >>> check_known("config: head", "hrnt", ["hrnet"])
    Traceback (most recent call last):
    ...
    ditask_jax.errors.ConfigError: config: head: unknown name 'hrnt'. Did you mean 'hrnet'? Known: hrnet
    """
    names = list(known)
    if name not in names:
        raise error(f"{field}: unknown name '{name}'. {did_you_mean(name, names)}")


def format_number(found: Any, newest: str, where: str, error: type[DitaskError]) -> int:
    """The number of a file's format, such as 2 of `"ditask_jax/weights/2"`; 1 for a file that states none, as of 0.1.

    Args:
        found: What the file states; None for nothing.
        newest: The newest format that this version reads.
        where: Names the file.
        error: Raised for a newer format and for a file of another kind.

    >>> format_number("ditask_jax/weights/1", "ditask_jax/weights/2", "weights: 'w.safetensors'", WeightsError)
    1
    >>> format_number("ditask_jax/weights/3", "ditask_jax/weights/2", "weights: 'w.safetensors'", WeightsError)
    Traceback (most recent call last):
    ...
    ditask_jax.errors.WeightsError: weights: 'w.safetensors' has format 3, this version reads formats up to 2; update \
ditask_jax
    """
    if found is None:
        return 1
    (kind, _, number), (known, _, most) = str(found).rpartition("/"), newest.rpartition("/")
    if kind != known or not number.isdecimal():
        raise error(f"{where} has format '{str(found)[:100]}', expected '{newest}'")
    if int(number) > int(most):
        raise error(f"{where} has format {number}, this version reads formats up to {most}; update ditask_jax")
    return int(number)


def same_definition(one: type, other: type) -> bool:
    """Whether two classes come from one definition, as when a notebook's cell runs again or a decorator makes anew.

    >>> same_definition(ConfigError, DataError), same_definition(ConfigError, ConfigError)
    (False, True)
    """
    return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)


def defined_in(thing: Any) -> str:
    """Where a class, or that of an object, or a function is defined, for a message: class and file.

    >>> import json
    >>> defined_in(json.JSONDecoder())
    "JSONDecoder of 'decoder.py'"
    """
    kind = thing if hasattr(thing, "__qualname__") else type(thing)
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return f"{kind.__qualname__} of '{file.replace(chr(92), '/').rpartition('/')[2] if file else kind.__module__}'"
