"""Flax NNX building blocks shared by every backbone and head; the only package that imports flax for its own code."""

from ditask_jax.nn.attention import Gridded, GridRows, attend, fit_rows
from ditask_jax.nn.context import Context, Scope
from ditask_jax.nn.conv import Conv, DepthwiseConv, PatchEmbed
from ditask_jax.nn.linear import LayerAdapter, LayerInfo, Linear, linears, prepare_adapters
from ditask_jax.nn.norm import BatchNorm, LayerNorm, LayerScale
from ditask_jax.nn.resize import resize_bilinear
from ditask_jax.nn.rotary import rotary_tables, rotate
from ditask_jax.nn.state import FrozenParam, ModelState, Statistic, flatten, split_state, unflatten
from ditask_jax.nn.stochastic import drop_path, dropout

__all__ = [
    "BatchNorm",
    "Context",
    "Conv",
    "DepthwiseConv",
    "FrozenParam",
    "GridRows",
    "Gridded",
    "LayerAdapter",
    "LayerInfo",
    "LayerNorm",
    "LayerScale",
    "Linear",
    "ModelState",
    "PatchEmbed",
    "Scope",
    "Statistic",
    "attend",
    "drop_path",
    "dropout",
    "fit_rows",
    "flatten",
    "linears",
    "prepare_adapters",
    "resize_bilinear",
    "rotary_tables",
    "rotate",
    "split_state",
    "unflatten",
]
