"""Backbones by name: sizes, image statistics and weight files."""

import dataclasses

from ditask_jax.backbones.swin import Swin, SwinConfig
from ditask_jax.errors import ConfigError, check_known
from ditask_jax.nn.scope import Scope

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class BackboneEntry:
    """One line of the registry: what to build, and what its pretrained weights expect.

    Attributes:
      config: sizes.
      mean, std: per-channel statistics of images in [0, 1].
      embedded_weights: name of a weight file inside the package, or "".
    """

    config: SwinConfig
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    embedded_weights: str = ""


_REGISTRY: dict[str, BackboneEntry] = {
    "swin_tiny_patch4_window7": BackboneEntry(SwinConfig(96, (2, 2, 6, 2), (3, 6, 12, 24))),
    "swin_small_patch4_window7": BackboneEntry(SwinConfig(96, (2, 2, 18, 2), (3, 6, 12, 24))),
    "swin_base_patch4_window7": BackboneEntry(SwinConfig(128, (2, 2, 18, 2), (4, 8, 16, 32))),
    "swin_large_patch4_window7": BackboneEntry(SwinConfig(192, (2, 2, 18, 2), (6, 12, 24, 48))),
    "swin_base_patch4_window12": BackboneEntry(SwinConfig(128, (2, 2, 18, 2), (4, 8, 16, 32), window=12)),
    "swin_large_patch4_window12": BackboneEntry(SwinConfig(192, (2, 2, 18, 2), (6, 12, 24, 48), window=12)),
    # The embedded start: pre-trained on scenes, small enough to fine-tune on a laptop core.
    "swin_nano_patch4_window6": BackboneEntry(
        SwinConfig(32, (2, 2, 2, 2), (2, 4, 8, 16), window=6), embedded_weights="swin_nano_scenes.safetensors"
    ),
    "swin_test": BackboneEntry(SwinConfig(8, (1, 2, 1, 2), (1, 2, 2, 4), window=2)),
    "swin_test_deep": BackboneEntry(SwinConfig(12, (2, 2, 2, 2), (1, 2, 4, 4), window=4)),
}


def list_models() -> list[str]:
    """Names of every backbone.

    >>> "swin_tiny_patch4_window7" in list_models()
    True
    """
    return list(_REGISTRY)


def backbone_entry(name: str) -> BackboneEntry:
    """The registry's line of a backbone; an unknown name raises ConfigError with the nearest one."""
    check_known("config: backbone.name", name, _REGISTRY)
    return _REGISTRY[name]


def create_backbone(name: str, image_size, drop_path_rate: float = 0.0, scope: Scope | None = None) -> Swin:
    """Builds a backbone with seeded random weights for one image size.

    Raises:
      ConfigError: unknown name, or an image size the windows cannot tile.
    """
    entry = backbone_entry(name)
    if not 0 <= drop_path_rate < 1:
        raise ConfigError(f"config: backbone.drop_path_rate: got {drop_path_rate}, expected a number in [0, 1)")
    return Swin(entry.config, image_size, drop_path_rate, scope)
