"""Weight files: safetensors with our names, a description and a checksum, read strictly."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ditask_jax.errors import WeightsError, did_you_mean
from ditask_jax.files import atomic_write_bytes
from ditask_jax.nn.state import flatten, unflatten

FORMAT = "ditask_jax/weights/1"


def checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of arrays, in order of name.

    >>> checksum({"a": np.zeros(2)}) == checksum({"a": np.zeros(2)}) != checksum({"b": np.zeros(2)})
    True
    """
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(json.dumps([name, str(array.dtype), list(array.shape)]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def write_weights(path: Path, arrays: Mapping[str, np.ndarray], **metadata: str) -> None:
    """Writes arrays and their checksum atomically."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())}
    described = {"format": FORMAT, "checksum": checksum(contiguous), **metadata}
    atomic_write_bytes(Path(path), save(contiguous, metadata=described))


def read_weights(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and metadata of a weight file.

    Raises:
      WeightsError: missing, truncated, of a foreign layout, or with numbers that do not match the checksum.
    """
    path = Path(path)
    if not path.is_file():
        near = did_you_mean(path.name, sorted(p.name for p in path.parent.glob("*.safetensors")))
        raise WeightsError(f"weights: no file '{path}'. {near}; give backbone.weights an existing .safetensors file")
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, OSError) as error:
        raise WeightsError(f"weights: '{path}' is damaged or no safetensors file ({error}); fetch it again") from error
    if metadata.get("format") != FORMAT:
        raise WeightsError(
            f"weights: '{path}' has layout '{metadata.get('format', 'unknown')}', expected '{FORMAT}'; "
            "it was not written by this package"
        )
    if metadata.get("checksum") != checksum(arrays):
        raise WeightsError(f"weights: '{path}' is damaged: its numbers do not match its checksum; fetch it again")
    return arrays, metadata


def assign(module: nnx.Module, arrays: Mapping[str, np.ndarray], what: str = "weights", prefix: str = "") -> None:
    """Sets variables of a module by flat path, in place.

    Args:
      module: its variables below `prefix` must be given exactly.
      arrays: by `/`-joined path.
      what: name of the source in errors.
      prefix: only variables under this path are expected, as in "backbone/".

    Raises:
      WeightsError: missing, unexpected or misshapen entries, all named in one report.
    """
    state = nnx.state(module)
    pure = nnx.to_pure_dict(state)
    known = flatten(pure)
    expected = {path for path in known if path.startswith(prefix)}
    missing, unexpected = sorted(expected - set(arrays)), sorted(set(arrays) - set(known))
    shapes = [
        f"{path}: got {arrays[path].shape}, expected {known[path].shape}"
        for path in sorted(set(known) & set(arrays))
        if tuple(arrays[path].shape) != tuple(known[path].shape)
    ]
    problems = _some("missing", missing) + _some("unexpected", unexpected) + _some("wrong shape", shapes)
    if problems:
        raise WeightsError(f"{what} do not fit the model: {'; '.join(problems)}")
    new = {path: jnp.asarray(arrays[path], known[path].dtype) if path in arrays else known[path] for path in known}
    nnx.replace_by_pure_dict(state, unflatten(new, pure))
    nnx.update(module, state)


def fit_backbone(module: nnx.Module, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Resizes relative-position tables to the windows of a module (bicubic, as PyTorch does); the rest passes through.

    A table has `(2 window - 1)**2` rows. Windows differ when the image size clips them, or by design.
    """
    known = flatten(nnx.to_pure_dict(nnx.state(module)))
    fitted = dict(arrays)
    for name, table in arrays.items():
        if not name.endswith("relative_position_bias_table") or name not in known:
            continue
        rows, heads = known[name].shape
        if table.shape[0] != rows and table.shape[1] == heads:
            old, new = round(table.shape[0] ** 0.5), round(rows**0.5)
            square = jnp.asarray(table, jnp.float32).reshape(old, old, heads)
            resized = jax.image.resize(square, (new, new, heads), jax.image.ResizeMethod.CUBIC_PYTORCH, antialias=False)
            fitted[name] = np.asarray(resized.reshape(rows, heads))
    return fitted


def _some(kind: str, names: list[str], limit: int = 4) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return [f"{len(names)} {kind}: {', '.join(names[:limit])}{more}"]
