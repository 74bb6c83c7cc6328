"""How a label behaves under joint augmentation: plain data, free of jax, so that loader workers stay light."""

import dataclasses

IGNORE = 255


@dataclasses.dataclass(frozen=True)
class LabelSpec:
    """Augmentation behaviour of one task's label, read by `ditask_jax.data` and declared in the task's file.

    Shapes: a map is `[H, W]` (`channels == 1`) or `[H, W, channels]`; what is said of the whole picture is a number, or
    `[channels]` numbers.

    Attributes:
      name: task id, the key of the label in an example.
      channels: channels of the label map (3 for normals, else 1), or numbers per picture.
      dtype: "uint8" for class and binary maps, "float32" for continuous ones, "int32" for a class of the picture,
        "float32" for other numbers of it.
      interpolation: "nearest" or "cubic", for warps and resizes.
      is_direction_field: unit vectors (x, y, z): flipping negates x, an in-plane rotation turns (x, y), a resize
        renormalises, and the zero vector means "no label".
      scales_inversely: values are divided by the zoom factor (metric depth).
      zero_is_missing: a pixel of zeros has no label and becomes `IGNORE`.
      all_zero_is_missing: a map of zeros everywhere has no label and becomes `IGNORE` (human parts without people).
      num_values: class ids run over 0..num_values-1 (and `IGNORE` in maps); 0 for what is continuous.
      is_map: False for what is said of a whole picture, which no augmentation touches.

    >>> LabelSpec("normals", channels=3, dtype="float32").shape((4, 6))
    (4, 6, 3)
    >>> LabelSpec("classification", dtype="int32", num_values=397, is_map=False).shape((4, 6))
    ()
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
    is_map: bool = True

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Shape of the label of a picture of this height and width."""
        if not self.is_map:
            return (self.channels,) if self.channels > 1 else ()
        return (*size, self.channels) if self.channels > 1 else tuple(size)

    @property
    def missing(self) -> int:
        """The value that says "no label": `IGNORE` in maps, -1 for a class of the picture (where 255 may be one)."""
        return IGNORE if self.is_map else -1
