"""All layouts, and which one a file is of."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ditask_jax.backbones import backbone_entry
from ditask_jax.conversion import dino_names, multitask_layouts, pvt_names, swin_names, vit_names
from ditask_jax.conversion.layouts import Layout
from ditask_jax.errors import ConfigError, WeightsError, check_known

LAYOUTS: list[Layout] = [
    swin_names.SWIN_OFFICIAL,
    swin_names.SWIN_TIMM,
    swin_names.SWIN_HUGGINGFACE,
    multitask_layouts.DITASK,
    multitask_layouts.MTLORA,
    pvt_names.PVT_OFFICIAL,
    pvt_names.PVT_HUGGINGFACE,
    pvt_names.PVT_V2_OFFICIAL,
    pvt_names.PVT_V2_TIMM,
    pvt_names.PVT_V2_HUGGINGFACE,
    vit_names.VIT_TIMM,
    vit_names.VIT_HUGGINGFACE,
    dino_names.DINOV2_OFFICIAL,
    dino_names.DINOV2_TIMM,
    dino_names.DINOV2_HUGGINGFACE,
    dino_names.DINOV2_REGISTERS_HUGGINGFACE,
    dino_names.DINOV3_OFFICIAL,
    dino_names.DINOV3_TIMM,
    dino_names.DINOV3_TIMM_QKVB,
    dino_names.DINOV3_HUGGINGFACE,
]
# What `export` can be asked for; "ditask" is a file format of its own, for every backbone.
ONE_STREAM = ("timm", "timm_qkvb", "official", "huggingface")


def recognise(arrays: Mapping[str, np.ndarray], where: str) -> Layout:
    """The layout of a file, from the names of its tensors.

    Raises:
      WeightsError: none fits.
    """
    names = list(arrays)
    near = [layout for layout in LAYOUTS if layout.resembles(names)]
    for layout in near:
        if not layout.strange(names):
            return layout
    titles = dict.fromkeys(layout.title for layout in LAYOUTS)
    if near:
        nearest = min(near, key=lambda layout: (len(layout.strange(names)), -len(layout.marks)))
        raise WeightsError(
            f"{where} is a variant that is not known here: its names are those of {nearest.title}, but it also has "
            f"{' '.join(sorted(nearest.strange(names))[:4])}. Known: {', '.join(titles)}"
        )
    raise WeightsError(
        f"{where} is of no layout that is known here: its {len(names)} tensors begin with "
        f"{' '.join(sorted(names)[:4])}. Known: {', '.join(titles)}"
    )


def layout_of(name: str, architecture: str) -> Layout:
    """The layout of a name for a backbone.

    Raises:
      WeightsError: the family has no layout of that name.
    """
    return layout_for(name, backbone_entry(architecture).config, architecture)


def layout_for(name: str, config: Any, architecture: str) -> Layout:
    """The same for sizes that need not be those of the name in the registry."""
    of_family = [l for l in LAYOUTS if type(config) is l.family.config_class and l.fits(config)]
    fitting = {layout.name: layout for layout in of_family if layout.name in ONE_STREAM}
    if not fitting:
        raise WeightsError(
            f"export: layout '{name}': the backbone '{architecture}' declares no names of another code base; "
            f"--layout ditask and --program work for every backbone, or declare them by "
            "ditask_jax.conversion.layout_registry.register_layout"
            f"(Layout(name='{name}', family, table, marks)) in its file"
        )
    check_known(f"export: layout of '{architecture}'", name, fitting, WeightsError)
    return fitting[name]


def register_layout(layout: Layout) -> None:
    """Adds the names that another code base gives the weights of a backbone of one's own, for `convert` and `export`.

    Raises:
      ConfigError: the name is none that `export` can be asked for, or the family has it already.

    >>> register_layout(vit_names.VIT_TIMM)
    Traceback (most recent call last):
    ...
    ditask_jax.errors.ConfigError: layout: ViT has the layout 'timm' already
    """
    check_known("layout: name", layout.name, ONE_STREAM)
    if any(l.name == layout.name and l.family.config_class is layout.family.config_class for l in LAYOUTS):
        raise ConfigError(f"layout: {layout.family.name} has the layout '{layout.name}' already")
    LAYOUTS.append(layout)
