"""Weights wherever they are: a file of ours, a foreign one as it is, or either on a model hub.

A foreign file is converted once into the user's cache, under the hash of its content.
"""

import contextlib
import dataclasses
import errno
import logging
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import safetensors
from safetensors import SafetensorError

from ditask_jax.conversion.importing import Conversion, convert_weights
from ditask_jax.conversion.weight_sources import printable
from ditask_jax.errors import WeightsError
from ditask_jax.factors import default_cache_dir
from ditask_jax.files import locked
from ditask_jax.hub.addresses import HubAddress, cached, sha256_of
from ditask_jax.hub.transfers import fetch, to_stderr
from ditask_jax.weight_files import PYTORCH, SAFETENSORS, file_kind, read_weights

_log = logging.getLogger(__name__)
# Part of the names in the cache: raise it when the same file would be converted to something else.
_VERSION = 1
_PATIENCE = 3600.0


@dataclasses.dataclass(frozen=True)
class Obtained:
    """Weights under our names.

    Attributes:
      arrays: by path.
      metadata: what their file says about itself.
      source: the file or, of a hub, the address with commit and file.
      sha256: of the file that was given, or came from a hub; None for a file of ours on this machine.
    """

    arrays: Mapping[str, np.ndarray]
    metadata: Mapping[str, str]
    source: Path | HubAddress
    sha256: str | None


def obtain_weights(
    place: Path | HubAddress, architecture: str | None = None, say: Callable[[str], None] = to_stderr
) -> Obtained:
    """Reads weights, fetched and converted first where that is needed.

    Args:
      place: a file, or an address on a hub.
      architecture: the backbone they are for, which tells what shapes do not; a file of another one is read all the
        same, as what its shapes say.
      say: is called with a line for what is downloaded or converted.

    Raises:
      WeightsError: they cannot be had or read, or are of no known layout.
      OSError: a disk is full.
    """
    if not isinstance(place, HubAddress):
        if not is_foreign(place):
            return Obtained(*read_weights(place), place.absolute(), None)
        return _converted(place, place.absolute(), sha256_of(place), architecture, say)
    found = fetch(place, say)
    if not is_foreign(found.path):
        return Obtained(*read_weights(found.path), found.address, found.sha256)
    return _converted(found.path, found.address, found.sha256, architecture, say)


def at_hand(place: Path | HubAddress) -> Path | None:
    """The file that `obtain_weights` would read, where no network is needed for that; None otherwise.

    Raises:
      WeightsError: a copy in the cache is damaged.
    """
    if not isinstance(place, HubAddress):
        return place
    found = cached(place)
    return found and found.path


def is_foreign(path: Path) -> bool:
    """Whether a file is one that is to be converted: of PyTorch, or safetensors of another program."""
    if path.name.endswith(".index.json") and path.is_file():
        return True
    kind = file_kind(path)
    if kind != SAFETENSORS:
        return kind == PYTORCH
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return not (file.metadata() or {}).get("format", "").startswith("ditask_jax/")
    except (OSError, SafetensorError, ValueError, TypeError):
        return False  # damaged: the reader of our files says how


def _converted(
    path: Path, source: Path | HubAddress, sha256: str, architecture: str | None, say: Callable[[str], None]
) -> Obtained:
    with contextlib.ExitStack() as stack:
        wanted = re.sub(r"[^A-Za-z0-9_.-]", "_", architecture or "any")
        kept = _place(f"{sha256}.{wanted}.v{_VERSION}.safetensors", stack)
        found = _read(kept)
        if found is None:
            conversion = _convert(path, architecture, source)
            for line in conversion.summary().splitlines():
                say(f"weights: {printable(str(source))}: {line}")
            conversion.write(kept)
            found = read_weights(kept)
    arrays, metadata = found
    return Obtained(arrays, metadata, source, sha256)


def _place(name: str, stack: contextlib.ExitStack) -> Path:
    """Where a converted file belongs, held against other processes; in a folder for now where there is no cache."""
    cache = default_cache_dir()
    path = cache and cache / "weights" / name
    if path is not None and not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock, wait = path.with_name(f".{name}.lock"), {"nested": True, "patience": _PATIENCE}
            stack.enter_context(locked(lock, "weights", "conversion", "wait for it", WeightsError, **wait))
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR):
                raise
            _log.warning("cache: cannot use folder %s: %s; converting anew every time", path.parent, error.strerror)
            path = None
    return path or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ditask-weights-"))) / name


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]] | None:
    if not path.is_file():
        return None
    try:
        return read_weights(path)
    except WeightsError as error:
        _log.warning("cache: %s; converting once more", error)
        return None


def _convert(path: Path, architecture: str | None, source: Path | HubAddress) -> Conversion:
    """The conversion as the architecture that is wanted or, of another one, as what the shapes say."""
    try:
        try:
            found = convert_weights(path, architecture)
        except WeightsError:
            if architecture is None:
                raise
            found = convert_weights(path)
    except WeightsError as error:
        text = str(error).replace(f"source: '{path}'", f"weights: '{source}'", 1)
        advice = "; it is an option of python -m ditask_jax.convert" if "--state" in text or "--image" in text else ""
        raise WeightsError(text + advice) from None
    metadata = dict(found.metadata) | {
        "source": printable(str(source) if isinstance(source, HubAddress) else path.name)
    }
    return dataclasses.replace(found, metadata=metadata)
