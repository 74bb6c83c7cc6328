"""Names of ViT weights: timm and Hugging Face."""

from typing import Any

from ditask_jax.backbones.vit import VitConfig
from ditask_jax.conversion.layouts import Family, Layout, Shapes, Size, count, shape_of, square_side
from ditask_jax.conversion.names import FIRST, FIRST_TWO, Rule, Table, convolution, linear, norm

# The Vision Transformer: timm's names, which the reference implementations' PyTorch weights carry too.


_THEIRS, _OURS = "blocks.{block}", "backbone/blocks/{block}"

TIMM_RULES = Table(
    [
        Rule("cls_token", "backbone/class_token", FIRST_TWO),
        Rule("pos_embed", "backbone/position_embedding", FIRST),
        *convolution("patch_embed.proj", "backbone/patch_embed"),
        *norm(f"{_THEIRS}.norm1", f"{_OURS}/norm1"),
        *norm(f"{_THEIRS}.norm2", f"{_OURS}/norm2"),
        *linear(f"{_THEIRS}.attn.qkv", f"{_OURS}/attn/qkv"),
        *linear(f"{_THEIRS}.attn.proj", f"{_OURS}/attn/proj"),
        *linear(f"{_THEIRS}.mlp.fc1", f"{_OURS}/mlp/fc1"),
        *linear(f"{_THEIRS}.mlp.fc2", f"{_OURS}/mlp/fc2"),
        *norm("norm", "norm"),
        # Where the mean over positions is classified, the norm comes behind the mean.
        *norm("fc_norm", "fc_norm"),
        *linear("head", "head"),
    ]
)


# The ViT family: timm's names (DeiT's are the same) and Hugging Face's, and sizes inferred from shapes.


_POSITIONS, _TOKEN = "backbone/position_embedding", "backbone/class_token"
OUR_BLOCK = "backbone/blocks/{block}"


def infer(arrays: Shapes) -> dict[str, Any]:
    """The fields of a `VitConfig`, heads apart: no shape tells those."""
    patch, _, _, channels = shape_of(arrays, "backbone/patch_embed/kernel", 4)
    inner, hidden = shape_of(arrays, "backbone/blocks/0/mlp/fc1/kernel", 2)
    return {
        "embed_dim": channels,
        "depth": count(arrays, "backbone/blocks/{}/"),
        "patch": patch,
        "class_token": _TOKEN in arrays,
        "mlp_ratio": hidden // inner,
    }


def native_size(fields: dict[str, Any], arrays: Shapes) -> Size:
    """From the position embeddings, taken for a square."""
    rows = shape_of(arrays, _POSITIONS, 2)[0] - int(fields["class_token"])
    side = fields["patch"] * square_side(rows, _POSITIONS)
    return side, side


VIT = Family("ViT", VitConfig, infer, native_size, resized=r".*/position_embedding")

VIT_TIMM = Layout(
    "timm",
    VIT,
    # A classifier trained on ImageNet-21k may have one more dense layer in front.
    Table([*TIMM_RULES.rules, *linear("pre_logits.fc", "pre_logits")]),
    marks=(r"blocks\.0\.attn\.qkv\.weight$", r"pos_embed$", r"patch_embed\.proj\.weight$"),
    strangers=(r"dist_token$", r"reg_token$", r"blocks\.0\.ls1\.", r"blocks\.0\.attn\.q_norm\.", r"norm_pre\."),
)

_LAYER = "encoder.layer.{block}"

VIT_HUGGINGFACE = Layout(
    "huggingface",
    VIT,
    Table(
        [
            Rule("embeddings.cls_token", _TOKEN, FIRST_TWO),
            Rule("embeddings.position_embeddings", _POSITIONS, FIRST),
            *convolution("embeddings.patch_embeddings.projection", "backbone/patch_embed"),
            *norm(f"{_LAYER}.layernorm_before", f"{OUR_BLOCK}/norm1"),
            *norm(f"{_LAYER}.layernorm_after", f"{OUR_BLOCK}/norm2"),
            *linear(f"{_LAYER}.attention.attention.{{part}}", f"{OUR_BLOCK}/attn/qkv", ("query", "key", "value")),
            *linear(f"{_LAYER}.attention.output.dense", f"{OUR_BLOCK}/attn/proj"),
            *linear(f"{_LAYER}.intermediate.dense", f"{OUR_BLOCK}/mlp/fc1"),
            *linear(f"{_LAYER}.output.dense", f"{OUR_BLOCK}/mlp/fc2"),
            *norm("layernorm", "norm"),
            *linear("pooler.dense", "pooler"),
            *linear("classifier", "head"),
        ]
    ),
    marks=(r"encoder\.layer\.0\.attention\.attention\.query\.weight$", r"embeddings\.position_embeddings$"),
    strangers=(
        r"embeddings\.distillation_token$",
        r"embeddings\.mask_token$",
        r"encoder\.layer\.0\.layer_scale1\.",
    ),
    prefix="vit.",
    bare=("classifier.",),
)
