"""Methods of adapting a backbone: one file each, behind one registry."""

from ditask_jax.adapters.ditask import DiTASK
from ditask_jax.adapters.merging import merge
from ditask_jax.adapters.plan import LayerPlan, Plan
from ditask_jax.adapters.registry import Method, method_class, method_names
from ditask_jax.adapters.whole import Frozen, Full
from ditask_jax.adapters.wrap import make_plan, wrap

__all__ = [
    "DiTASK",
    "Frozen",
    "Full",
    "LayerPlan",
    "Method",
    "Plan",
    "make_plan",
    "merge",
    "method_class",
    "method_names",
    "wrap",
]
