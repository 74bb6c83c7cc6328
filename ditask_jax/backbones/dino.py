"""The Vision Transformers of DINOv2 and DINOv3: sizes of `Vit` with the pieces that they add to it."""

import dataclasses

from ditask_jax.backbones.vit import Vit, VitConfig

PUBLISHED_EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class Dinov2Config(VitConfig):
    """Sizes of a DINOv2: LayerScale, and registers or none.

    Position embeddings are resized as the released models do it: with anti-aliasing where there are registers, without
    it otherwise.

    References: Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", TMLR 2024; Darcet et al.,
    "Vision Transformers Need Registers", ICLR 2024.

    >>> config = Dinov2Config(384, 12, 6, registers=4)
    >>> config.patch, config.layer_scale, config.leading, config.antialias
    (14, 1.0, 5, True)
    """

    patch: int = 14
    layer_scale: float | None = 1.0

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "antialias", self.registers > 0)


@dataclasses.dataclass(frozen=True)
class Dinov3Config(VitConfig):
    """Sizes of a DINOv3: LayerScale, four registers, rotary positions of patches, queries and values with a bias.

    The random shifts and scales of positions in its own training are left out.

    References: Simeoni et al., "DINOv3", 2025.

    >>> config = Dinov3Config(384, 12, 6)
    >>> config.patch, config.leading, config.rotary, config.key_bias
    (16, 5, 100.0, False)
    """

    # Where training starts from random numbers; released weights have their own.
    layer_scale: float | None = 1e-5
    registers: int = 4
    rotary: float | None = 100.0
    key_bias: bool = False
    epsilon: float = PUBLISHED_EPSILON


class Dinov2(Vit):
    """DINOv2 without its final norm; see `Vit`."""


class Dinov3(Vit):
    """DINOv3 without its final norm; see `Vit`."""
