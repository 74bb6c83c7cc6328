"""The backbones that can be built by name: sizes, image statistics, and what their released weights are called."""

import dataclasses
import re

from ditask_jax.backbones.dino import Dinov2Config, Dinov3Config
from ditask_jax.backbones.pvt import PvtConfig, PvtV2Config
from ditask_jax.backbones.swin import SwinConfig
from ditask_jax.backbones.vit import VitConfig

Config = SwinConfig | PvtConfig | PvtV2Config | VitConfig | Dinov2Config | Dinov3Config

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# What the released ViTs of the "augreg" and original ImageNet-21k recipes were trained with; DINO's use ImageNet's.
HALF = (0.5, 0.5, 0.5)


@dataclasses.dataclass(frozen=True)
class BackboneEntry:
    """One line of the registry: what to build, and what its pretrained weights expect.

    Attributes:
      config: sizes.
      mean, std: per-channel statistics of images in [0, 1].
      image_size: side in pixels of the images that released weights were trained on.
      licence: of the released weights, as an SPDX name where there is one; "" where there are none.
      licence_page: address of its text, where it is no SPDX licence.
      gated: address where one has to accept the licence before the weights can be had; "" for none.
      trained_on: what the released weights were trained on, where their names do not tell.
      weight_files: usual names of released weights; those without a suffix are repositories of the timm collection.
      embedded_weights: name of a weight file inside the package, or "".
    """

    config: Config
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    image_size: int = 224
    licence: str = ""
    licence_page: str = ""
    gated: str = ""
    trained_on: str = ""
    weight_files: tuple[str, ...] = ()
    embedded_weights: str = ""


def _swin(size: str, config: SwinConfig) -> tuple[str, BackboneEntry]:
    pixels = 384 if config.window == 12 else 224
    name = f"swin_{size}_patch4_window{config.window}"
    large, full = size in ("base", "large"), f"{name}_{pixels}"
    # Microsoft has no Large trained on ImageNet-1k alone, and calls the fine-tuned files by two patterns.
    official = [] if size == "large" else [f"{full}.pth"]
    official += [f"{full}_22k.pth", f"{full}_22kto1k.pth" if large else f"{full}_22kto1k_finetune.pth"]
    timm = [] if size == "large" else [f"{full}.ms_in1k"]
    timm += [f"{full}.ms_in22k", f"{full}.ms_in22k_ft_in1k"]
    return name, BackboneEntry(config, image_size=pixels, licence="MIT", weight_files=(*official, *timm))


_SWINS = dict(
    [
        _swin("tiny", SwinConfig(96, (2, 2, 6, 2), (3, 6, 12, 24))),
        _swin("small", SwinConfig(96, (2, 2, 18, 2), (3, 6, 12, 24))),
        _swin("base", SwinConfig(128, (2, 2, 18, 2), (4, 8, 16, 32))),
        _swin("large", SwinConfig(192, (2, 2, 18, 2), (6, 12, 24, 48))),
        _swin("base", SwinConfig(128, (2, 2, 18, 2), (4, 8, 16, 32), window=12)),
        _swin("large", SwinConfig(192, (2, 2, 18, 2), (6, 12, 24, 48), window=12)),
    ]
)

_SWIN_NAME = re.compile(r"swin_(tiny|small|base|large)_patch4_window([1-9]\d?)")


def swin_of_window(name: str) -> BackboneEntry | None:
    """The entry of a released size of Swin by a name with another window; None for registered and any other names.

    Tables of relative positions are resized to the window when weights are loaded.

    >>> swin_of_window("swin_tiny_patch4_window16").config.window, swin_of_window("swin_tiny_patch4_window7")
    (16, None)
    """
    match = None if name in REGISTRY else _SWIN_NAME.fullmatch(name)
    if match is None:
        return None
    entry = _SWINS[f"swin_{match[1]}_patch4_window7"]
    return dataclasses.replace(entry, config=dataclasses.replace(entry.config, window=int(match[2])))


_PVT_DEPTHS = {"tiny": (2, 2, 2, 2), "small": (3, 4, 6, 3), "medium": (3, 4, 18, 3), "large": (3, 8, 27, 3)}
_PVTS = {
    f"pvt_{size}": BackboneEntry(
        PvtConfig((64, 128, 320, 512), depths), licence="Apache-2.0", weight_files=(f"pvt_{size}.pth",)
    )
    for size, depths in _PVT_DEPTHS.items()
}

_PVT_V2 = {
    "b0": PvtV2Config((32, 64, 160, 256), (2, 2, 2, 2)),
    "b1": PvtV2Config((64, 128, 320, 512), (2, 2, 2, 2)),
    "b2": PvtV2Config((64, 128, 320, 512), (3, 4, 6, 3)),
    "b2_li": PvtV2Config((64, 128, 320, 512), (3, 4, 6, 3), linear=True),
    "b3": PvtV2Config((64, 128, 320, 512), (3, 4, 18, 3)),
    "b4": PvtV2Config((64, 128, 320, 512), (3, 8, 27, 3)),
    "b5": PvtV2Config((64, 128, 320, 512), (3, 6, 40, 3), mlp_ratios=(4, 4, 4, 4)),
}
_PVT_V2S = {
    f"pvt_v2_{size}": BackboneEntry(
        config, licence="Apache-2.0", weight_files=(f"pvt_v2_{size}.pth", f"pvt_v2_{size}.in1k")
    )
    for size, config in _PVT_V2.items()
}

