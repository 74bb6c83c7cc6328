"""Layouts of multi-task models: checkpoints of DiTASK's and MTLoRA's code, and the `ditask` export of streams."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ditask_jax.backbones.swin import SwinConfig
from ditask_jax.conversion import dino_names, pvt_names, vit_names
from ditask_jax.conversion.layouts import Layout, Shapes, count
from ditask_jax.conversion.names import CONVOLUTION, DECODERS, SAME, TRANSPOSE, Table, low_rank, thetas
from ditask_jax.conversion.swin_names import (
    BLOCK,
    INDEX,
    LINEARS,
    MASK,
    OUR_BLOCK,
    SWIN,
    block_rules,
    merging_rules,
    swin_buffers,
)
from ditask_jax.errors import WeightsError
from ditask_jax.files import json_text
from ditask_jax.model import MultiTaskModel
from ditask_jax.nn.linear import linears
from ditask_jax.nn.state import flatten, split_state

# Training checkpoints of DiTASK and MTLoRA: a Swin under `backbone.`, its adapters, necks and decoders.


_THETA = re.compile(r"backbone/stages/(\d+)/blocks/(\d+)/\w+/(\w+)/adapter/theta_(\w+)")
_BACKBONE = [*block_rules(), *block_rules(".linear"), *merging_rules()]
_COUNTER = (r".*\.num_batches_tracked", "an unused counter")
_ANY_DENSE = r"layers\.0\.blocks\.0\.attn\.qkv\.(?:linear\.)?weight$"
_AROUND = r"(?:decoders\.decoders\.|layers\.0\.blocks\.0\.attn\.qkv\.linear\.)"
_LOW_RANK = r"layers\.\d+\.(?:blocks\.\d+\.\w+|downsample)\.\w+\.lora_(?:shared|tasks)_(?:B|scale)"
_BARE = ("downsampler.", "decoders.")


def unread_thetas(arrays: Shapes) -> dict[str, str]:
    """Transforms of a DiTASK checkpoint whose result is unused, with the reason.

    Those of single tasks in q, k, v, and the shared ones behind the fan-out of the very last block.
    """
    last = count(arrays, "backbone/stages/{}/") - 1
    final = count(arrays, f"backbone/stages/{last}/blocks/{{}}/") - 1
    found = {}
    for path in arrays:
        if not (match := _THETA.fullmatch(path)):
            continue
        stage, block, layer, stream = int(match[1]), int(match[2]), match[3], match[4]
        if stream != "shared" and layer == "qkv":
            found[path] = "a task's transform in q, k, v: unused"
        elif stream == "shared" and layer != "qkv" and (stage, block) == (last, final) and _per_task(arrays, path):
            found[path] = "the shared transform behind the last fan-out: unused"
    return found


def unread_matrices(arrays: Shapes) -> dict[str, str]:
    """MTLoRA's shared matrices in the very last layer, with the reason: no task reads the stream that they change."""
    last = count(arrays, "backbone/stages/{}/") - 1
    final = count(arrays, f"backbone/stages/{last}/blocks/{{}}/") - 1
    start = f"backbone/stages/{last}/blocks/{final}/mlp/fc2/adapter/"
    if not any(path.startswith(f"{start}a_") and path != f"{start}a_shared" for path in arrays):
        return {}
    reason = "the shared change of the very last layer: no task reads it"
    return {path: reason for path in (f"{start}a_shared", f"{start}b_shared") if path in arrays}


def _per_task(arrays: Shapes, path: str) -> bool:
    start = path.removesuffix("shared")
    return any(other.startswith(start) and other != path for other in arrays)


DITASK = Layout(
    "ditask",
    SWIN,
    Table([*_BACKBONE, *thetas(BLOCK, OUR_BLOCK, LINEARS), *DECODERS]),
    marks=(_ANY_DENSE, _AROUND),
    strangers=(_LOW_RANK,),
    ignored=(INDEX, MASK, _COUNTER),
    prefix="backbone.",
    bare=_BARE,
    unread=unread_thetas,
)

MTLORA = Layout(
    "mtlora",
    SWIN,
    Table([*_BACKBONE, *low_rank(BLOCK, OUR_BLOCK, LINEARS), *DECODERS]),
    marks=(_ANY_DENSE, _AROUND, _LOW_RANK),
    ignored=(INDEX, MASK, _COUNTER, (r".*\.lora_\w*scale(?:\.\w+)?", "a scale: an option of the method here")),
    prefix="backbone.",
    bare=_BARE,
    unread=unread_matrices,
)


# The `ditask` export: a whole multi-task model for PyTorch, one kernel per stream where streams differ.
#
# Names follow the training checkpoints of DiTASK and MTLoRA: `backbone.`, `downsampler.TASK.`,
# `decoders.decoders.TASK.`. A layer whose streams differ has `NAME.streams.STREAM.weight` for each of them in place of
# `NAME.weight`, with "shared" or a task's name for STREAM. With MTLoRA it also has `NAME.from_shared.weight`, by which
# the shared stream's input is multiplied on behalf of every stream. docs/weights.md has a reader.


FORMAT = "ditask_jax/export/1"
# Families whose code bases have names of their own; any other backbone keeps ours, joined by dots.
_LAYOUTS = (
    DITASK,
    pvt_names.PVT_OFFICIAL,
    pvt_names.PVT_V2_OFFICIAL,
    vit_names.VIT_TIMM,
    dino_names.DINOV2_OFFICIAL,
    dino_names.DINOV3_OFFICIAL,
)
_OURS = Table([])
_DECODERS = Table(DECODERS)
_PUBLISHED_HEADS = ("hrnet", "linear")
_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "variance": "running_var"}


def stream_tensors(merged: MultiTaskModel) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and description of a merged model.

    Raises:
      WeightsError: two arrays would have the same name.
    """
    config = merged.backbone.config
    table = next((l.table for l in _LAYOUTS if type(config) is l.family.config_class), _OURS)
    fanned = {f"{l.info.path}/kernel": l.merged_streams for l in linears(merged.backbone) if l.kernel.ndim == 3}
    tensors: dict[str, np.ndarray] = {}
    everything = _everything(merged)
    for path, value in everything.items():
        names = table if path.startswith("backbone/") else _around(path, merged)
        for name, array in _named(path, np.asarray(value), names, fanned.get(path), everything).items():
            if name in tensors:
                raise WeightsError(f"export: two arrays of the model would be called '{name}'")
            tensors[name] = array
    if isinstance(config, SwinConfig):
        buffers = swin_buffers(config, merged.recipe.image_size)
        tensors |= {f"backbone.{name}": array for name, array in buffers.items()}
    return tensors, {"format": "pt", "layout": FORMAT, "model": json_text(_describe(merged, config))}


def _around(path: str, merged: MultiTaskModel) -> Table:
    """The names of a neck or head: heads of plug-ins keep ours, whatever their arrays are called."""
    kind, task, *_ = path.split("/")
    return _OURS if kind == "heads" and dict(merged.recipe.heads)[task] not in _PUBLISHED_HEADS else _DECODERS


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
    found = table.theirs_of(path)
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
