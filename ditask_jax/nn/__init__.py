"""Flax NNX building blocks shared by every backbone and head; the only package that imports flax for its own code."""

from ditask_jax.nn.attention import attend
from ditask_jax.nn.context import Context
from ditask_jax.nn.conv import Conv, DepthwiseConv, PatchEmbed
from ditask_jax.nn.grid_rows import Gridded, GridRows, fit_rows
from ditask_jax.nn.linear import Adapter, LayerInfo, Linear, linears, prepare_adapters
from ditask_jax.nn.norm import BatchNorm, LayerNorm
from ditask_jax.nn.resize import resize_bilinear
from ditask_jax.nn.scope import Scope
from ditask_jax.nn.state import ModelState, flatten, split_state, unflatten
from ditask_jax.nn.stochastic import drop_path, dropout
from ditask_jax.nn.variables import Frozen, Statistic

__all__ = [
    "Adapter",
    "BatchNorm",
    "Context",
    "Conv",
    "DepthwiseConv",
    "Frozen",
    "GridRows",
    "Gridded",
    "LayerInfo",
    "LayerNorm",
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
    "split_state",
    "unflatten",
]
