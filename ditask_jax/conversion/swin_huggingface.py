"""Swin in the files of Hugging Face `transformers`: queries, keys and values apart."""

from ditask_jax.conversion.layouts import Layout
from ditask_jax.conversion.names import Rule, Table, convolution, linear, norm
from ditask_jax.conversion.swin import INDEX, OUR_BLOCK, SWIN, classifier_rules

_LAYER = "encoder.layers.{stage}"
_BLOCK = f"{_LAYER}.blocks.{{block}}"
_TABLE = "relative_position_bias_table"
_MERGING = "backbone/stages/{stage}/merging"

_RULES = [
    *convolution("embeddings.patch_embeddings.projection", "backbone/patch_embed"),
    *norm("embeddings.norm", "backbone/patch_embed/norm"),
    *norm(f"{_BLOCK}.layernorm_before", f"{OUR_BLOCK}/norm1"),
    *norm(f"{_BLOCK}.layernorm_after", f"{OUR_BLOCK}/norm2"),
    Rule(f"{_BLOCK}.attention.self.{_TABLE}", f"{OUR_BLOCK}/attn/{_TABLE}"),
    *linear(f"{_BLOCK}.attention.self.{{part}}", f"{OUR_BLOCK}/attn/qkv", ("query", "key", "value")),
    *linear(f"{_BLOCK}.attention.output.dense", f"{OUR_BLOCK}/attn/proj"),
    *linear(f"{_BLOCK}.intermediate.dense", f"{OUR_BLOCK}/mlp/fc1"),
    *linear(f"{_BLOCK}.output.dense", f"{OUR_BLOCK}/mlp/fc2"),
    *linear(f"{_LAYER}.downsample.reduction", f"{_MERGING}/reduction"),
    *norm(f"{_LAYER}.downsample.norm", f"{_MERGING}/norm"),
    *classifier_rules("classifier", "layernorm"),
]

HUGGINGFACE = Layout(
    "huggingface",
    SWIN,
    Table(_RULES),
    marks=(r"encoder\.layers\.0\.blocks\.0\.attention\.self\.query\.weight$",),
    strangers=(r"encoder\.layers\.\d+\.blocks\.\d+\.attention\.self\.logit_scale",),
    ignored=(INDEX,),
    prefix="swin.",
    bare=("classifier.",),
)
