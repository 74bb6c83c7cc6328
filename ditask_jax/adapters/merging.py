"""Folding adapters into plain kernels, for inference and export."""

from flax import nnx

from ditask_jax.model import MultiTaskModel
from ditask_jax.nn.context import Context
from ditask_jax.nn.linear import linears, prepare_adapters
from ditask_jax.nn.variables import Frozen


def merge(model: MultiTaskModel) -> MultiTaskModel:
    """A copy of the model with every adapter folded into its kernel; the model itself stays as it is.

    Layers whose streams differ get one kernel per stream, `[S, in, out]`. Merging a merged model changes nothing.
    """
    merged = nnx.clone(model)
    context = prepare_adapters(merged.backbone, Context(train=False))
    for linear in linears(merged.backbone):
        adapter = linear.adapter
        if adapter is None:
            continue
        kernel = adapter.merged_kernel(linear, context.prepared[linear.info.path])
        linear.merged_streams = adapter.streams_out(())
        del linear.adapter
        linear.kernel = Frozen(kernel)
    return merged
