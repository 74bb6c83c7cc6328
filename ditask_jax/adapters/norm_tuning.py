"""Norm tuning: scale and bias of every norm of the backbone train, nothing else of it.

References: Basu et al., "Strong Baselines for Parameter Efficient Few-Shot Fine-tuning", AAAI 2024.
"""

import dataclasses

from ditask_jax.adapters.registry import Method


@dataclasses.dataclass(frozen=True)
class NormTuning(Method):
    """Every norm trains: of blocks, of patch merging, and of the patch embedding.

    >>> NormTuning().trains("backbone/patch_embed/norm/scale")
    True
    """

    name = "norm"

    def trains(self, path: str) -> bool:
        return any(part.startswith("norm") for part in path.split("/"))
