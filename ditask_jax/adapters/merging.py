"""Stacking layers that compute together, and merging adapters into plain kernels."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from ditask_jax.backbones.blocks import Block
from ditask_jax.errors import ConfigError, WeightsError, defined_in
from ditask_jax.model import MultiTaskModel
from ditask_jax.nn.context import Context
from ditask_jax.nn.linear import LayerAdapter, Linear, linears, prepare_adapters
from ditask_jax.nn.state import FrozenParam, filled, split_state

# The many small arrays of adapters laid together: a name, an offset and a hash for each would outweigh the numbers.
#
# Arrays inside adapters that have name, type and shape in common make one tensor with a row for each layer,
# `adapter/NAME/TYPE_SHAPE`; a text beside the tensors says which layers those are. Everything else stays as it is.


_INSIDE, _STACK = "/adapter/", "adapter/"


def stacked(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    """Tensors of an adapter file, and which layers the rows of its stacks belong to.

    Args:
      arrays: by `/`-joined path.

    >>> thetas = {f"backbone/{layer}/adapter/theta_shared": np.zeros(3, np.float32) for layer in ("fc1", "fc2")}
    >>> tensors, rows = stacked(thetas | {"heads/bias": np.zeros(1)})
    >>> {name: tensor.shape for name, tensor in tensors.items()}
    {'heads/bias': (1,), 'adapter/theta_shared/float32_3': (2, 3)}
    >>> rows
    '{"adapter/theta_shared/float32_3":"backbone/fc1 backbone/fc2"}'
    """
    tensors, stacks = {}, {}
    for path, array in sorted(arrays.items()):
        layer, inside, name = path.rpartition(_INSIDE)
        if inside:
            kind = f"{array.dtype}_{'x'.join(map(str, array.shape))}"
            stacks.setdefault(f"{_STACK}{name}/{kind}", {})[layer] = array
        else:
            tensors[path] = array
    tensors |= {name: np.stack(list(layers.values())) for name, layers in stacks.items()}
    members = {name: " ".join(layers) for name, layers in stacks.items()}
    return tensors, json.dumps(members, separators=(",", ":"), allow_nan=False)


def unstacked(tensors: Mapping[str, np.ndarray], rows: str, where: str) -> dict[str, np.ndarray]:
    """The arrays behind the tensors of an adapter file; nothing is left over, twice or invented.

    Args:
      tensors: by name.
      rows: what `stacked` gave beside them.
      where: the file, for errors.

    Raises:
      WeightsError: stacks and rows do not belong together.

    >>> arrays = {"backbone/fc1/adapter/theta_shared": np.arange(3.0), "heads/bias": np.zeros(1)}
    >>> sorted(unstacked(*stacked(arrays), "it")) == sorted(arrays)
    True
    """
    try:
        layers = {name: text.split() for name, text in json.loads(rows).items()}
    except (ValueError, AttributeError, RecursionError):
        raise WeightsError(f"{where} does not say which layers its tensors belong to") from None
    arrays = {name: tensor for name, tensor in tensors.items() if name not in layers}
    for stack, names in layers.items():
        count = len(tensors[stack]) if stack in tensors and tensors[stack].ndim else 0
        paths = [f"{layer}{_INSIDE}{stack.removeprefix(_STACK).rpartition('/')[0]}" for layer in names]
        if count != len(paths) or len({*paths} - arrays.keys()) != count:
            raise WeightsError(f"{where}: tensor '{stack}' has {count} rows for {len(paths)} layers, or some are twice")
        arrays |= dict(zip(paths, tensors[stack], strict=True))
    return arrays


# Folding adapters into plain kernels, for inference and export.


def merge(model: MultiTaskModel, state: Any = None) -> MultiTaskModel:
    """A copy of the model with every adapter folded into its kernel; the model itself stays as it is.

    Layers whose streams differ get one kernel per stream, `[S, in, out]`; where a task also reads the shared stream, a
    second kernel for that. Adapters that no kernel can stand for (with a nonlinearity inside) stay. Merging a merged
    model changes nothing.

    Args:
      model: a model, usually a wrapped one.
      state: values to merge in place of the model's own, as `Trainer.fit` returns them.

    Raises:
      CheckpointError: the state belongs to another model.
    """
    parts = split_state(filled(model, state))
    values = (parts.trainable, parts.frozen, parts.stats)
    if not any(layer.adapter is not None for layer in linears(model.backbone)):
        return parts.merge(*values)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values)):
        return _fold(parts.merge(*values))
    # One program in place of hundreds of small ones; its structure is known once it has been traced.
    structures = []

    def fold(*values):
        folded = split_state(_fold(parts.merge(*values)))
        structures.append(folded)
        return folded.trainable, folded.frozen, folded.stats

    folded = jax.jit(fold)(*values)
    return structures[0].merge(*folded)


def _fold(merged: MultiTaskModel) -> MultiTaskModel:
    """Folds in place."""
    context = prepare_adapters(merged.backbone, Context(train=False))
    for linear in linears(merged.backbone):
        adapter = linear.adapter
        if adapter is None or not adapter.mergeable:
            continue
        prepared = context.prepared[linear.info.path]
        kernel = checked_kernel(linear, adapter, prepared)
        shared_kernel = adapter.merged_shared_kernel(linear, prepared)
        linear.merged_streams = adapter.streams_out(())
        del linear.adapter
        linear.kernel = FrozenParam(kernel)
        if shared_kernel is not None:
            linear.shared_kernel = FrozenParam(shared_kernel)
        merged.adapted = None
    return merged


def scaled_blocks(model: MultiTaskModel) -> list[Block]:
    """The blocks of a model's backbone that have LayerScale."""
    modules = (module for _, module in nnx.iter_modules(model.backbone))
    return [module for module in modules if isinstance(module, Block) and hasattr(module, "layer_scale1")]


