"""Segmentation of people into body parts."""

import dataclasses

from ditask_jax.labels import LabelSpec
from ditask_jax.tasks.class_map import ClassMapTask


@dataclasses.dataclass(frozen=True, kw_only=True)
class HumanParts(ClassMapTask):
    """A body part (or background) per pixel; an image without people has no label and counts nowhere.

    >>> HumanParts(num_outputs=2, class_names=("background", "head")).label_spec.all_zero_is_missing
    True
    """

    name: str = "human_parts"
    loss_weight: float = 2.0

    @property
    def label_spec(self) -> LabelSpec:
        return dataclasses.replace(super().label_spec, all_zero_is_missing=True)
