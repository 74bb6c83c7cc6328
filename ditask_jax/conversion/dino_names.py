"""Names of DINOv2 and DINOv3 weights: official, timm (DINOv3 with and without a qkv bias) and Hugging Face."""

from typing import Any

import numpy as np

from ditask_jax.backbones.dino import Dinov2Config, Dinov3Config
from ditask_jax.conversion import vit_names
from ditask_jax.conversion.layouts import Family, Layout, Shapes, Size, shape_of
from ditask_jax.conversion.names import FIRST, FIRST_TWO, Rule, Table, convolution, linear, norm
from ditask_jax.errors import WeightsError

_THEIRS, _OURS = "blocks.{block}", vit_names.OUR_BLOCK
_POSITIONS, _TOKEN = "backbone/position_embedding", "backbone/class_token"
_REGISTERS, _PERIODS, _MASK_TOKEN = "backbone/register_tokens", "rope_periods", "mask_token"
_KERNEL, _BIAS, _BIAS_MASK, _KEY_BIAS = (f"/attn/qkv/{leaf}" for leaf in ("kernel", "bias", "bias_mask", "key_bias"))
Arrays = dict[str, Any]


def infer(arrays: Shapes) -> dict[str, Any]:
    """The fields of a configuration, heads apart: no shape tells those."""
    hidden, _ = shape_of(arrays, "backbone/blocks/0/mlp/fc2/kernel", 2)
    fields = vit_names.infer(arrays)
    _, fed = shape_of(arrays, "backbone/blocks/0/mlp/fc1/kernel", 2)
    return fields | {
        "mlp_ratio": hidden // fields["embed_dim"],
        "gated": fed == 2 * hidden,
        "registers": shape_of(arrays, _REGISTERS, 2)[0] if _REGISTERS in arrays else 0,
    }


def _scale(name: str, number: int) -> Rule:
    return Rule(name, f"{_OURS}/layer_scale{number}/gamma")


def with_mask_token(arrays: Arrays) -> Arrays:
    """The token of masked patches, which training alone reads: zeros where the weights came without it."""
    return {_MASK_TOKEN: np.zeros_like(arrays[_TOKEN]), **arrays} if _TOKEN in arrays else arrays


# DINOv2. Its official code and timm call everything alike but registers, and timm has no mask token.


DINOV2 = Family("DINOv2", Dinov2Config, infer, vit_names.native_size, resized=r".*/position_embedding")
_DINOV2_RULES = [
    *vit_names.TIMM_RULES.rules,
    _scale(f"{_THEIRS}.ls1.gamma", 1),
    _scale(f"{_THEIRS}.ls2.gamma", 2),
]
_DINOV2_MARKS = (r"blocks\.0\.ls1\.gamma$", r"pos_embed$", r"patch_embed\.proj\.weight$")
_DINOV2_STRANGERS = (r"dist_token$", r"norm_pre\.", r"blocks\.0\.attn\.q_norm\.", r"blocks\.0\.mlp\.w12\.")

DINOV2_OFFICIAL = Layout(
    "official",
    DINOV2,
    Table([*_DINOV2_RULES, Rule("register_tokens", _REGISTERS, FIRST), Rule("mask_token", _MASK_TOKEN, FIRST)]),
    marks=(*_DINOV2_MARKS, r"mask_token$"),
    strangers=(*_DINOV2_STRANGERS, r"reg_token$"),
    to_theirs=with_mask_token,
)


def _own_row(arrays: Arrays) -> Arrays:
    """A row for the class token among the positions, which timm adds to that token where there are registers."""
    if _REGISTERS not in arrays or _POSITIONS not in arrays:
        return arrays
    rows = arrays[_POSITIONS]
    return arrays | {_POSITIONS: np.concatenate([np.zeros_like(rows[:1]), rows])}


