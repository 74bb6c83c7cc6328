"""Semantic segmentation."""

import dataclasses

from ditask_jax.tasks.class_map import ClassMapTask


@dataclasses.dataclass(frozen=True, kw_only=True)
class SemanticSegmentation(ClassMapTask):
    """A class per pixel, scored by mean intersection over union over all classes, background included.

    >>> SemanticSegmentation(num_outputs=2, class_names=("background", "cat")).primary_metric
    'mIoU'
    """

    name: str = "semseg"
    loss_weight: float = 1.0
