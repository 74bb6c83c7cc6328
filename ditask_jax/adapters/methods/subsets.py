"""Methods that add nothing and train a subset of the model's own parameters: all, none, biases, norms."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from ditask_jax.adapters.method_registry import PHOTOGRAPHS, SCENES, Method, Tuned

# The two methods without adapters: everything trains, or nothing of the backbone does.


@dataclasses.dataclass(frozen=True)
class Full(Method):
    """Full fine-tuning: every parameter of the backbone trains."""

    name = "full"
    tuned: ClassVar[Mapping[str, Tuned]] = {
        PHOTOGRAPHS: Tuned(
            {"pretrained": 0.03}, "by analogy with 'bitfit' at a tenth of its rate; at 1e-4 for everything mIoU 11.0"
        ),
        SCENES: Tuned({}, "one rate of 0.16 better than 0.032 at 48 pixels"),
    }

    def trains(self, path: str) -> bool:
        return True


@dataclasses.dataclass(frozen=True)
class Frozen(Method):
    """Decoder-only tuning: the backbone stays as it was loaded."""

    name = "frozen"
    tuned: ClassVar[Mapping[str, Tuned]] = {
        PHOTOGRAPHS: Tuned({}, "mIoU 21.1 at 3e-3, 19.4 at 1e-3, 21.2 at 1e-2"),
        SCENES: Tuned({}, "one rate of 0.16 better than 0.032 at 48 pixels"),
    }

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
    tuned: ClassVar[Mapping[str, Tuned]] = {
        PHOTOGRAPHS: Tuned({"pretrained": 0.3}, "biases at 1e-3: mIoU 20.1, frozen at that rate 19.4"),
        SCENES: Tuned({}, "delta_m -20.7 at 1, frozen -25.3"),
    }

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
    tuned: ClassVar[Mapping[str, Tuned]] = {
        PHOTOGRAPHS: Tuned({}, "norms at 1: mIoU 22.0, frozen 21.1"),
        SCENES: Tuned({}, "delta_m -22.3 at 1, frozen -25.3"),
    }

    def trains(self, path: str) -> bool:
        return any(part.startswith("norm") for part in path.split("/"))