def _without_own_row(arrays: Arrays) -> Arrays:
    if _REGISTERS not in arrays:
        return arrays
    rows = arrays[_POSITIONS]
    return arrays | {_POSITIONS: rows[1:], _TOKEN: arrays[_TOKEN] + rows[0]}


DINOV2_TIMM = Layout(
    "timm",
    DINOV2,
    Table([*_DINOV2_RULES, Rule("reg_token", _REGISTERS, FIRST)]),
    marks=_DINOV2_MARKS,
    strangers=(*_DINOV2_STRANGERS, r"mask_token$", r"register_tokens$"),
    to_ours=_own_row,
    to_theirs=_without_own_row,
)

_LAYER = "encoder.layer.{block}"
_QUERY_KEY_VALUE = ("query", "key", "value")
_DINOV2_HUGGINGFACE = Table(
    [
        Rule("embeddings.cls_token", _TOKEN, FIRST_TWO),
        Rule("embeddings.mask_token", _MASK_TOKEN, FIRST),
        Rule("embeddings.register_tokens", _REGISTERS, FIRST),
        Rule("embeddings.position_embeddings", _POSITIONS, FIRST),
        *convolution("embeddings.patch_embeddings.projection", "backbone/patch_embed"),
        *norm(f"{_LAYER}.norm1", f"{_OURS}/norm1"),
        *norm(f"{_LAYER}.norm2", f"{_OURS}/norm2"),
        *linear(f"{_LAYER}.attention.attention.{{part}}", f"{_OURS}/attn/qkv", _QUERY_KEY_VALUE),
        *linear(f"{_LAYER}.attention.output.dense", f"{_OURS}/attn/proj"),
        *linear(f"{_LAYER}.mlp.fc1", f"{_OURS}/mlp/fc1"),
        *linear(f"{_LAYER}.mlp.fc2", f"{_OURS}/mlp/fc2"),
        _scale(f"{_LAYER}.layer_scale1.lambda1", 1),
        _scale(f"{_LAYER}.layer_scale2.lambda1", 2),
        *norm("layernorm", "norm"),
        *linear("classifier", "head"),
    ]
)
_DINOV2_HUGGINGFACE_MARKS = (
    r"encoder\.layer\.0\.attention\.attention\.query\.weight$",
    r"encoder\.layer\.0\.layer_scale1\.lambda1$",
)
_GIANT = r"encoder\.layer\.0\.mlp\.weights_in\."


DINOV2_HUGGINGFACE = Layout(
    "huggingface",
    DINOV2,
    _DINOV2_HUGGINGFACE,
    marks=_DINOV2_HUGGINGFACE_MARKS,
    strangers=(_GIANT, r"embeddings\.register_tokens$"),
    prefix="dinov2.",
    bare=("classifier.",),
    to_theirs=with_mask_token,
    fits=lambda config: not config.registers,
)
DINOV2_REGISTERS_HUGGINGFACE = Layout(
    "huggingface",
    DINOV2,
    _DINOV2_HUGGINGFACE,
    marks=(*_DINOV2_HUGGINGFACE_MARKS, r"embeddings\.register_tokens$"),
    strangers=(_GIANT,),
    prefix="dinov2_with_registers.",
    bare=("classifier.",),
    to_theirs=with_mask_token,
    fits=lambda config: config.registers > 0,
)


# DINOv3. Our bias of queries, keys and values holds no keys; every code base says that in another way.


_KEYS = "the bias of the keys is not zero in {}, and DINOv3 has none there"


def periods(config: Dinov3Config) -> np.ndarray:
    """The periods of rotary positions, float32 `[D / 4]`, as the official code stores them."""
    count = config.embed_dim // config.heads // 4
    return (config.rotary ** (np.arange(count) / count)).astype(np.float32)


