"""Backbones by name."""

import dataclasses
import fnmatch
import re
from collections.abc import Sequence

from ditask_jax.backbones.backbone_registry import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    REGISTRY,
    BackboneEntry,
    Config,
    swin_of_window,
)
from ditask_jax.backbones.blocks import Backbone
from ditask_jax.backbones.dino import Dinov2, Dinov2Config, Dinov3, Dinov3Config
from ditask_jax.backbones.geometry import Size
from ditask_jax.backbones.pvt import Pvt, PvtConfig, PvtV2, PvtV2Config
from ditask_jax.backbones.swin import Swin, SwinConfig
from ditask_jax.backbones.vit import Vit, VitConfig
from ditask_jax.errors import ConfigError, check_known, defined_in
from ditask_jax.nn.context import Scope
from ditask_jax.nn.linear import Roles

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Backbone",
    "BackboneEntry",
    "Roles",
    "backbone_config",
    "backbone_entry",
    "build_backbone",
    "create_backbone",
    "known_backbone",
    "known_roles",
    "list_models",
    "register_backbone",
]

_CLASSES: dict[type[Config], type[Backbone]] = {
    SwinConfig: Swin,
    PvtConfig: Pvt,
    PvtV2Config: PvtV2,
    VitConfig: Vit,
    Dinov2Config: Dinov2,
    Dinov3Config: Dinov3,
}
READOUTS = ("map", "last", "token", "map+token")


def list_models(pattern: str | None = None) -> list[str]:
    """Names of every backbone, or of those that match a shell pattern.

    >>> "swin_tiny_patch4_window7" in list_models()
    True
    >>> list_models("pvt_v2_b[01]")
    ['pvt_v2_b0', 'pvt_v2_b1']
    """
    return [name for name in REGISTRY if pattern is None or fnmatch.fnmatchcase(name, pattern)]


def known_backbone(name: str) -> bool:
    """Whether `backbone_entry` knows a name.

    >>> known_backbone("swin_tiny_patch4_window16"), known_backbone("swin_tiny")
    (True, False)
    """
    return name in REGISTRY or swin_of_window(name) is not None


def backbone_entry(name: str) -> BackboneEntry:
    """The registry's line of a backbone; an unknown name raises ConfigError with the nearest one.

    The sizes of Swin are known with other windows too, by a name such as `swin_tiny_patch4_window16`.

    >>> entry = backbone_entry("vit_base_patch16")
    >>> entry.mean, entry.licence, entry.weight_files[0]
    ((0.5, 0.5, 0.5), 'Apache-2.0', 'vit_base_patch16_224.augreg_in21k')
    """
    other_window = swin_of_window(name)
    if other_window is not None:
        return other_window
    check_known("config: backbone.name", name, REGISTRY)
    return REGISTRY[name]


def register_backbone(name: str, entry: BackboneEntry, backbone: type[Backbone]) -> None:
    """Adds a backbone of one's own, which `backbone.name` and `create_model` then know.

    Args:
      name: a new name for `list_models()`.
      entry: its sizes and what its images look like. `entry.config` is a frozen dataclass of a class of its own with
        `feature_channels` (channels of every tap) and `readouts` (what can be read, see `Backbone`).
      backbone: the class, called as `backbone(config, image_size, drop_path_rate, scope, readout)`.

    Raises:
      ConfigError: the name, or the class of the sizes, is taken by another; something that is needed is not declared.

    >>> register_backbone("vit_test", BackboneEntry(VitConfig(16, 5, 2)), Vit)
    Traceback (most recent call last):
    ...
    ditask_jax.errors.ConfigError: config: backbone.name: 'vit_test' is registered already; choose another name
    """
    _check_declared(name, entry, backbone)
    if name in REGISTRY:
        raise ConfigError(f"config: backbone.name: '{name}' is registered already; choose another name")
    if _CLASSES.setdefault(type(entry.config), backbone) is not backbone:
        raise ConfigError(
            f"config: backbone.name: '{name}': sizes of class {type(entry.config).__name__} belong to another "
            "backbone; give yours a dataclass of its own"
        )
    REGISTRY[name] = entry


def known_roles() -> list[Roles]:
    """The roles of the dense layers of every registered backbone, each set once.

    >>> known_roles()[0].order
    ('qkv', 'proj', 'fc1', 'fc2')
    """
    return list(dict.fromkeys(backbone.roles for backbone in _CLASSES.values()))


