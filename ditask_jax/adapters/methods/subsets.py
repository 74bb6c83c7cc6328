"""Methods that add nothing and train a subset of the model's own parameters: all, none, biases, norms."""

import dataclasses

from ditask_jax.adapters.method_registry import Method

# The two methods without adapters: everything trains, or nothing of the backbone does.


@dataclasses.dataclass(frozen=True)
class Full(Method):
    """Full fine-tuning: every parameter of the backbone trains."""

    name = "full"

    def trains(self, path: str) -> bool:
        return True


@dataclasses.dataclass(frozen=True)
class Frozen(Method):
    """Decoder-only tuning: the backbone stays as it was loaded."""

    name = "frozen"

    def trains(self, path: str) -> bool:
        return False


# BitFit: the biases of the backbone train, its matrices do not.
#
# References: Ben Zaken et al., "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
# Language-models", ACL 2022.


@dataclasses.dataclass(frozen=True)
class BitFit(Method):
    """Every bias trains: of dense layers, convolutions and norms; relative-position tables are no biases of a layer.

    >>> BitFit().trains("backbone/stages/0/blocks/0/mlp/fc1/bias")
    True
    """

    name = "bitfit"

    def trains(self, path: str) -> bool:
        return path.split("/")[-1] == "bias"


# Norm tuning: scale and bias of every norm of the backbone train, nothing else of it.
#
# References: Basu et al., "Strong Baselines for Parameter Efficient Few-Shot Fine-tuning", AAAI 2024.


@dataclasses.dataclass(frozen=True)
class NormTuning(Method):
    """Every norm trains: of blocks, of patch merging, and of the patch embedding.

    >>> NormTuning().trains("backbone/patch_embed/norm/scale")
    True
    """

    name = "norm"

    def trains(self, path: str) -> bool:
        return any(part.startswith("norm") for part in path.split("/"))
