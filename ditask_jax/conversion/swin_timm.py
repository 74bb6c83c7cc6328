"""timm's Swin since 0.9: patch merging stands at the start of a stage, and the classifier is called `head.fc`."""

from ditask_jax.conversion.layouts import Layout
from ditask_jax.conversion.names import Table
from ditask_jax.conversion.swin import INDEX, MASK, SWIN, block_rules, classifier_rules, merging_rules

TIMM = Layout(
    "timm",
    SWIN,
    Table([*block_rules(), *merging_rules("{stage+1}"), *classifier_rules("head.fc")]),
    marks=(r"layers\.0\.blocks\.0\.attn\.qkv\.weight$", r"layers\.1\.downsample\.reduction\.weight$"),
    strangers=(r"layers\.0\.downsample\.", r"layers\.\d+\.blocks\.\d+\.attn\.logit_scale"),
    ignored=(INDEX, MASK),
)