def _check_declared(name: str, entry: BackboneEntry, backbone: type[Backbone]) -> None:
    where = f"config: backbone.name: '{name}'"
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise ConfigError(f"{where}: a name is made of letters, digits, '_', '.' and '-', such as 'my_net_tiny'")
    if not (isinstance(backbone, type) and issubclass(backbone, Backbone)):
        raise ConfigError(f"{where}: got {backbone!r}, expected a subclass of ditask_jax.backbones.Backbone")
    config, kind = entry.config, defined_in(entry.config)
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise ConfigError(f"{where}: sizes are a {kind}, expected an object of a frozen dataclass")
    channels, readouts = (getattr(config, field, None) for field in ("feature_channels", "readouts"))
    if not isinstance(channels, tuple) or not channels or not all(isinstance(c, int) and c > 0 for c in channels):
        raise ConfigError(
            f"{where}: {kind}: feature_channels: got {channels!r}, expected a tuple with a number per stage"
        )
    if not isinstance(readouts, tuple) or not readouts or set(readouts) - set(READOUTS):
        raise ConfigError(f"{where}: {kind}: readouts: got {readouts!r}, expected some of {READOUTS}")
    roles = backbone.roles
    if strange := [role for role in (*roles.task, *roles.ends) if role not in roles.order]:
        raise ConfigError(f"{where}: {defined_in(backbone)}: roles: '{strange[0]}' is not in their order {roles.order}")


def backbone_config(name: str, taps: Sequence[int] | None = None) -> Config:
    """The sizes of a backbone.

    Args:
      name: one of `list_models()`.
      taps: ViT only: blocks behind which features are read (see `VitConfig`).

    Raises:
      ConfigError: unknown name, or taps that the backbone does not have.

    >>> backbone_config("vit_base_patch16", taps=(5, 11)).feature_channels
    (768, 768)
    """
    config = backbone_entry(name).config
    if taps is None:
        return config
    if "taps" not in (field.name for field in dataclasses.fields(config)):
        raise ConfigError(f"config: backbone.taps: '{name}' is read behind its stages; leave taps out, or take a ViT")
    return dataclasses.replace(config, taps=tuple(taps))


def create_backbone(
    name: str,
    image_size: int | Size,
    drop_path_rate: float = 0.0,
    scope: Scope | None = None,
    readout: str = "map",
    taps: Sequence[int] | None = None,
) -> Backbone:
    """Builds a backbone with seeded random weights for one image size.

    Args:
      name: one of `list_models()`.
      image_size: pixels, an int or (height, width).
      drop_path_rate: of the last block; linear from 0.
      scope: where the backbone stands; decides the initial values.
      readout: "map" for a tap per stage, "last" for the last stage's alone, "token" for the class token alone,
        "map+token" for a tap per stage and the class token.
      taps: ViT only: blocks behind which features are read.

    Raises:
      ConfigError: unknown name, an image size that does not fit, or an option that the backbone does not have.

    >>> create_backbone("vit_test", 64, taps=(1, 4)).config.depths
    (2, 3)
    """
    return build_backbone(backbone_config(name, taps), image_size, drop_path_rate, scope, readout)


def build_backbone(
    config: Config,
    image_size: int | Size,
    drop_path_rate: float = 0.0,
    scope: Scope | None = None,
    readout: str = "map",
) -> Backbone:
    """The same from sizes that need no name in the registry."""
    if not 0 <= drop_path_rate < 1:
        raise ConfigError(f"config: backbone.drop_path_rate: got {drop_path_rate}, expected a number in [0, 1)")
    check_known("create_backbone: readout", readout, READOUTS)
    if readout not in config.readouts:
        hint = "; it has no class token: use 'last' and average its positions" if "last" in config.readouts else ""
        raise ConfigError(
            f"create_backbone: readout: '{readout}': this backbone gives {' '.join(config.readouts)}{hint}"
        )
    backbone = _CLASSES[type(config)](config, image_size, drop_path_rate, scope, readout)
    for field in ("config", "image_size", "readout"):
        if not hasattr(backbone, field):
            raise ConfigError(f"backbone: {defined_in(backbone)} does not set self.{field} in its __init__")
    return backbone
