"""Names and layouts of the PyTorch Swin family: Microsoft's checkpoints, and the DiTASK models around them."""

import re
from collections.abc import Callable, Mapping

import numpy as np

Array = np.ndarray
# Buffers that PyTorch stores and we compute.
DERIVED = re.compile(r"(attn_mask|relative_position_index|num_batches_tracked)$")


def _transpose(weight: Array) -> Array:
    return weight.T


def _conv(weight: Array) -> Array:
    return weight.transpose(2, 3, 1, 0)


def _pointwise(weight: Array) -> Array:
    return weight[:, :, 0, 0].T


def _flat(weight: Array) -> Array:
    return weight.reshape(-1)


def _same(weight: Array) -> Array:
    return weight


_LEAF = {"weight": "scale", "bias": "bias"}
_BATCH_NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "variance"}
_HEAD_LAYER = {"0": "widen", "1": "norm", "3": "classify"}

_RULES: list[tuple[str, Callable[[re.Match], tuple[str, Callable[[Array], Array]]]]] = [
    (r"patch_embed\.proj\.weight", lambda m: ("patch_embed/kernel", _conv)),
    (r"patch_embed\.proj\.bias", lambda m: ("patch_embed/bias", _same)),
    (r"patch_embed\.norm\.(weight|bias)", lambda m: (f"patch_embed/norm/{_LEAF[m[1]]}", _same)),
    (
        r"layers\.(\d+)\.blocks\.(\d+)\.(norm[12])\.(weight|bias)",
        lambda m: (f"stages/{m[1]}/blocks/{m[2]}/{m[3]}/{_LEAF[m[4]]}", _same),
    ),
    (
        r"layers\.(\d+)\.blocks\.(\d+)\.attn\.relative_position_bias_table",
        lambda m: (f"stages/{m[1]}/blocks/{m[2]}/attn/relative_position_bias_table", _same),
    ),
    (
        r"layers\.(\d+)\.blocks\.(\d+)\.(attn|mlp)\.(qkv|proj|fc1|fc2)\.(?:linear\.)?weight",
        lambda m: (f"stages/{m[1]}/blocks/{m[2]}/{m[3]}/{m[4]}/kernel", _transpose),
    ),
    (
        r"layers\.(\d+)\.blocks\.(\d+)\.(attn|mlp)\.(qkv|proj|fc1|fc2)\.(?:linear\.)?bias",
        lambda m: (f"stages/{m[1]}/blocks/{m[2]}/{m[3]}/{m[4]}/bias", _same),
    ),
    (
        r"layers\.(\d+)\.blocks\.(\d+)\.(attn|mlp)\.(qkv|proj|fc1|fc2)\.lora_shared_A",
        lambda m: (f"stages/{m[1]}/blocks/{m[2]}/{m[3]}/{m[4]}/adapter/theta_shared", _flat),
    ),
    (
        r"layers\.(\d+)\.blocks\.(\d+)\.(attn|mlp)\.(qkv|proj|fc1|fc2)\.lora_tasks_A\.(\w+)",
        lambda m: (f"stages/{m[1]}/blocks/{m[2]}/{m[3]}/{m[4]}/adapter/theta_{m[5]}", _flat),
    ),
    (
        r"layers\.(\d+)\.downsample\.reduction\.weight",
        lambda m: (f"stages/{m[1]}/merging/reduction/kernel", _transpose),
    ),
    (
        r"layers\.(\d+)\.downsample\.norm\.(weight|bias)",
        lambda m: (f"stages/{m[1]}/merging/norm/{_LEAF[m[2]]}", _same),
    ),
]
_OUTSIDE: list[tuple[str, Callable[[re.Match], tuple[str, Callable[[Array], Array]]]]] = [
    (r"norm\.(weight|bias)", lambda m: (f"norm/{_LEAF[m[1]]}", _same)),
    (r"head\.weight", lambda m: ("head/kernel", _transpose)),
    (r"head\.bias", lambda m: ("head/bias", _same)),
    (r"downsampler\.(\w+)\.downsample_(\d)\.weight", lambda m: (f"necks/{m[1]}/convs/{m[2]}/kernel", _pointwise)),
    (
        r"decoders\.decoders\.(\w+)\.last_layer\.([03])\.weight",
        lambda m: (f"heads/{m[1]}/{_HEAD_LAYER[m[2]]}/kernel", _pointwise),
    ),
    (
        r"decoders\.decoders\.(\w+)\.last_layer\.([03])\.bias",
        lambda m: (f"heads/{m[1]}/{_HEAD_LAYER[m[2]]}/bias", _same),
    ),
    (
        r"decoders\.decoders\.(\w+)\.last_layer\.1\.(weight|bias|running_mean|running_var)",
        lambda m: (f"heads/{m[1]}/norm/{_BATCH_NORM[m[2]]}", _same),
    ),
]


def translate(name: str) -> tuple[str, Callable[[Array], Array]] | None:
    """Our path for a PyTorch name and how to turn its array into ours; None for a name we do not know.

    Names may carry the multi-task model's `backbone.` prefix.

    >>> translate("backbone.layers.0.blocks.1.attn.qkv.linear.weight")[0]
    'backbone/stages/0/blocks/1/attn/qkv/kernel'
    >>> translate("layers.0.nothing") is None
    True
    """
    inner = name.removeprefix("backbone.")
    for pattern, target in _RULES:
        if match := re.fullmatch(pattern, inner):
            path, turn = target(match)
            return f"backbone/{path}", turn
    for pattern, target in _OUTSIDE:
        if match := re.fullmatch(pattern, name):
            return target(match)
    return None


def translate_all(arrays: Mapping[str, Array]) -> tuple[dict[str, Array], list[str]]:
    """All arrays under our names, and the names that have no counterpart (derived buffers are dropped silently)."""
    ours, unknown = {}, []
    for name, array in arrays.items():
        if DERIVED.search(name):
            continue
        found = translate(name)
        if found is None:
            unknown.append(name)
            continue
        path, turn = found
        ours[path] = np.ascontiguousarray(turn(array))
    return ours, unknown
