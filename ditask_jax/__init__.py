"""Multi-task fine-tuning by diffeomorphic singular values, in JAX and Flax.

>>> import ditask_jax as dj
>>> tasks = dj.create_tasks("semseg+depth", dataset="scenes")
>>> model = dj.create_model("swin_test", tasks, image_size=32, widths=(4, 4, 4, 4))
>>> plan = dj.wrap(model, dj.DiTASK(shared_cells=8, task_cells=4))
>>> plan.method, len(plan.layers)
('ditask', 24)
"""

import importlib
from typing import Any

# Public name -> module. Resolved on first use, so that `import ditask_jax` itself is instant and loads no JAX.
_PUBLIC = {
    "Adapter": "ditask_jax.adapters.methods.bottleneck",
    "BitFit": "ditask_jax.adapters.methods.subsets",
    "CheckpointError": "ditask_jax.errors",
    "Checkpointer": "ditask_jax.training.checkpoints",
    "ConfigError": "ditask_jax.errors",
    "Context": "ditask_jax.nn.context",
    "DataError": "ditask_jax.errors",
    "DiTASK": "ditask_jax.adapters.methods.ditask",
    "DitaskError": "ditask_jax.errors",
    "DoRA": "ditask_jax.adapters.methods.lora",
    "FAAR": "ditask_jax.adapters.methods.faar",
    "Frozen": "ditask_jax.adapters.methods.subsets",
    "Full": "ditask_jax.adapters.methods.subsets",
    "HRA": "ditask_jax.adapters.methods.hra",
    "IA3": "ditask_jax.adapters.methods.ia3",
    "LoRA": "ditask_jax.adapters.methods.lora",
    "LoRAXS": "ditask_jax.adapters.methods.subspace",
    "MTLoRA": "ditask_jax.adapters.methods.mtlora",
    "Method": "ditask_jax.adapters.method_registry",
    "NormTuning": "ditask_jax.adapters.methods.subsets",
    "PSOFT": "ditask_jax.adapters.methods.subspace",
    "Plan": "ditask_jax.adapters.plan",
    "Predictor": "ditask_jax.prediction.predictor",
    "SVF": "ditask_jax.adapters.methods.svf",
    "SVFT": "ditask_jax.adapters.methods.svft",
    "Task": "ditask_jax.tasks",
    "Tessellation": "ditask_jax.cpab",
    "Trainer": "ditask_jax.training.trainer",
    "VeRA": "ditask_jax.adapters.methods.vera",
    "WeightsError": "ditask_jax.errors",
    "adapter_groups": "ditask_jax.adapters.storage",
    "backbone_entry": "ditask_jax.backbones",
    "convert_weights": "ditask_jax.conversion.importing",
    "create_model": "ditask_jax.model",
    "create_tasks": "ditask_jax.tasks",
    "delta_m": "ditask_jax.tasks",
    "detach": "ditask_jax.adapters.merging",
    "export_program": "ditask_jax.conversion.exporting",
    "export_weights": "ditask_jax.conversion.exporting",
    "list_models": "ditask_jax.backbones",
    "load_adapter": "ditask_jax.adapters.storage",
    "load_backbone": "ditask_jax.training.experiment",
    "load_config": "ditask_jax.config",
    "load_trained": "ditask_jax.training.experiment",
    "make_plan": "ditask_jax.adapters.wrap",
    "merge": "ditask_jax.adapters.merging",
    "method_names": "ditask_jax.adapters",
    "open_source": "ditask_jax.data",
    "register_backbone": "ditask_jax.backbones",
    "register_dataset": "ditask_jax.registering",
    "register_head": "ditask_jax.heads",
    "register_task": "ditask_jax.registering",
    "save_adapter": "ditask_jax.adapters.storage",
    "split_state": "ditask_jax.nn.state",
    "wrap": "ditask_jax.adapters.wrap",
}

__all__ = [
    *_PUBLIC,
    "__version__",
]
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        hint = "; import ditask_jax.tasks for the package, or call create_tasks(...)" if name == "tasks" else ""
        raise AttributeError(f"module 'ditask_jax' has no attribute '{name}'{hint}")
    return globals().setdefault(name, getattr(importlib.import_module(_PUBLIC[name]), name))


def __dir__() -> list[str]:
    return sorted(__all__)
