"""How far the kernels of a trained model are from those that it started from."""

import numpy as np

from ditask_jax.model import MultiTaskModel
from ditask_jax.nn.linear import Linear, linears
from ditask_jax.pictures.movement import Movement


def movements(start: MultiTaskModel, end: MultiTaskModel) -> list[Movement]:
    """The relative change of every dense layer of the backbone, `|W' - W| / |W|` in Frobenius norms, by stream.

    Args:
      start: before training, without adapters (`detach` of the untrained model).
      end: trained and merged; layers whose adapter no kernel can stand for are left out.
    """
    before = {layer.info.path: layer for layer in linears(start.backbone)}
    return [
        Movement(layer.info.path, _moved(before[layer.info.path], layer))
        for layer in linears(end.backbone)
        if layer.adapter is None
    ]


def _moved(before: Linear, after: Linear) -> dict[str, float]:
    kernel = np.asarray(before.kernel[...], np.float64)
    size = float(np.linalg.norm(kernel))
    now = np.asarray(after.kernel[...], np.float64)
    streams = after.merged_streams or ("",)
    start, common = kernel, 0.0
    if hasattr(after, "shared_kernel"):
        # The kernel itself acts on the shared stream for all; what acts on a stream's own input began at nothing.
        start, common = 0.0, np.sum(np.square(np.asarray(after.shared_kernel[...], np.float64) - kernel))
    changes = [np.sqrt(np.sum(np.square(one - start)) + common) for one in now.reshape(-1, *kernel.shape)]
    return {stream: float(change) / max(size, 1e-30) for stream, change in zip(streams, changes, strict=True)}
