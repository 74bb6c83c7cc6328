"""Names of Swin weights: official, timm and Hugging Face."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ditask_jax.backbones.geometry import check_size
from ditask_jax.backbones.swin import SwinConfig
from ditask_jax.conversion.layouts import Family, Layout, Shapes, Size, count, shape_of, square_side
from ditask_jax.conversion.names import Rule, Table, convolution, linear, norm
from ditask_jax.nn.attention import relative_position_index, shift_mask

# What Microsoft's Swin stores besides weights: index tables and attention masks, which follow from the sizes.


def swin_buffers(config: SwinConfig, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """The buffers of Microsoft's model of an image size, by their names.

    >>> buffers = swin_buffers(SwinConfig(8, (2,), (1,), window=2), (16, 16))
    >>> {name: array.shape for name, array in buffers.items()}  # doctest: +NORMALIZE_WHITESPACE
    {'layers.0.blocks.0.attn.relative_position_index': (4, 4),
     'layers.0.blocks.1.attn.relative_position_index': (4, 4), 'layers.0.blocks.1.attn_mask': (4, 4, 4)}
    """
    found: dict[str, np.ndarray] = {}
    for stage, geometry in enumerate(check_size(size, config.patch, config.window, len(config.depths))):
        for block in range(config.depths[stage]):
            here = f"layers.{stage}.blocks.{block}"
            found[f"{here}.attn.relative_position_index"] = relative_position_index(geometry.sides).astype(np.int64)
            if block % 2 and geometry.shift:
                mask = shift_mask(geometry.grid, geometry.sides, geometry.shifts)
                found[f"{here}.attn_mask"] = mask.astype(np.float32)
    return found


# The Swin family: the names of Microsoft's checkpoints (timm before 0.9 kept them), and sizes inferred from shapes.


BLOCK, OUR_BLOCK = "layers.{stage}.blocks.{block}", "backbone/stages/{stage}/blocks/{block}"
LINEARS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
_TABLE = "relative_position_bias_table"
_OBLONG = "windows of another height than width are not supported"


def block_rules(infix: str = "") -> list[Rule]:
    """Rules of everything but patch merging, final norm and classifier; `infix` stands behind a dense layer's name."""
    rules = [*convolution("patch_embed.proj", "backbone/patch_embed")]
    rules += norm("patch_embed.norm", "backbone/patch_embed/norm")
    for name in ("norm1", "norm2"):
        rules += norm(f"{BLOCK}.{name}", f"{OUR_BLOCK}/{name}")
    rules.append(Rule(f"{BLOCK}.attn.{_TABLE}", f"{OUR_BLOCK}/attn/{_TABLE}"))
    for name in LINEARS:
        rules += linear(f"{BLOCK}.{name}{infix}", f"{OUR_BLOCK}/{name.replace('.', '/')}")
    return rules


def merging_rules(stage: str = "{stage}") -> list[Rule]:
    """Rules of patch merging; `stage` is the template of their stage."""
    ours = "backbone/stages/{stage}/merging"
    return [
        *linear(f"layers.{stage}.downsample.reduction", f"{ours}/reduction"),
        *norm(f"layers.{stage}.downsample.norm", f"{ours}/norm"),
    ]


def classifier_rules(head: str = "head", final: str = "norm") -> list[Rule]:
    """Rules of the final norm and the classifier, which travel along unused."""
    return [*norm(final, "norm"), *linear(head, "head")]


def infer(arrays: Shapes) -> dict[str, Any]:
    """The fields of a `SwinConfig` from arrays under our paths.

    Raises:
      WeightsError: what tells them is missing.
    """
    patch, _, _, channels = shape_of(arrays, "backbone/patch_embed/kernel", 4)
    inner, hidden = shape_of(arrays, "backbone/stages/0/blocks/0/mlp/fc1/kernel", 2)
    stages = count(arrays, "backbone/stages/{}/")
    depths = tuple(count(arrays, f"backbone/stages/{stage}/blocks/{{}}/") for stage in range(stages))
    tables = [path for path in arrays if path.endswith(_TABLE)]
    heads = tuple(shape_of(arrays, f"backbone/stages/{i}/blocks/0/attn/{_TABLE}", 2)[1] for i in range(stages))
    # An image that is small for the window clips it in the last stages: the largest table has the window's size.
    # No option helps where they are no square: the backbone's windows are.
    sides = [square_side(shape_of(arrays, path, 2)[0], path, _OBLONG) for path in tables]
    return {
        "embed_dim": channels,
        "depths": depths,
        "heads": heads,
        "window": (max(sides) + 1) // 2,
        "patch": patch,
        "mlp_ratio": hidden // inner,
    }


