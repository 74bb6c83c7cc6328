"""The manifest of a checkpoint: what it holds, with a hash per file and per leaf, written last and itself hashed."""

import hashlib
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ditask_jax.errors import CheckpointError, format_number
from ditask_jax.files import atomic_write_text, json_text
from ditask_jax.nn.state import flatten

# Which frozen weights a checkpoint was trained on.


def fingerprint(frozen: Mapping) -> str:
    """A hash of the frozen weights: a checkpoint belongs to one backbone.

    >>> fingerprint({"a": np.ones(2)}) == fingerprint({"a": np.ones(2)}) != fingerprint({"a": np.zeros(2)})
    True
    """
    digest = hashlib.sha256()
    for name, value in flatten(frozen).items():
        digest.update(name.encode())
        digest.update(np.asarray(_whole(value)).tobytes())
    return digest.hexdigest()


def _whole(value):
    """A weight that is spread over processes, gathered."""
    if isinstance(value, jax.Array) and not (value.is_fully_addressable or value.is_fully_replicated):
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(value, tiled=True)
    return value


# The manifest itself. A checkpoint without an intact one does not count: it is either unfinished or damaged.


class NewerManifestError(CheckpointError):
    """A manifest of a newer version: nothing is damaged, and no older checkpoint may take its place."""


MANIFEST_NAME = "manifest.json"
_FORMAT = 1


def flatten_state(state: Any) -> dict[str, Any]:
    """Leaves of a pytree by path, `"opt_state/0/mu/proj/theta"`; namedtuples, tuples and dicts alike.

    >>> sorted(flatten_state({"a": {"b": jnp.ones(2)}, "c": (jnp.ones(1),)}))
    ['a/b', 'c/0']
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    flat = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    if len(flat) != len(leaves):
        raise ValueError("two leaves of the state share one path; names must not contain '/' twice over")
    untyped = [name for name, leaf in flat.items() if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape")]
    if untyped:
        raise TypeError(f"state leaf {untyped[0]} is a {type(flat[untyped[0]]).__name__}, expected an array")
    return flat


def host_copy(state: Any) -> dict[str, np.ndarray]:
    """Copies every leaf to host memory of its own, so that donated device buffers may be reused at once.

    Only the part on this process's first device is read of an array spread over processes: what trains is replicated.
    """
    return {name: np.array(_local(name, leaf), order="C", copy=True) for name, leaf in flatten_state(state).items()}


def write_manifest(
    folder: pathlib.Path, step: int, arrays: Mapping[str, np.ndarray], meta: Any, metrics: Mapping[str, float | None]
) -> None:
    """Writes the manifest of a checkpoint folder whose arrays are complete."""
    known = {name: value for name, value in metrics.items() if value is not None and math.isfinite(value)}
    body = {
        "format": _FORMAT,
        "step": step,
        "meta": meta,
        "metrics": {name: float(value) for name, value in known.items()},
        "leaves": {
            name: {"shape": list(array.shape), "dtype": array.dtype.name, "sha256": _hash_array(array)}
            for name, array in arrays.items()
        },
        "files": {str(path.relative_to(folder)): _hash_file(path) for path in _files(folder)},
    }
    body = json.loads(json_text(body))  # as it will be read, so that the hash is of that
    atomic_write_text(folder / MANIFEST_NAME, _text(body | {"sha256": _hash_body(body)}))


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """Reads and checks the manifest of a checkpoint folder.

    Raises:
        NewerManifestError: It is of a newer format.
        CheckpointError: It is missing, unreadable or damaged.
    """
    path = folder / MANIFEST_NAME
    try:
        content = path.read_bytes()
        body = json.loads(content)
        # The text itself is compared as well: a byte that changes no value is damage all the same.
        is_whole = isinstance(body, dict) and _text(body).encode() == content
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint: {folder}: no {MANIFEST_NAME}, the save was not finished") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"checkpoint: {path}: not readable ({_one_line(error)})") from None
    if not is_whole or body.pop("sha256", None) != _hash_body(body):
        raise CheckpointError(f"checkpoint: {path}: damaged, its content does not match its own hash")
    format_number(body.get("format"), str(_FORMAT), f"checkpoint: {path}", NewerManifestError)
    return body


def check_structure(manifest: Mapping[str, Any], like: Mapping[str, Any], where: str) -> None:
    """Compares names, shapes and dtypes of a checkpoint with what the program expects.

    Args:
        manifest: As from `read_manifest`.
        like: Arrays or `jax.ShapeDtypeStruct`s by path, as from `flatten_state`.
        where: Folder and step, for the message.

    Raises:
        CheckpointError: They differ: the run folder belongs to another model or method.
    """
    leaves = manifest["leaves"]
    problems = [f"{name} is missing" for name in like if name not in leaves]
    problems += [f"{name} is unexpected" for name in leaves if name not in like]
    for name in like:
        if name in leaves:
            found = (tuple(leaves[name]["shape"]), leaves[name]["dtype"])
            wanted = (tuple(like[name].shape), np.dtype(like[name].dtype).name)
            if found != wanted:
                problems.append(f"{name} is {found[1]}{list(found[0])}, expected {wanted[1]}{list(wanted[0])}")
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            f"checkpoint: {where}: {'; '.join(problems[:3])}{more}. It was saved by another configuration: "
            "use that one or another --workdir"
        )


def check_files(manifest: Mapping[str, Any], folder: pathlib.Path, where: str) -> None:
    """Compares the files of a checkpoint with the hashes written when they were saved, before anything parses them.

    Raises:
        CheckpointError: A file is missing or not what was written.
    """
    for name, expected in manifest["files"].items():
        try:
            found = _hash_file(folder / name)
        except OSError as error:
            raise CheckpointError(f"checkpoint: {where}: {name} is not readable ({_one_line(error)})") from None
        if found != expected:
            raise CheckpointError(f"checkpoint: {where}: {name} is damaged, its content does not match its hash")


def check_hashes(manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray], where: str) -> None:
    """Compares restored arrays with the hashes written when they were saved.

    Raises:
        CheckpointError: An array is not what was saved.
    """
    for name, leaf in manifest["leaves"].items():
        array = arrays[name]
        if list(array.shape) != leaf["shape"] or array.dtype.name != leaf["dtype"]:
            raise CheckpointError(f"checkpoint: {where}: {name} came back as {array.dtype.name}{list(array.shape)}")
        if _hash_array(array) != leaf["sha256"]:
            raise CheckpointError(f"checkpoint: {where}: {name} is damaged, its values do not match their hash")


def empty_arrays(manifest: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays of the shapes and dtypes that a manifest lists, to be filled."""
    leaves = manifest["leaves"].items()
    return {name: np.zeros(tuple(leaf["shape"]), jnp.dtype(leaf["dtype"])) for name, leaf in leaves}


def _local(name: str, leaf: Any) -> Any:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        if not leaf.is_fully_replicated:
            raise ValueError(f"state leaf {name} is split over processes; only replicated arrays are saved")
        return leaf.addressable_data(0)
    return leaf


def _hash_array(array: np.ndarray) -> str:
    # A byte view works for every dtype, bfloat16 included, where the buffer protocol does not.
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8)).hexdigest()


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")


def _hash_file(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_body(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _text(body: Mapping[str, Any]) -> str:
    return json_text(body, indent=2) + "\n"


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
