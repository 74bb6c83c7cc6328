"""Tasks: what is predicted, how it is trained, scored and shown; one file per task, no flax and no data loading."""

from ditask_jax.tasks.base import Task, multi_task_loss
from ditask_jax.tasks.class_map import HumanParts, SemanticSegmentation
from ditask_jax.tasks.classification import Classification
from ditask_jax.tasks.delta_m import delta_m, delta_m_of, load_references
from ditask_jax.tasks.depth import Depth
from ditask_jax.tasks.edge import EdgeDetection
from ditask_jax.tasks.normals import SurfaceNormals
from ditask_jax.tasks.sal import Saliency
from ditask_jax.tasks.task_registry import DATASETS, IMAGE_MEAN, IMAGE_STD, create_tasks

__all__ = [
    "DATASETS",
    "IMAGE_MEAN",
    "IMAGE_STD",
    "Classification",
    "Depth",
    "EdgeDetection",
    "HumanParts",
    "Saliency",
    "SemanticSegmentation",
    "SurfaceNormals",
    "Task",
    "create_tasks",
    "delta_m",
    "delta_m_of",
    "load_references",
    "multi_task_loss",
]
