"""Which frozen weights a checkpoint was trained on."""

import hashlib
from collections.abc import Mapping

import jax
import numpy as np

from ditask_jax.nn.state import flatten


def fingerprint(frozen: Mapping) -> str:
    """A hash of the frozen weights: a checkpoint belongs to one backbone.

    >>> fingerprint({"a": np.ones(2)}) == fingerprint({"a": np.ones(2)}) != fingerprint({"a": np.zeros(2)})
    True
    """
    digest = hashlib.sha256()
    for name, value in flatten(frozen).items():
        digest.update(name.encode())
        digest.update(np.asarray(_whole(value)).tobytes())
    return digest.hexdigest()


def _whole(value):
    """A weight that is spread over processes, gathered."""
    if isinstance(value, jax.Array) and not (value.is_fully_addressable or value.is_fully_replicated):
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(value, tiled=True)
    return value
