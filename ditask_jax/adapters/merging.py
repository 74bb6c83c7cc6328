"""Folding adapters into plain kernels, for inference and export."""

from typing import Any

import jax

from ditask_jax.errors import ConfigError, defined_in
from ditask_jax.model import MultiTaskModel
from ditask_jax.nn.context import Context
from ditask_jax.nn.filling import filled
from ditask_jax.nn.linear import Adapter, Linear, linears, prepare_adapters
from ditask_jax.nn.state import split_state
from ditask_jax.nn.variables import Frozen


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
        linear.kernel = Frozen(kernel)
        if shared_kernel is not None:
            linear.shared_kernel = Frozen(shared_kernel)
        merged.adapted = None
    return merged


def checked_kernel(linear: Linear, adapter: Adapter, prepared: Any) -> jax.Array:
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
            linear.kernel = Frozen(kernel)
    bare.adapted = None
    return bare
