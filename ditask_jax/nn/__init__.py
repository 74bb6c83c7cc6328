"""Flax NNX building blocks shared by every backbone and head; the only package that imports flax for its own code."""

from ditask_jax.nn.context import Context
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
    "Frozen",
    "LayerInfo",
    "LayerNorm",
    "Linear",
    "ModelState",
    "Scope",
    "Statistic",
    "drop_path",
    "dropout",
    "flatten",
    "linears",
    "prepare_adapters",
    "resize_bilinear",
    "split_state",
    "unflatten",
]
