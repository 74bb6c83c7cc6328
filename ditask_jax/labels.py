"""How a label map behaves under joint augmentation: plain data, free of jax, so that loader workers stay light."""

import dataclasses

IGNORE = 255


@dataclasses.dataclass(frozen=True)
class LabelSpec:
    """Augmentation behaviour of one task's label map, read by `ditask_jax.data` and declared in the task's file.

    Shapes: a label is `[H, W]` (`channels == 1`) or `[H, W, channels]`.

    Attributes:
      name: task id, the key of the label in an example.
      channels: channels of the label map (3 for normals, else 1).
      dtype: "uint8" for classes and binary maps, "float32" for continuous ones.
      interpolation: "nearest" or "cubic", for warps and resizes.
      is_direction_field: unit vectors (x, y, z): flipping negates x, an in-plane rotation turns (x, y), a resize
        renormalises, and the zero vector means "no label".
      scales_inversely: values are divided by the zoom factor (metric depth).
      zero_is_missing: a pixel of zeros has no label and becomes `IGNORE`.
      all_zero_is_missing: a map of zeros everywhere has no label and becomes `IGNORE` (human parts without people).
      num_values: class ids run over 0..num_values-1 (and `IGNORE`); 0 for continuous maps.
    """

    name: str
    channels: int = 1
    dtype: str = "uint8"
    interpolation: str = "nearest"
    is_direction_field: bool = False
    scales_inversely: bool = False
    zero_is_missing: bool = False
    all_zero_is_missing: bool = False
    num_values: int = 0
