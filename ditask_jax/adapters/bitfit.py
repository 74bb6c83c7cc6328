"""BitFit: the biases of the backbone train, its matrices do not.

References: Ben Zaken et al., "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
Language-models", ACL 2022.
"""

import dataclasses

from ditask_jax.adapters.registry import Method


@dataclasses.dataclass(frozen=True)
class BitFit(Method):
    """Every bias trains: of dense layers, convolutions and norms; relative-position tables are no biases of a layer.

    >>> BitFit().trains("backbone/stages/0/blocks/0/mlp/fc1/bias")
    True
    """

    name = "bitfit"

    def trains(self, path: str) -> bool:
        return path.split("/")[-1] == "bias"
