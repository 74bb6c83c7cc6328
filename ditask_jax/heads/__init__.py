"""Decoder heads by name, one per task: `hrnet`, `dpt` and `tspd` for maps, `linear`, and those of plug-ins."""

from ditask_jax.heads.dpt import DptHead, DptOptions
from ditask_jax.heads.head_registry import (
    DEFAULT_HEADS,
    HEADS,
    Head,
    HeadOptions,
    NeckOptions,
    build_options,
    head_class,
    heads_of,
    option_names,
    options_from,
    register_head,
)
from ditask_jax.heads.hrnet import HrnetHead
from ditask_jax.heads.linear_head import LinearHead, LinearMapHead
from ditask_jax.heads.neck import Neck, Pointwise
from ditask_jax.heads.tspd import TspdHead

register_head("hrnet", HrnetHead)
register_head("linear", LinearHead)
register_head("dpt", DptHead)
register_head("tspd", TspdHead)

__all__ = [
    "DEFAULT_HEADS",
    "HEADS",
    "DptHead",
    "DptOptions",
    "Head",
    "HeadOptions",
    "HrnetHead",
    "LinearHead",
    "LinearMapHead",
    "Neck",
    "NeckOptions",
    "Pointwise",
    "TspdHead",
    "build_options",
    "head_class",
    "heads_of",
    "option_names",
    "options_from",
    "register_head",
]