def fold_layer_scale(model: MultiTaskModel) -> MultiTaskModel:
    """A copy of a model whose blocks have no LayerScale: the factors are in the layers that end the residual branches.

    Args:
      model: merged, or without adapters.

    Raises:
      ConfigError: a layer that ends a branch has an adapter that no kernel can stand for; it would not scale with it.
    """
    parts = split_state(model)
    folded = parts.merge(parts.trainable, parts.frozen, parts.stats)
    ends = folded.backbone.roles.ends
    for block in scaled_blocks(folded):
        for branch, name in ((block.attn, "layer_scale1"), (block.mlp, "layer_scale2")):
            gamma = getattr(block, name).gamma[...]
            for linear in (layer for layer in linears(branch) if layer.info.role in ends):
                _scale_outputs(linear, gamma)
            delattr(block, name)
    if hasattr(folded.backbone.config, "layer_scale"):
        folded.backbone.config = dataclasses.replace(folded.backbone.config, layer_scale=None)
    return folded


def _scale_outputs(linear: Linear, factors: jax.Array) -> None:
    """Multiplies the outputs of a dense layer, in place."""
    if linear.adapter is not None:
        raise ConfigError(
            f"merging: the adapter of '{linear.info.path}' stays as it is, so that LayerScale cannot be folded into "
            "the layer; leave LayerScale where it is"
        )
    for name in ("kernel", "shared_kernel", "bias"):
        if hasattr(linear, name):
            variable = getattr(linear, name)
            value = variable[...]
            variable[...] = value * factors.reshape((1,) * (value.ndim - 1) + (-1,)).astype(value.dtype)


def checked_kernel(linear: Linear, adapter: LayerAdapter, prepared: Any) -> jax.Array:
    """The kernel that stands for an adapter in its layer.

    Raises:
      ConfigError: it is not `[in, out]`, nor `[S, in, out]` for the streams that leave.
    """
    kernel = adapter.merged_kernel(linear, prepared)
    shape, wanted = getattr(kernel, "shape", None), (linear.inputs, linear.outputs)
    if shape == wanted or shape == (len(adapter.streams_out(())), *wanted):
        return kernel
    found = f"a {type(kernel).__name__}" if shape is None else list(shape)
    streams = len(adapter.streams_out(()))
    raise ConfigError(
        f"{defined_in(adapter)}: merged_kernel gives '{linear.info.path}' {found}, expected {list(wanted)}"
        + (f" or {[streams, *wanted]}" if streams else "")
    )


def detach(model: MultiTaskModel) -> MultiTaskModel:
    """A copy of the model without its adapters: dense layers as they were before `wrap`, all else as it is now."""
    parts = split_state(model)
    bare = parts.merge(parts.trainable, parts.frozen, parts.stats)
    for linear in linears(bare.backbone):
        if linear.adapter is not None:
            kernel = linear.adapter.base_kernel(linear)
            del linear.adapter
            linear.kernel = FrozenParam(kernel)
    bare.adapted = None
    return bare