# Channels, blocks, heads.
_VIT_SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
_VIT_WEIGHTS = {
    "vit_tiny_patch16": ("augreg_in21k", "augreg_in21k_ft_in1k"),
    "vit_small_patch16": ("augreg_in21k", "augreg_in21k_ft_in1k", "augreg_in1k"),
    "vit_small_patch32": ("augreg_in21k", "augreg_in21k_ft_in1k"),
    "vit_base_patch8": ("augreg_in21k", "augreg_in21k_ft_in1k"),
    "vit_base_patch16": ("augreg_in21k", "augreg_in21k_ft_in1k", "orig_in21k", "augreg_in1k"),
    "vit_base_patch32": ("augreg_in21k", "augreg_in21k_ft_in1k", "augreg_in1k"),
    "vit_large_patch16": ("augreg_in21k", "augreg_in21k_ft_in1k"),
    "vit_large_patch32": ("orig_in21k",),
}


def _vit(size: str, patch: int, class_token: bool) -> tuple[str, BackboneEntry]:
    name = f"vit_{size}_patch{patch}"
    files = tuple(f"{name}_224.{recipe}" for recipe in _VIT_WEIGHTS.get(name, ())) if class_token else ()
    config = VitConfig(*_VIT_SIZES[size], patch=patch, class_token=class_token)
    entry = BackboneEntry(config, HALF, HALF, licence="Apache-2.0" if files else "", weight_files=files)
    # "gap": without a class token, classified from the mean over positions.
    return name if class_token else f"{name}_gap", entry


_VITS = dict(_vit(size, patch, token) for token in (True, False) for size in _VIT_SIZES for patch in (8, 14, 16, 32))

_DINO_LETTERS = {"small": "s", "base": "b", "large": "l"}


def _dinov2(size: str, registers: int) -> tuple[str, BackboneEntry]:
    name = f"vit_{size}_patch14_{'reg4_' if registers else ''}dinov2"
    config = Dinov2Config(*_VIT_SIZES[size], registers=registers)
    official = f"dinov2_vit{_DINO_LETTERS[size]}14_{'reg4_' if registers else ''}pretrain.pth"
    return name, BackboneEntry(
        config,
        image_size=518,
        licence="Apache-2.0",
        trained_on="LVD-142M",
        weight_files=(official, f"{name}.lvd142m", f"dinov2{'-with-registers' if registers else ''}-{size}"),
    )


_DINOV2 = dict(_dinov2(size, registers) for registers in (0, 4) for size in _DINO_LETTERS)


def _dinov3(size: str, gated: bool = False) -> tuple[str, BackboneEntry]:
    letter, plus = _DINO_LETTERS[size], "plus" if gated else ""
    name = f"vit_{size}_{'plus_' if gated else ''}patch16_dinov3"
    released = f"dinov3-vit{letter}16{plus}-pretrain-lvd1689m"
    return name, BackboneEntry(
        Dinov3Config(*_VIT_SIZES[size], gated=gated),
        image_size=256,
        licence="DINOv3 License",
        licence_page="https://ai.meta.com/resources/models-and-libraries/dinov3-license/",
        gated=f"https://huggingface.co/facebook/{released}",
        trained_on="LVD-1689M",
        weight_files=(
            f"dinov3_vit{letter}16{plus}_pretrain_lvd1689m.pth",
            f"{name}.lvd1689m",
            f"{name}_qkvb.lvd1689m",
            released,
        ),
    )


_DINOV3 = dict([_dinov3("small"), _dinov3("small", gated=True), _dinov3("base"), _dinov3("large")])

# Small enough for tests: every family once, under names that end in _test.
_TESTS = {
    "swin_test": BackboneEntry(SwinConfig(8, (1, 2, 1, 2), (1, 2, 2, 4), window=2), image_size=64),
    "swin_test_deep": BackboneEntry(SwinConfig(12, (2, 2, 2, 2), (1, 2, 4, 4), window=4), image_size=64),
    "pvt_test": BackboneEntry(PvtConfig((8, 12, 16, 20), (1, 1, 1, 1), (1, 2, 2, 4), (2, 2, 2, 2)), image_size=64),
    "pvt_v2_test": BackboneEntry(PvtV2Config((8, 12, 16, 20), (1, 1, 1, 1), (1, 2, 2, 4), (2, 2, 2, 2)), image_size=64),
    "vit_test": BackboneEntry(VitConfig(16, 5, 2), HALF, HALF, image_size=64),
    # Factors of LayerScale far from 0, so that laws see what stands behind them.
    "dinov2_test": BackboneEntry(Dinov2Config(16, 4, 2, patch=16, registers=2), image_size=64),
    "dinov2_test_plain": BackboneEntry(Dinov2Config(16, 4, 2, patch=16), image_size=64),
    "dinov3_test": BackboneEntry(Dinov3Config(16, 4, 2, layer_scale=0.5, gated=True, mlp_ratio=2), image_size=64),
}

REGISTRY: dict[str, BackboneEntry] = {
    **_SWINS,
    # The embedded weights: pretrained on scenes, small enough to fine-tune on a laptop core.
    "swin_nano_patch2_window6": BackboneEntry(
        SwinConfig(16, (2, 2, 2, 2), (1, 2, 4, 8), window=6, patch=2),
        image_size=96,
        licence="Apache-2.0",
        embedded_weights="swin_nano_scenes.safetensors",
    ),
    # Its sister, for comparing methods on small scenes (configs/table6.py); `ditask_jax.pretrain` makes weights.
    "pvt_nano": BackboneEntry(PvtConfig((16, 32, 64, 128), (2, 2, 2, 2), (1, 2, 4, 8), (4, 4, 4, 4)), image_size=96),
    **_PVTS,
    **_PVT_V2S,
    **_VITS,
    **_DINOV2,
    **_DINOV3,
    **_TESTS,
}