def native_size(fields: dict[str, Any], arrays: Shapes) -> Size:
    """The smallest image whose stages all hold a whole window."""
    side = fields["patch"] * fields["window"] * 2 ** (len(fields["depths"]) - 1)
    return side, side


def other_windows(fields: Mapping[str, Any]) -> list[str]:
    """Names of the released sizes with the window of a file."""
    return [f"swin_{size}_patch4_window{fields['window']}" for size in ("tiny", "small", "base", "large")]


SWIN = Family("Swin", SwinConfig, infer, native_size, resized=rf".*/{_TABLE}", more=other_windows)
INDEX = (r".*\.relative_position_index", "an index table, computed from the window")
MASK = (r".*\.attn_mask", "an attention mask, computed from the image size")

SWIN_OFFICIAL = Layout(
    "official",
    SWIN,
    Table([*block_rules(), *merging_rules(), *classifier_rules()]),
    marks=(r"layers\.0\.blocks\.0\.attn\.qkv\.weight$", r"layers\.0\.downsample\.reduction\.weight$"),
    strangers=(r"head\.fc\.", r"layers\.\d+\.blocks\.\d+\.attn\.logit_scale"),
    ignored=(INDEX, MASK),
    buffers=swin_buffers,
)

# Swin in the files of Hugging Face `transformers`: queries, keys and values apart.


_LAYER = "encoder.layers.{stage}"
_BLOCK = f"{_LAYER}.blocks.{{block}}"
_HUGGINGFACE_TABLE = "relative_position_bias_table"
_MERGING = "backbone/stages/{stage}/merging"

_RULES = [
    *convolution("embeddings.patch_embeddings.projection", "backbone/patch_embed"),
    *norm("embeddings.norm", "backbone/patch_embed/norm"),
    *norm(f"{_BLOCK}.layernorm_before", f"{OUR_BLOCK}/norm1"),
    *norm(f"{_BLOCK}.layernorm_after", f"{OUR_BLOCK}/norm2"),
    Rule(f"{_BLOCK}.attention.self.{_HUGGINGFACE_TABLE}", f"{OUR_BLOCK}/attn/{_HUGGINGFACE_TABLE}"),
    *linear(f"{_BLOCK}.attention.self.{{part}}", f"{OUR_BLOCK}/attn/qkv", ("query", "key", "value")),
    *linear(f"{_BLOCK}.attention.output.dense", f"{OUR_BLOCK}/attn/proj"),
    *linear(f"{_BLOCK}.intermediate.dense", f"{OUR_BLOCK}/mlp/fc1"),
    *linear(f"{_BLOCK}.output.dense", f"{OUR_BLOCK}/mlp/fc2"),
    *linear(f"{_LAYER}.downsample.reduction", f"{_MERGING}/reduction"),
    *norm(f"{_LAYER}.downsample.norm", f"{_MERGING}/norm"),
    *classifier_rules("classifier", "layernorm"),
]

SWIN_HUGGINGFACE = Layout(
    "huggingface",
    SWIN,
    Table(_RULES),
    marks=(r"encoder\.layers\.0\.blocks\.0\.attention\.self\.query\.weight$",),
    strangers=(r"encoder\.layers\.\d+\.blocks\.\d+\.attention\.self\.logit_scale",),
    ignored=(INDEX,),
    prefix="swin.",
    bare=("classifier.",),
)


# timm's Swin since 0.9: patch merging stands at the start of a stage, and the classifier is called `head.fc`.


SWIN_TIMM = Layout(
    "timm",
    SWIN,
    Table([*block_rules(), *merging_rules("{stage+1}"), *classifier_rules("head.fc")]),
    marks=(r"layers\.0\.blocks\.0\.attn\.qkv\.weight$", r"layers\.1\.downsample\.reduction\.weight$"),
    strangers=(r"layers\.0\.downsample\.", r"layers\.\d+\.blocks\.\d+\.attn\.logit_scale"),
    ignored=(INDEX, MASK),
)
