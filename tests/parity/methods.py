"""The methods of golden multi-task files, and what their parameters are called in the reference implementations."""

import functools
import re
from collections.abc import Callable, Mapping

import numpy as np

from ditask_jax.adapters import DiTASK, Full, Method, MTLoRA
from ditask_jax.conversion.names import DECODERS, Table, low_rank, thetas
from ditask_jax.conversion.swin_names import BLOCK, LINEARS, OUR_BLOCK, block_rules, merging_rules

# Buffers that PyTorch stores and we compute.
DERIVED = re.compile(r"(attn_mask|relative_position_index|num_batches_tracked)$")


def by_task(value, tasks):
    """A number for all tasks (or one per stage), or such an entry for each task."""
    return {name: by_stage(value[name]) for name in tasks} if isinstance(value, dict) else by_stage(value)


def by_stage(value):
    """A number, or one for each stage: JSON knows no tuples."""
    return tuple(value) if isinstance(value, list) else value


def method_of(meta: dict, execution: str) -> Method:
    """The recorded method: index warp with any starting theta, low-rank matrices, or full fine-tuning."""
    tasks = meta["tasks"]
    if meta["kind"].startswith("ditask"):
        return DiTASK(
            shared_cells=by_stage(meta["r_shared"]),
            task_cells=by_task(meta["r_task"], tasks),
            domain="index",
            execution=execution,
            dropout=meta["dropout"],
        )
    if meta["kind"].startswith("mtlora"):
        scale = meta.get("scale", 1.0)
        return MTLoRA(
            shared_rank=by_stage(meta["r_shared"]),
            task_rank=by_task(meta["r_task"], tasks),
            shared_scale=by_stage(meta.get("scale_shared", scale)),
            task_scale=by_task(meta.get("scale_task", scale), tasks),
            mode=meta.get("mode", "matrix"),
            dropout=meta["dropout"],
        )
    return Full()


@functools.cache
def _table(kind: str) -> Table:
    adapters = low_rank if kind.startswith("mtlora") else thetas
    body = [*block_rules(), *block_rules(".linear"), *adapters(BLOCK, OUR_BLOCK, LINEARS), *merging_rules()]
    return Table([*body, *DECODERS])


def translate(name: str, kind: str) -> tuple[str, Callable[[np.ndarray], np.ndarray]]:
    """Our path of one of their parameters, and how its array turns."""
    found = _table(kind).ours_of(name.removeprefix("backbone."))
    assert found is not None, name
    return found[0], found[2].turn.to_ours


def translated(arrays: Mapping[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """All parameters under our paths."""
    ours = {}
    for name, array in arrays.items():
        if DERIVED.search(name):
            continue
        path, turn = translate(name, kind)
        ours[path] = np.ascontiguousarray(turn(array))
    return ours
