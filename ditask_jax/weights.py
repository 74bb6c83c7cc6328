"""Filling models from weight files, strictly; tables are resized where a model has other windows or grids."""

import json
import math
from collections.abc import Mapping

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ditask_jax.errors import ConfigError, WeightsError
from ditask_jax.nn.attention import Gridded, GridRows, fit_rows
from ditask_jax.nn.state import flatten, unflatten
from ditask_jax.weight_files import checksum, read_weights, some, write_weights

__all__ = ["assign", "checksum", "described_images", "fit_backbone", "read_weights", "write_weights"]


def assign(module: nnx.Module, arrays: Mapping[str, np.ndarray], what: str = "weights", prefix: str = "") -> None:
    """Sets variables of a module by flat path, in place.

    Args:
      module: its variables below `prefix` must be given exactly.
      arrays: by `/`-joined path.
      what: name of the source in errors.
      prefix: only variables under this path are expected, as in "backbone/".

    Raises:
      WeightsError: missing, unexpected or misshapen entries, all named in one report; or the call is being traced by
        `jax.jit`, and the module is not.
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
    problems = some("missing", missing) + some("unexpected", unexpected) + some("wrong shape", shapes)
    if problems:
        raise WeightsError(f"{what} do not fit the model: {'; '.join(problems)}")
    given = {path: _as_value(arrays[path], known[path].dtype) for path in known if path in arrays}
    nnx.replace_by_pure_dict(state, unflatten(known | given, pure))
    try:
        nnx.update(module, state)
    except flax.errors.TraceContextError:
        raise WeightsError(
            f"{what}: assigned inside jax.jit (or grad, vmap, ...) to a model from outside, where they would be lost; "
            "load the weights before, or create the model inside too"
        ) from None


def _as_value(array: np.ndarray | jax.Array, dtype: np.dtype) -> jax.Array:
    if isinstance(array, jax.core.Tracer):
        return array.astype(dtype)
    with jax.ensure_compile_time_eval():  # a value, not a step of the program that may be being traced
        return jnp.asarray(array, dtype)


def described_images(
    metadata: Mapping[str, str], where: str
) -> tuple[tuple[int, int] | None, dict[str, tuple[float, ...]]]:
    """What a weight file says of the images it was trained on: (height, width) or None, and "mean" and "std".

    Raises:
      WeightsError: it says something that is neither.

    >>> described_images({"image_size": "224", "mean": "[0.5, 0.5, 0.5]"}, "it")
    ((224, 224), {'mean': (0.5, 0.5, 0.5)})
    """
    size = _numbers(metadata, "image_size", 2, where)
    statistics = {name: _numbers(metadata, name, 3, where) for name in ("mean", "std") if name in metadata}
    return size and (int(size[0]), int(size[1])), statistics


def _numbers(metadata: Mapping[str, str], name: str, count: int, where: str) -> tuple[float, ...] | None:
    """`count` finite numbers of a description, above 0 but for the mean; None where it has none of that name."""
    if name not in metadata:
        return None
    try:
        value = json.loads(metadata[name])
        numbers = tuple(value) if isinstance(value, list) else (value,) * count
        usable = all(type(n) in (int, float) and math.isfinite(n) and (n > 0 or name == "mean") for n in numbers)
    except (ValueError, OverflowError, RecursionError):
        usable, numbers = False, ()
    if not usable or len(numbers) != count:
        raise WeightsError(f"{where}: its description has {name} {metadata[name][:40]!r}, which cannot be used")
    return numbers


def _grid_rows(backbone: Gridded, image_size: tuple[int, int] | None) -> dict[str, GridRows]:
    try:
        return backbone.grid_rows(image_size) if image_size else {}
    except ConfigError:
        return {}  # the file is of another architecture, which `assign` reports in full


def fit_backbone(
    module: nnx.Module, arrays: Mapping[str, np.ndarray], image_size: tuple[int, int] | None = None
) -> dict[str, np.ndarray]:
    """Moves what has a row per cell of a grid to the grids of a module's backbone; the rest passes through untouched.

    A backbone says itself which of its variables those are and how they are resized (`Gridded.grid_rows`):
    relative-position tables where windows differ, position embeddings where grids do.

    Args:
      module: a backbone, or a model with one.
      arrays: by path in the module.
      image_size: (height, width) that the arrays were made for, where that is known; otherwise grids are square.
    """
    fitted = dict(arrays)
    for path, part in nnx.iter_modules(module):
        if not isinstance(part, Gridded):
            continue
        made_for = _grid_rows(part, image_size)
        for name, here in part.grid_rows().items():
            full = "/".join([*map(str, path), name])
            if full in arrays:
                fitted[full] = fit_rows(arrays[full], here, made_for.get(name))
    return fitted
