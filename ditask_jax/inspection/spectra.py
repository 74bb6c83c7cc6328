"""The singular values of a trained model before and after, with the velocity fields and maps that moved them."""

from collections import defaultdict

import jax
import numpy as np

from ditask_jax import cpab
from ditask_jax.adapters.ditask import DiffeomorphicAdapter
from ditask_jax.adapters.spectral import SpectralAdapter
from ditask_jax.model import MultiTaskModel
from ditask_jax.nn.context import Context
from ditask_jax.nn.linear import linears, prepare_adapters
from ditask_jax.nn.state import split_state
from ditask_jax.pictures.spectra import LayerSpectra

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
