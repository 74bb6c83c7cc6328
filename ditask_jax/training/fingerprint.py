"""Which frozen weights a checkpoint was trained on."""

import hashlib
from collections.abc import Mapping

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
        digest.update(np.asarray(value).tobytes())
    return digest.hexdigest()
