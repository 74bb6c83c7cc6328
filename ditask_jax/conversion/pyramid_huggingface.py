"""PVT and PVT v2 in the files of Hugging Face `transformers`: queries, keys and values apart."""

from ditask_jax.conversion.layouts import Layout
from ditask_jax.conversion.names import FIRST, FIRST_TWO, Rule, Table, convolution, linear, norm
from ditask_jax.conversion.pyramid import PVT, PVT_V2

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
