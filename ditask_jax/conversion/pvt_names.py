"""Names of PVT weights, v1 and v2: official, timm and Hugging Face."""

from typing import Any

from ditask_jax.backbones.pvt import PvtConfig, PvtV2Config
from ditask_jax.conversion.layouts import Family, Layout, Shapes, Size, count, shape_of, square_side
from ditask_jax.conversion.names import FIRST, FIRST_TWO, Rule, Table, convolution, linear, norm

# The Pyramid Vision Transformers: names of the released checkpoints of both generations, and timm's of the second.


_STAGE = "backbone/stages/{stage}"
_CLASSIFIER = linear("head", "head")


def _block(theirs: str, depthwise: str | None) -> list[Rule]:
    """Rules of a block; `depthwise` names the convolution inside the MLP, where there is one."""
    ours = f"{_STAGE}/blocks/{{block}}"
    rules = [
        *norm(f"{theirs}.norm1", f"{ours}/norm1"),
        *norm(f"{theirs}.norm2", f"{ours}/norm2"),
        *linear(f"{theirs}.attn.q", f"{ours}/attn/q"),
        *linear(f"{theirs}.attn.kv", f"{ours}/attn/kv"),
        *linear(f"{theirs}.attn.proj", f"{ours}/attn/proj"),
        *convolution(f"{theirs}.attn.sr", f"{ours}/attn/spatial_reduction"),
        *norm(f"{theirs}.attn.norm", f"{ours}/attn/norm"),
        *linear(f"{theirs}.mlp.fc1", f"{ours}/mlp/fc1"),
        *linear(f"{theirs}.mlp.fc2", f"{ours}/mlp/fc2"),
    ]
    return rules + (convolution(f"{theirs}.mlp.{depthwise}", f"{ours}/mlp/depthwise") if depthwise else [])


def _patches(theirs: str, ours: str) -> list[Rule]:
    return [*convolution(f"{theirs}.proj", ours), *norm(f"{theirs}.norm", f"{ours}/norm")]


V1 = Table(
    [
        Rule("pos_embed{stage+1}", f"{_STAGE}/position_embedding", FIRST),
        # There are four stages, and the last one has the class token.
        Rule("cls_token", "backbone/stages/3/class_token", FIRST_TWO),
        *_patches("patch_embed{stage+1}", f"{_STAGE}/patch_embed"),
        *_block("block{stage+1}.{block}", None),
        *norm("norm", "norm"),
        *_CLASSIFIER,
    ]
)

V2 = Table(
    [
        *_patches("patch_embed{stage+1}", f"{_STAGE}/patch_embed"),
        *_block("block{stage+1}.{block}", "dwconv.dwconv"),
        *norm("norm{stage+1}", f"{_STAGE}/norm"),
        *_CLASSIFIER,
    ]
)

TIMM_V2 = Table(
    [
        *_patches("patch_embed", "backbone/stages/0/patch_embed"),
        *_patches("stages.{stage}.downsample", f"{_STAGE}/patch_embed"),
        *_block("stages.{stage}.blocks.{block}", "dwconv"),
        *norm("stages.{stage}.norm", f"{_STAGE}/norm"),
        *_CLASSIFIER,
    ]
)


# The two PVT families: the names of the authors' checkpoints and of timm's, and sizes inferred from shapes.


