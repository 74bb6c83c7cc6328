"""Training checkpoints of DiTASK and MTLoRA: a Swin under `backbone.`, its adapters, necks and decoders."""

import re

from ditask_jax.conversion.layouts import Layout, Shapes, count
from ditask_jax.conversion.multitask_names import DECODERS, low_rank, thetas
from ditask_jax.conversion.names import Table
from ditask_jax.conversion.swin import BLOCK, INDEX, LINEARS, MASK, OUR_BLOCK, SWIN, block_rules, merging_rules

_THETA = re.compile(r"backbone/stages/(\d+)/blocks/(\d+)/\w+/(\w+)/adapter/theta_(\w+)")
_BACKBONE = [*block_rules(), *block_rules(".linear"), *merging_rules()]
_COUNTER = (r".*\.num_batches_tracked", "a counter that nothing reads")
_ANY_DENSE = r"layers\.0\.blocks\.0\.attn\.qkv\.(?:linear\.)?weight$"
_AROUND = r"(?:decoders\.decoders\.|layers\.0\.blocks\.0\.attn\.qkv\.linear\.)"
_LOW_RANK = r"layers\.\d+\.(?:blocks\.\d+\.\w+|downsample)\.\w+\.lora_(?:shared|tasks)_(?:B|scale)"
_BARE = ("downsampler.", "decoders.")


def unread_thetas(arrays: Shapes) -> dict[str, str]:
    """Transforms of a DiTASK checkpoint whose result nothing reads, with the reason.

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
            found[path] = "a task's transform in q, k, v: nothing reads what it produces"
        elif stream == "shared" and layer != "qkv" and (stage, block) == (last, final) and _per_task(arrays, path):
            found[path] = "the shared transform behind the last fan-out: nothing reads what it produces"
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
