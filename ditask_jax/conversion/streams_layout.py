"""The `ditask` export: a whole multi-task model for PyTorch, one kernel per stream where streams differ.

Names follow the training checkpoints of DiTASK and MTLoRA: `backbone.`, `downsampler.TASK.`, `decoders.decoders.TASK.`.
A layer whose streams differ has `NAME.streams.STREAM.weight` for each of them in place of `NAME.weight`, with
"shared" or a task's name for STREAM. With MTLoRA it also has `NAME.from_shared.weight`, by which the shared stream's
input is multiplied on behalf of every stream. docs/weights.md has a reader.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ditask_jax.backbones import backbone_entry
from ditask_jax.backbones.swin import SwinConfig
from ditask_jax.conversion import pyramid, vit_layouts
from ditask_jax.conversion.multitask import DITASK
from ditask_jax.conversion.multitask_names import DECODERS
from ditask_jax.conversion.names import CONVOLUTION, SAME, TRANSPOSE, Table
from ditask_jax.conversion.swin_buffers import swin_buffers
from ditask_jax.errors import WeightsError
from ditask_jax.files import json_text
from ditask_jax.model import MultiTaskModel
from ditask_jax.nn.linear import linears
from ditask_jax.nn.state import flatten, split_state

FORMAT = "ditask_jax/export/1"
# Families whose code bases have names of their own; any other backbone keeps ours, joined by dots.
_LAYOUTS = (DITASK, pyramid.PVT_OFFICIAL, pyramid.PVT_V2_OFFICIAL, vit_layouts.TIMM)
_OURS = Table([])
_DECODERS = Table(DECODERS)
_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "variance": "running_var"}


def stream_tensors(merged: MultiTaskModel) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and description of a merged model.

    Raises:
      WeightsError: two arrays would have the same name.
    """
    config = backbone_entry(merged.recipe.backbone).config
    table = next((l.table for l in _LAYOUTS if isinstance(config, l.family.config_class)), _OURS)
    fanned = {f"{l.info.path}/kernel": l.merged_streams for l in linears(merged.backbone) if l.kernel.ndim == 3}
    tensors: dict[str, np.ndarray] = {}
    everything = _everything(merged)
    for path, value in everything.items():
        for name, array in _named(path, np.asarray(value), table, fanned.get(path), everything).items():
            if name in tensors:
                raise WeightsError(f"export: two arrays of the model would be called '{name}'")
            tensors[name] = array
    if isinstance(config, SwinConfig):
        buffers = swin_buffers(config, merged.recipe.image_size)
        tensors |= {f"backbone.{name}": array for name, array in buffers.items()}
    return tensors, {"format": "pt", "layout": FORMAT, "model": json_text(_describe(merged, config))}


def _everything(merged: MultiTaskModel) -> dict[str, Any]:
    parts = split_state(merged)
    return {path: v for tree in (parts.trainable, parts.frozen, parts.stats) for path, v in flatten(tree).items()}


def _named(
    path: str, value: np.ndarray, table: Table, streams: tuple[str, ...] | None, everything: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Their names and tensors of one of our arrays."""
    if streams:
        name = _named(path, value[0], table, None, everything)
        stem = next(iter(name)).removesuffix(".weight")
        turned = {s: np.ascontiguousarray(value[i].T) for i, s in enumerate(streams)}
        return {f"{stem}.streams.{stream}.weight": array for stream, array in turned.items()}
    if path.endswith("/shared_kernel"):
        ((name, array),) = _named(path.removesuffix("shared_kernel") + "kernel", value, table, None, {}).items()
        return {f"{name.removesuffix('.weight')}.from_shared.weight": array}
    inside = path.startswith("backbone/")
    found = (table if inside else _DECODERS).theirs_of(path)
    if found is not None and len(found[0]) == 1:
        (name,), rule = found
        return {f"backbone.{name}" if inside else name: rule.split(value)[0]}
    *parents, leaf = path.split("/")
    turn = {2: TRANSPOSE, 4: CONVOLUTION}.get(value.ndim, SAME) if leaf == "kernel" else SAME
    theirs = _LEAVES.get(leaf, leaf)
    # A module that has, say, a kernel and a scale keeps our names for both.
    alike = [other for other in (theirs, *_LEAVES) if _LEAVES.get(other, other) == theirs and other != leaf]
    if any("/".join([*parents, other]) in everything for other in alike):
        theirs = leaf
    return {".".join([*parents, theirs]): np.ascontiguousarray(turn.to_theirs(value))}


def _describe(merged: MultiTaskModel, config) -> dict[str, Any]:
    recipe = merged.recipe
    return {
        "backbone": recipe.backbone,
        "family": type(config).__name__.removesuffix("Config").lower(),
        "config": _plain(dataclasses.asdict(config)),
        "image_size": list(recipe.image_size),
        "mean": list(merged.mean),
        "std": list(merged.std),
        "tasks": dict(recipe.tasks),
        "head": recipe.head,
    }


def _plain(value: Any) -> Any:
    """Sizes as plain data; what JSON has no kind for, such as a function, by what Python shows of it."""
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, str | int | float | None) else repr(value)
