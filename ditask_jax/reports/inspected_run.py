"""One trained run taken apart for drawing: predictions, spectra and spectral shift, from a single restore and merge."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from ditask_jax import cpab
from ditask_jax.adapters.merging import detach, merge
from ditask_jax.adapters.methods.ditask import DiffeomorphicAdapter
from ditask_jax.adapters.spectral import SpectralAdapter
from ditask_jax.model import MultiTaskModel
from ditask_jax.nn.context import Context
from ditask_jax.nn.linear import Linear, linears, prepare_adapters
from ditask_jax.nn.state import filled, split_state
from ditask_jax.plots.spectra import LayerSpectra
from ditask_jax.plots.spectral_shift import SpectralShift
from ditask_jax.prediction.predictor import Prediction, Predictor
from ditask_jax.training.restore import restore_run


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What there is to draw of one run.

    Attributes:
      step: of the checkpoint.
      predictions: of the images that were handed over, in their order.
      spectra: layer by layer; empty where the method moves no singular values.
      spectral_shifts: layer by layer.
    """

    step: int
    predictions: list[Prediction]
    spectra: list[LayerSpectra]
    spectral_shifts: list[SpectralShift]


def inspect_run(workdir: str | Path, images: Sequence[np.ndarray] = (), weights: bool = True) -> Inspection:
    """Restores a run once and reads out what is to be drawn.

    Args:
      workdir: the run's folder.
      images: images to predict, uint8 `[H, W, 3]`.
      weights: whether spectra and spectral shift are wanted.

    Raises:
      CheckpointError: no run, no checkpoint, or other frozen weights than it was trained on.
    """
    run = restore_run(workdir)
    model, config = run.experiment.model, run.experiment.config
    merged = merge(model, run.state)
    predictions = []
    if len(images):
        options = {"resize": config.data.resize, "dtype": run.experiment.dtype}
        predictions = Predictor(merged, run.experiment.tasks, **options)(images)
    spectra = layer_spectra(filled(model, run.state)) if weights else []
    moved = spectral_shifts(detach(model), merged) if weights else []
    return Inspection(run.step, predictions, spectra, moved)


# The singular values of a trained model before and after, with the velocity fields and maps that moved them.


_PLACES = 257
_AXES = {"value": "singular value / (headroom x largest)", "index": "index / last index"}


def layer_spectra(model: MultiTaskModel) -> list[LayerSpectra]:
    """Spectra of every layer whose singular values move; none for methods that leave them alone.

    Args:
      model: wrapped and filled with what was trained, not merged.
    """
    layers = [layer for layer in linears(model.backbone) if isinstance(layer.adapter, SpectralAdapter)]
    if not layers:
        return []
    parts = split_state(model.backbone)

    @jax.jit  # one program in place of hundreds: every operation of a flow would be compiled by itself
    def prepare(*values):
        prepared = prepare_adapters(parts.merge(*values), Context(train=False)).prepared
        return {layer.info.path: prepared[layer.info.path] for layer in layers}

    changes = prepare(parts.trainable, parts.frozen, parts.stats)
    fields = _fields([layer.adapter for layer in layers if isinstance(layer.adapter, DiffeomorphicAdapter)])
    return [_of_layer(layer, np.asarray(changes[layer.info.path]), fields) for layer in layers]


def _of_layer(layer, change: np.ndarray, fields: dict) -> LayerSpectra:
    adapter = layer.adapter
    before = np.asarray(adapter.singular_values[...])
    moving = adapter.moving
    own = {stream: fields.get((layer.info.path, name)) for stream, (_, name) in moving.items()}
    known = {stream: found for stream, found in own.items() if found is not None}
    places = np.linspace(0, 1, _PLACES)
    return LayerSpectra(
        layer.info.path,
        before,
        {stream: before + change[k] for stream, (k, _) in moving.items()},
        {stream: (places, velocity) for stream, (velocity, _) in known.items()},
        {stream: (places, moved) for stream, (_, moved) in known.items()},
        _AXES[getattr(adapter, "domain", "value")],
    )


def _fields(adapters) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """(velocity, map) on the grid by (layer, parameter), one flow per tessellation."""
    thetas: dict[int, list] = defaultdict(list)
    for adapter in adapters:
        for name in dict.fromkeys(filter(None, adapter.names)):
            theta = np.asarray(getattr(adapter, name)[...])
            thetas[len(theta)].append(((adapter.path, name), theta))
    places = np.linspace(0, 1, _PLACES)
    found = {}
    for size, entries in thetas.items():
        tess = cpab.Tessellation(size + 1)
        stacked = np.stack([theta for _, theta in entries])
        velocities = np.asarray(cpab.vertex_velocities(stacked, tess))
        moved = np.asarray(cpab.transform(stacked, np.broadcast_to(places, (len(entries), _PLACES)), tess))
        borders = np.linspace(0, 1, size + 2)
        for (key, _), velocity, map_ in zip(entries, velocities, moved, strict=True):
            # Affine in every cell, so that interpolation between the cells' borders is exact.
            found[key] = (np.interp(places, borders, velocity), map_)
    return found


# How far the kernels of a trained model are from those that it started from.


def spectral_shifts(start: MultiTaskModel, end: MultiTaskModel) -> list[SpectralShift]:
    """The relative change of every dense layer of the backbone, `|W' - W| / |W|` in Frobenius norms, by stream.

    Args:
      start: before training, without adapters (`detach` of the untrained model).
      end: trained and merged; layers whose adapter no kernel can stand for are left out.
    """
    before = {layer.info.path: layer for layer in linears(start.backbone)}
    return [
        SpectralShift(layer.info.path, _moved(before[layer.info.path], layer))
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
