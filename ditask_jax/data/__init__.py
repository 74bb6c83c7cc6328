"""Sources of examples, joint augmentation and step-indexed batches: NumPy and OpenCV on the host, no JAX here."""

from ditask_jax.data.cache import CachedSource
from ditask_jax.data.folder import FolderSource
from ditask_jax.data.pipeline import BatchIterator, Source, eval_batches, num_eval_batches, train_batches
from ditask_jax.data.scenes import ScenesClassificationSource, ScenesSource
from ditask_jax.data.sources import open_source
from ditask_jax.data.transforms import Augmentation, Draw, preset, transform

__all__ = [
    "Augmentation",
    "BatchIterator",
    "CachedSource",
    "Draw",
    "FolderSource",
    "ScenesClassificationSource",
    "ScenesSource",
    "Source",
    "eval_batches",
    "num_eval_batches",
    "open_source",
    "preset",
    "train_batches",
    "transform",
]