def _stages(arrays: Shapes) -> tuple[int, list[tuple[int, ...]], dict[str, Any]]:
    """Number of stages, kernels of the patch embeddings, and the fields that both generations share."""
    number = count(arrays, "backbone/stages/{}/")
    embeds = [shape_of(arrays, f"backbone/stages/{stage}/patch_embed/kernel", 4) for stage in range(max(number, 1))]
    hidden = [shape_of(arrays, f"backbone/stages/{i}/blocks/0/mlp/fc1/kernel", 2) for i in range(number)]
    fields = {
        "channels": tuple(shape[3] for shape in embeds),
        "depths": tuple(count(arrays, f"backbone/stages/{stage}/blocks/{{}}/") for stage in range(number)),
        "mlp_ratios": tuple(wide // inner for inner, wide in hidden),
    }
    return number, embeds, fields


def _reductions(arrays: Shapes, stages: int) -> tuple[int, ...]:
    paths = [f"backbone/stages/{stage}/blocks/0/attn/spatial_reduction/kernel" for stage in range(stages)]
    return tuple(shape_of(arrays, path, 4)[0] if path in arrays else 1 for path in paths)


def infer_first(arrays: Shapes) -> dict[str, Any]:
    """The fields of a `PvtConfig`, heads apart: no shape tells those."""
    stages, embeds, fields = _stages(arrays)
    return fields | {"reductions": _reductions(arrays, stages), "patch": embeds[0][0]}


def infer_second(arrays: Shapes) -> dict[str, Any]:
    """The fields of a `PvtV2Config`, heads apart; the linear kind shrinks by averages, which have no shapes."""
    stages, embeds, fields = _stages(arrays)
    reductions = _reductions(arrays, stages)
    last = f"backbone/stages/{stages - 1}/blocks/0/attn/spatial_reduction/kernel"
    fields |= {"patch": (embeds[0][0] + 1) // 2, "linear": last in arrays}
    return fields if fields["linear"] else fields | {"reductions": reductions}


def _first_size(fields: dict[str, Any], arrays: Shapes) -> Size:
    """From the first stage's position embeddings, taken for a square."""
    path = "backbone/stages/0/position_embedding"
    side = fields["patch"] * square_side(shape_of(arrays, path, 2)[0], path)
    return side, side


def _second_size(fields: dict[str, Any], arrays: Shapes) -> Size:
    return 224, 224  # any size will do: no array depends on it


PVT = Family("PVT", PvtConfig, infer_first, _first_size, resized=r".*/position_embedding")
PVT_V2 = Family("PVT v2", PvtV2Config, infer_second, _second_size, resized=r"$^")


PVT_OFFICIAL = Layout("official", PVT, V1, marks=(r"block1\.0\.attn\.kv\.weight$", r"pos_embed1$"))
PVT_V2_OFFICIAL = Layout(
    "official", PVT_V2, V2, marks=(r"block1\.0\.attn\.kv\.weight$", r"block1\.0\.mlp\.dwconv\.dwconv\.weight$")
)
PVT_V2_TIMM = Layout(
    "timm", PVT_V2, TIMM_V2, marks=(r"stages\.0\.blocks\.0\.attn\.kv\.weight$", r"stages\.1\.downsample\.proj\.")
)


# PVT and PVT v2 in the files of Hugging Face `transformers`: queries, keys and values apart.


OUR_STAGE = "backbone/stages/{stage}"
OUR_BLOCK = f"{OUR_STAGE}/blocks/{{block}}"


def _norms(block: str) -> list[Rule]:
    return [*norm(f"{block}.layer_norm_1", f"{OUR_BLOCK}/norm1"), *norm(f"{block}.layer_norm_2", f"{OUR_BLOCK}/norm2")]


def _attention(attention: str, output: str, reduction: str) -> list[Rule]:
    return [
        *linear(f"{attention}.query", f"{OUR_BLOCK}/attn/q"),
        *linear(f"{attention}.{{part}}", f"{OUR_BLOCK}/attn/kv", ("key", "value")),
        *linear(output, f"{OUR_BLOCK}/attn/proj"),
        *convolution(f"{attention}.{reduction}", f"{OUR_BLOCK}/attn/spatial_reduction"),
        *norm(f"{attention}.layer_norm", f"{OUR_BLOCK}/attn/norm"),
    ]


def _mlp(block: str) -> list[Rule]:
    return [
        *linear(f"{block}.mlp.dense1", f"{OUR_BLOCK}/mlp/fc1"),
        *linear(f"{block}.mlp.dense2", f"{OUR_BLOCK}/mlp/fc2"),
    ]


_EMBED = "encoder.patch_embeddings.{stage}"
_BLOCK = "encoder.block.{stage}.{block}"

PVT_HUGGINGFACE = Layout(
    "huggingface",
    PVT,
    Table(
        [
            Rule(f"{_EMBED}.position_embeddings", f"{OUR_STAGE}/position_embedding", FIRST),
            Rule(f"{_EMBED}.cls_token", f"{OUR_STAGE}/class_token", FIRST_TWO),
            *convolution(f"{_EMBED}.projection", f"{OUR_STAGE}/patch_embed"),
            *norm(f"{_EMBED}.layer_norm", f"{OUR_STAGE}/patch_embed/norm"),
            *_norms(_BLOCK),
            *_attention(f"{_BLOCK}.attention.self", f"{_BLOCK}.attention.output.dense", "sequence_reduction"),
            *_mlp(_BLOCK),
            *norm("encoder.layer_norm", "norm"),
            *linear("classifier", "head"),
        ]
    ),
    marks=(r"encoder\.block\.0\.0\.attention\.self\.query\.weight$", r"encoder\.patch_embeddings\.0\."),
    prefix="pvt.",
    bare=("classifier.",),
)

_LAYER = "encoder.layers.{stage}"
_LAYER_BLOCK = f"{_LAYER}.blocks.{{block}}"

PVT_V2_HUGGINGFACE = Layout(
    "huggingface",
    PVT_V2,
    Table(
        [
            *convolution(f"{_LAYER}.patch_embedding.proj", f"{OUR_STAGE}/patch_embed"),
            *norm(f"{_LAYER}.patch_embedding.layer_norm", f"{OUR_STAGE}/patch_embed/norm"),
            *_norms(_LAYER_BLOCK),
            *_attention(f"{_LAYER_BLOCK}.attention", f"{_LAYER_BLOCK}.attention.proj", "spatial_reduction"),
            *_mlp(_LAYER_BLOCK),
            *convolution(f"{_LAYER_BLOCK}.mlp.dwconv.dwconv", f"{OUR_BLOCK}/mlp/depthwise"),
            *norm(f"{_LAYER}.layer_norm", f"{OUR_STAGE}/norm"),
            *linear("classifier", "head"),
        ]
    ),
    marks=(r"encoder\.layers\.0\.blocks\.0\.attention\.query\.weight$", r"encoder\.layers\.0\.patch_embedding\."),
    prefix="pvt_v2.",
    bare=("classifier.",),
)
