"""Methods of adapting a backbone: one file each, behind one registry."""

from ditask_jax.adapters.bitfit import BitFit
from ditask_jax.adapters.bottleneck import Adapter
from ditask_jax.adapters.ditask import DiTASK
from ditask_jax.adapters.dora import DoRA
from ditask_jax.adapters.lora import LoRA
from ditask_jax.adapters.merging import detach, merge
from ditask_jax.adapters.mtlora import MTLoRA
from ditask_jax.adapters.norm_tuning import NormTuning
from ditask_jax.adapters.plan import LayerPlan, Plan
from ditask_jax.adapters.registry import Method, method_class, method_names
from ditask_jax.adapters.site import Site
from ditask_jax.adapters.svf import SVF
from ditask_jax.adapters.whole import Frozen, Full
from ditask_jax.adapters.wrap import make_plan, wrap

__all__ = [
    "SVF",
    "Adapter",
    "BitFit",
    "DiTASK",
    "DoRA",
    "Frozen",
    "Full",
    "LayerPlan",
    "LoRA",
    "MTLoRA",
    "Method",
    "NormTuning",
    "Plan",
    "Site",
    "detach",
    "make_plan",
    "merge",
    "method_class",
    "method_names",
    "wrap",
]
