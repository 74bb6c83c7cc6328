"""Methods of adapting a backbone: one file each, behind one registry."""

from ditask_jax.adapters.merging import detach, merge
from ditask_jax.adapters.method_registry import Method, Tuned, method_class, method_names
from ditask_jax.adapters.methods.bottleneck import Adapter
from ditask_jax.adapters.methods.ditask import DiTASK
from ditask_jax.adapters.methods.faar import FAAR
from ditask_jax.adapters.methods.hra import HRA
from ditask_jax.adapters.methods.ia3 import IA3
from ditask_jax.adapters.methods.lora import DoRA, LoRA
from ditask_jax.adapters.methods.mtlora import MTLoRA
from ditask_jax.adapters.methods.subsets import BitFit, Frozen, Full, NormTuning
from ditask_jax.adapters.methods.subspace import PSOFT, LoRAXS
from ditask_jax.adapters.methods.svf import SVF
from ditask_jax.adapters.methods.svft import SVFT
from ditask_jax.adapters.methods.vera import VeRA
from ditask_jax.adapters.plan import LayerPlan, Plan, Site
from ditask_jax.adapters.wrap import make_plan, wrap

__all__ = [
    "FAAR",
    "HRA",
    "IA3",
    "PSOFT",
    "SVF",
    "SVFT",
    "Adapter",
    "BitFit",
    "DiTASK",
    "DoRA",
    "Frozen",
    "Full",
    "LayerPlan",
    "LoRA",
    "LoRAXS",
    "MTLoRA",
    "Method",
    "NormTuning",
    "Plan",
    "Site",
    "Tuned",
    "VeRA",
    "detach",
    "make_plan",
    "merge",
    "method_class",
    "method_names",
    "wrap",
]
