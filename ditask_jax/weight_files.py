"""Our weight files: safetensors with our names, a description, and a hash for every tensor; read strictly.

Names, types, shapes and numbers of each tensor have a hash of their own, and the description, hashes included, has
one too: nothing in a file can change unnoticed, and an error says which tensor it is.
"""

import hashlib
import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ditask_jax.errors import WeightsError, did_you_mean
from ditask_jax.files import atomic_write_bytes, user_path
from ditask_jax.tensors import PYTORCH, SAFETENSORS, encode_tensors, file_kind, read_tensors

FORMAT = "ditask_jax/weights/2"
# One checksum over all arrays and none over the description.
FIRST_FORMAT = "ditask_jax/weights/1"
_PART = re.compile(r"[A-Za-z0-9_.-]+")
_SHOWN = 4


def tensor_hash(name: str, array: np.ndarray) -> str:
    """SHA-256 over a tensor's name, type, shape and bytes.

    >>> tensor_hash("a", np.zeros(2)) == tensor_hash("a", np.zeros(2)) != tensor_hash("a", np.zeros((1, 2)))
    True
    """
    digest = hashlib.sha256()
    _update(digest, name, array)
    return digest.hexdigest()


def checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of arrays, in order of name.

    >>> checksum({"a": np.zeros(2)}) == checksum({"a": np.zeros(2)}) != checksum({"b": np.zeros(2)})
    True
    """
    digest = hashlib.sha256()
    for name in sorted(arrays):
        _update(digest, name, arrays[name])
    return digest.hexdigest()


def write_weights(path: Path | str, arrays: Mapping[str, np.ndarray], **metadata: str) -> None:
    """Writes arrays, their hashes and a description atomically.

    Args:
      path: the file; a symbolic link is replaced, not followed.
      arrays: by `/`-joined path; every type that a safetensors file can hold keeps its bits.
      metadata: texts by name; `format`, `hashes` and `checksum` are taken.

    Raises:
      OSError: the file cannot be written; an older one is then untouched.
    """
    bad = [name for name in arrays if not _is_path(name)]
    if bad or metadata.keys() & {"format", "hashes", "checksum"}:
        raise ValueError(f"names that a weight file cannot hold: {bad or sorted(metadata)}")
    hashes = {name: tensor_hash(name, np.asarray(array)) for name, array in sorted(arrays.items())}
    # Readers of safetensors take UTF-8 alone; the name of a file may be none.
    texts = {name: text.encode("utf-8", "replace").decode() for name, text in metadata.items()}
    described = {"format": FORMAT, "hashes": json.dumps(hashes, separators=(",", ":"), allow_nan=False), **texts}
    described["checksum"] = _describe(described)
    atomic_write_bytes(path, encode_tensors(arrays, described))


def read_weights(path: Path | str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and description of a weight file.

    Raises:
      WeightsError: missing, truncated, of a foreign layout, or with numbers that do not match their hashes; all
        damaged tensors are named.
    """
    path = user_path(path, "weights")
    if not path.is_file():
        near = did_you_mean(path.name, sorted(p.name for p in path.parent.glob("*.safetensors")))
        raise WeightsError(f"weights: no file '{path}'. {near}; give backbone.weights an existing .safetensors file")
    where = f"weights: '{path}'"
    kind = file_kind(path)
    if kind == PYTORCH:
        raise WeightsError(f"{where} is {kind} that is not converted yet; {_conversion(path)}")
    if kind not in (None, SAFETENSORS):
        raise WeightsError(f"{where} is {kind}; expected a file that python -m ditask_jax.convert wrote")
    arrays, metadata = read_tensors(path, where)
    found = metadata.get("format", "unknown")
    if found == FIRST_FORMAT:
        if metadata.get("checksum") != checksum(arrays):
            raise WeightsError(f"{where} is damaged: its numbers do not match its checksum; fetch it again")
        return arrays, metadata
    if found != FORMAT:
        if found.startswith("ditask_jax/"):
            raise WeightsError(
                f"{where} is of format '{found}', expected '{FORMAT}'; update the package, or give another"
            )
        raise WeightsError(
            f"{where} is a safetensors file of another program (format '{found}'): it was not written by this package; "
            f"{_conversion(path)}"
        )
    _verify(arrays, metadata, where)
    return arrays, {name: text for name, text in metadata.items() if name != "hashes"}


def _conversion(path: Path) -> str:
    """What to do about a file of another code base: the very command."""
    stem = path.name
    while stem.lower().endswith((".pth", ".pt", ".bin", ".ckpt", ".tar", ".safetensors")):
        stem = stem[: stem.rindex(".")]
    out = path.with_name(f"{stem or 'weights'}.safetensors")
    if out.exists():
        out = path.with_name(f"{stem or 'weights'}.ditask.safetensors")
    names = " ".join(shlex.quote(str(name)) for name in (path, out))
    return f"run python -m ditask_jax.convert {names} and give {shlex.quote(str(out))} as weights"


def _verify(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str], where: str) -> None:
    described = {name: text for name, text in metadata.items() if name != "checksum"}
    if metadata.get("checksum") != _describe(described):
        raise WeightsError(f"{where} is damaged: its description does not match its checksum; fetch it again")
    try:
        hashes = dict(json.loads(metadata["hashes"]).items())
    except (KeyError, ValueError, AttributeError, RecursionError):
        raise WeightsError(f"{where} has no usable list of hashes; it was not written by this package") from None
    missing, unexpected = sorted(set(hashes) - set(arrays)), sorted(set(arrays) - set(hashes))
    damaged = [name for name in sorted(set(hashes) & set(arrays)) if tensor_hash(name, arrays[name]) != hashes[name]]
    problems = some("missing", missing) + some("unexpected", unexpected) + some("with other numbers", damaged)
    if problems:
        raise WeightsError(f"{where} is damaged: {'; '.join(problems)}; fetch it again")


def some(kind: str, names: list[str], limit: int = _SHOWN) -> list[str]:
    """`["2 missing: a, b"]`, cut to the first names; empty for none.

    >>> some("missing", ["a", "b", "c"], limit=2)
    ['3 missing: a, b and 1 more']
    """
    if not names:
        return []
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return [f"{len(names)} {kind}: {', '.join(names[:limit])}{more}"]


def _is_path(name: str) -> bool:
    """Whether every part of a `/`-joined name is a plain word: no empty ones, no `..`."""
    return all(_PART.fullmatch(part) and part.strip(".") for part in name.split("/"))


def _describe(described: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(described), sort_keys=True, allow_nan=False).encode()).hexdigest()


def _update(digest, name: str, array: np.ndarray) -> None:
    array = np.asarray(array)
    digest.update(json.dumps([name, str(array.dtype), list(array.shape)], allow_nan=False).encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
