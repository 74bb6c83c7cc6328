"""Singular values before and after, layer by layer, from a training state: what the logs show of a spectral method."""

from collections.abc import Callable

import jax
from jax.sharding import Mesh

from ditask_jax.adapters.spectral import SpectralAdapter
from ditask_jax.nn.context import Context
from ditask_jax.nn.linear import linears, prepare_adapters
from ditask_jax.nn.state import ModelState
from ditask_jax.training.mesh import replicated


def make_spectra(parts: ModelState, mesh: Mesh) -> Callable:
    """`spectra(trainable, stats, frozen) -> {"LAYER/STREAM": (before, after)}`, jitted, each `[P, R]`.

    P > 1 in a packed q, k, v. Streams with the unchanged spectrum are left out, and so are layers whose singular values
    do not move: for most methods the dict is empty.
    """

    def spectra(trainable, stats, frozen):
        backbone = parts.merge(trainable, frozen, stats).backbone
        prepared = prepare_adapters(backbone, Context(train=False)).prepared
        found = {}
        for layer in linears(backbone):
            adapter = layer.adapter
            if not isinstance(adapter, SpectralAdapter):
                continue
            before, change = adapter.singular_values[...], prepared[layer.info.path]
            for stream, (row, _) in adapter.moving.items():
                found[f"{layer.info.path}/{stream}"] = (before, before + change[row])
        return found

    return jax.jit(spectra, out_shardings=replicated(mesh))