def _infer_dinov3(arrays: Shapes) -> dict[str, Any]:
    fields = infer(arrays)
    if _PERIODS in arrays:
        stored = np.asarray(arrays[_PERIODS], np.float32)
        base = Dinov3Config.rotary
        expected = base ** (np.arange(stored.size) / max(stored.size, 1))
        # Some releases round them to bfloat16, whose steps are 0.8 % wide.
        if stored.ndim != 1 or not np.allclose(stored, expected, rtol=0.01):
            raise WeightsError(f"source: its rotary positions have other periods than those of base {base:g}")
        fields["heads"] = fields["embed_dim"] // (4 * stored.size)
    return fields


def _any_size(fields: dict[str, Any], arrays: Shapes) -> Size:
    return 16 * fields["patch"], 16 * fields["patch"]


DINOV3 = Family("DINOv3", Dinov3Config, _infer_dinov3, _any_size, resized=r"$^")


def _blocks(arrays: Arrays, leaf: str) -> list[str]:
    """Paths of the blocks that have an array."""
    return [path.removesuffix(leaf) for path in arrays if path.endswith(leaf)]


def _filled_bias(arrays: Arrays) -> Arrays:
    """Zeros for queries and values where a file has no bias; a bias of keys that is zero is left out."""
    for block in _blocks(arrays, _KEY_BIAS):
        if np.any(arrays.pop(block + _KEY_BIAS) != 0):
            raise WeightsError(_KEYS.format(block))
    for block in _blocks(arrays, _KERNEL):
        kernel = arrays[block + _KERNEL]
        arrays.setdefault(block + _BIAS, np.zeros(kernel.shape[-1] // 3 * 2, kernel.dtype))
    return arrays


def _dropped_bias(arrays: Arrays) -> Arrays:
    """Nothing for a bias that is zero."""
    for block in _blocks(arrays, _BIAS):
        if np.any(arrays.pop(block + _BIAS) != 0):
            raise WeightsError(
                f"export: layout 'timm' is timm's DINOv3 without a bias of queries, keys and values, but that of "
                f"'{block}' is not zero; use --layout timm_qkvb"
            )
    return arrays


def _unmasked(arrays: Arrays) -> Arrays:
    """Queries and values of the official bias, whose mask takes the keys out."""
    for block in _blocks(arrays, _BIAS):
        bias, mask = arrays[block + _BIAS], arrays.pop(block + _BIAS_MASK, None)
        if bias.ndim != 1 or len(bias) % 3 or (mask is not None and mask.shape != bias.shape):
            raise WeightsError(f"'{block + _BIAS}' {bias.shape} and its mask: wrong rank or shapes")
        query, key, value = np.split(bias, 3)
        masks = np.split(np.ones_like(bias) if mask is None else mask, 3)
        if np.any((key != 0) & (masks[1] != 0)):
            raise WeightsError(_KEYS.format(block))
        if np.any(masks[0] != 1) or np.any(masks[2] != 1):
            raise WeightsError(f"'{block + _BIAS_MASK}' takes out more than the keys")
        arrays[block + _BIAS] = np.concatenate([query, value])
    return arrays


def _masked(arrays: Arrays) -> Arrays:
    for block in _blocks(arrays, _BIAS):
        query, value = np.split(arrays[block + _BIAS], 2)
        one, zero = np.ones_like(query), np.zeros_like(query)
        arrays[block + _BIAS] = np.concatenate([query, zero, value])
        arrays[block + _BIAS_MASK] = np.concatenate([one, zero, one])
    return with_mask_token(arrays)


_MLP = f"{_OURS}/mlp"
_GATE, _VALUE, _END, _FC1, _FC2 = (f"/mlp/{name}" for name in ("gate", "value", "end", "fc1", "fc2"))


def _joined_gate(arrays: Arrays) -> Arrays:
    """Gate and value, two layers elsewhere, as the two parts of one; what ends a gated MLP under the usual name."""
    for leaf in ("/kernel", "/bias"):
        for block in _blocks(arrays, _GATE + leaf):
            value = next((path for path in (block + _VALUE + leaf, block + _FC1 + leaf) if path in arrays), None)
            if value is not None:
                parts = arrays.pop(block + _GATE + leaf), arrays.pop(value)
                arrays[block + _FC1 + leaf] = np.concatenate(parts, axis=-1)
        for block in _blocks(arrays, _END + leaf):
            arrays[block + _FC2 + leaf] = arrays.pop(block + _END + leaf)
    return arrays


def _parted_gate(arrays: Arrays, value: str, end: str) -> Arrays:
    """The inverse, with the names that value and end have in a gated MLP."""
    wide = lambda block: arrays[block + _FC1 + "/kernel"].shape[-1] == 2 * arrays[block + _FC2 + "/kernel"].shape[-2]
    for block in [block for block in _blocks(arrays, _FC1 + "/kernel") if wide(block)]:
        for leaf in ("/kernel", "/bias"):
            parts = np.split(arrays.pop(block + _FC1 + leaf), 2, axis=-1)
            arrays[block + _GATE + leaf], arrays[block + value + leaf] = parts
            arrays[block + end + leaf] = arrays.pop(block + _FC2 + leaf)
    return arrays


_COMMON = [
    Rule("cls_token", _TOKEN, FIRST_TWO),
    *convolution("patch_embed.proj", "backbone/patch_embed"),
    *norm(f"{_THEIRS}.norm1", f"{_OURS}/norm1"),
    *norm(f"{_THEIRS}.norm2", f"{_OURS}/norm2"),
    *linear(f"{_THEIRS}.attn.proj", f"{_OURS}/attn/proj"),
    *linear(f"{_THEIRS}.mlp.fc1", f"{_MLP}/fc1"),
    *linear(f"{_THEIRS}.mlp.fc2", f"{_MLP}/fc2"),
    *norm("norm", "norm"),
    *linear("head", "head"),
]
_QKV = linear(f"{_THEIRS}.attn.qkv", f"{_OURS}/attn/qkv")

DINOV3_OFFICIAL = Layout(
    "official",
    DINOV3,
    Table(
        [
            *_COMMON,
            *_QKV,
            Rule(f"{_THEIRS}.attn.qkv.bias_mask", f"{_OURS}{_BIAS_MASK}"),
            Rule("storage_tokens", _REGISTERS, FIRST),
            Rule("mask_token", _MASK_TOKEN, FIRST),
            Rule("rope_embed.periods", _PERIODS),
            _scale(f"{_THEIRS}.ls1.gamma", 1),
            _scale(f"{_THEIRS}.ls2.gamma", 2),
            *linear(f"{_THEIRS}.mlp.w1", f"{_MLP}/gate"),
            *linear(f"{_THEIRS}.mlp.w2", f"{_MLP}/value"),
            *linear(f"{_THEIRS}.mlp.w3", f"{_MLP}/end"),
        ]
    ),
    marks=(r"storage_tokens$", r"blocks\.0\.attn\.qkv\.weight$", r"blocks\.0\.ls1\.gamma$"),
    strangers=(r"pos_embed$", r"cls_norm\."),
    ignored=((r"local_cls_norm\..*", "a norm of crops, which training alone uses"),),
    buffers=lambda config, size: {"rope_embed.periods": periods(config)},
    to_ours=lambda arrays: _joined_gate(_unmasked(arrays)),
    to_theirs=lambda arrays: _parted_gate(_masked(arrays), _VALUE, _END),
)

_TIMM_RULES = [
    *_COMMON,
    Rule("reg_token", _REGISTERS, FIRST),
    _scale(f"{_THEIRS}.gamma_1", 1),
    _scale(f"{_THEIRS}.gamma_2", 2),
    *linear(f"{_THEIRS}.mlp.fc1_g", f"{_MLP}/gate"),
    *linear(f"{_THEIRS}.mlp.fc1_x", f"{_MLP}/value"),
    # Where the mean over positions is classified, the norm may come behind the mean.
    *norm("fc_norm", "fc_norm"),
    _QKV[0],
]
_TIMM_MARKS = (r"reg_token$", r"blocks\.0\.gamma_1$", r"blocks\.0\.gamma_2$", r"blocks\.0\.attn\.qkv\.weight$")
_TIMM_STRANGERS = (r"pos_embed$", r"blocks\.0\.attn\.norm\.", r"blocks\.0\.mlp\.norm\.", r"rope\.freqs$")


def _timm_gate(arrays: Arrays) -> Arrays:
    return _parted_gate(arrays, _VALUE, _FC2)


# timm has every size twice, with a bias (`..._qkvb`) and without.
DINOV3_TIMM = Layout(
    "timm",
    DINOV3,
    Table(_TIMM_RULES),
    marks=_TIMM_MARKS,
    strangers=(*_TIMM_STRANGERS, r"blocks\.0\.attn\.q_bias$"),
    to_ours=lambda arrays: _joined_gate(_filled_bias(arrays)),
    to_theirs=lambda arrays: _timm_gate(_dropped_bias(arrays)),
)
DINOV3_TIMM_QKVB = Layout(
    "timm_qkvb",
    DINOV3,
    Table([*_TIMM_RULES, Rule(f"{_THEIRS}.attn.{{part}}", f"{_OURS}/attn/qkv/bias", parts=("q_bias", "v_bias"))]),
    marks=(*_TIMM_MARKS, r"blocks\.0\.attn\.q_bias$"),
    strangers=_TIMM_STRANGERS,
    to_ours=_joined_gate,
    to_theirs=_timm_gate,
)


def _huggingface_rules(layer: str) -> list[Rule]:
    """Rules of the blocks, which files call otherwise than the newest code."""
    attention, projections = f"{layer}.attention", ("q_proj", "k_proj", "v_proj")
    return [
        *norm(f"{layer}.norm1", f"{_OURS}/norm1"),
        *norm(f"{layer}.norm2", f"{_OURS}/norm2"),
        Rule(f"{attention}.k_proj.bias", f"{_OURS}{_KEY_BIAS}"),
        Rule(f"{attention}.{{part}}.bias", f"{_OURS}/attn/qkv/bias", parts=(projections[0], projections[2])),
        linear(f"{attention}.{{part}}", f"{_OURS}/attn/qkv", projections)[0],
        *linear(f"{attention}.o_proj", f"{_OURS}/attn/proj"),
        _scale(f"{layer}.layer_scale1.lambda1", 1),
        _scale(f"{layer}.layer_scale2.lambda1", 2),
        *linear(f"{layer}.mlp.up_proj", f"{_MLP}/fc1"),
        *linear(f"{layer}.mlp.gate_proj", f"{_MLP}/gate"),
        *linear(f"{layer}.mlp.down_proj", f"{_MLP}/fc2"),
    ]


DINOV3_HUGGINGFACE = Layout(
    "huggingface",
    DINOV3,
    Table(
        [
            Rule("embeddings.cls_token", _TOKEN, FIRST_TWO),
            Rule("embeddings.mask_token", _MASK_TOKEN, FIRST_TWO),
            Rule("embeddings.register_tokens", _REGISTERS, FIRST),
            *convolution("embeddings.patch_embeddings", "backbone/patch_embed"),
            *_huggingface_rules("layer.{block}"),
            *_huggingface_rules("model.layer.{block}"),
            *norm("norm", "norm"),
        ]
    ),
    marks=(r"(?:model\.)?layer\.0\.attention\.q_proj\.weight$", r"embeddings\.register_tokens$"),
    to_ours=lambda arrays: _joined_gate(_filled_bias(arrays)),
    to_theirs=lambda arrays: _parted_gate(with_mask_token(arrays), _FC1, _FC2),
)
