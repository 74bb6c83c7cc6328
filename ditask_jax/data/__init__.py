"""Sources of examples, joint augmentation and step-indexed batches: NumPy and OpenCV on the host, no JAX here."""

import importlib
from typing import Any

# Public name -> module. Resolved on first use: grain takes seconds to load, and looking at files does not need it.
_PUBLIC = {
    "Augmentation": "ditask_jax.data.augment",
    "BatchIterator": "ditask_jax.data.pipeline",
    "CachedSource": "ditask_jax.data.wrappers",
    "Draw": "ditask_jax.data.augment",
    "FolderSource": "ditask_jax.data.folder",
    "ScenesSource": "ditask_jax.scenes",
    "SkippingSource": "ditask_jax.data.wrappers",
    "Source": "ditask_jax.data.wrappers",
    "aside": "ditask_jax.data.wrappers",
    "eval_batches": "ditask_jax.data.pipeline",
    "num_eval_batches": "ditask_jax.data.pipeline",
    "open_source": "ditask_jax.data.sources",
    "preset": "ditask_jax.data.augment",
    "train_batches": "ditask_jax.data.pipeline",
    "transform": "ditask_jax.data.augment",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ditask_jax.data' has no attribute '{name}'")
    return globals().setdefault(name, getattr(importlib.import_module(_PUBLIC[name]), name))


def __dir__() -> list[str]:
    return sorted(__all__)
