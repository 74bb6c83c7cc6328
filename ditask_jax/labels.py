"""Label maps as plain NumPy, free of JAX, so that loader workers stay light: how they behave under joint
augmentation, and lines one pixel wide.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

IGNORE = 255


@dataclasses.dataclass(frozen=True)
class LabelSpec:
    """Augmentation behaviour of one task's label, read by `ditask_jax.data` and declared in the task's file.

    Shapes: a map is `[H, W]` (`channels == 1`) or `[H, W, channels]`; what is said of the whole image is a number, or
    `[channels]` numbers.

    Attributes:
      name: task id, the key of the label in an example.
      channels: channels of the label map (3 for normals, else 1), or numbers per image.
      dtype: "uint8" for class and binary maps, "float32" for continuous ones, "uint16" for what several people drew,
        "int32" for a class of the image, "float32" for other numbers of it.
      interpolation: "nearest" or "cubic", for warps and resizes.
      is_direction_field: unit vectors (x, y, z): flipping negates x, an in-plane rotation turns (x, y), a resize
        renormalises, and the zero vector means "no label".
      scales_inversely: values are divided by the zoom factor (metric depth).
      zero_is_missing: a pixel of zeros has no label and becomes `IGNORE`.
      all_zero_is_missing: a map of zeros everywhere has no label and becomes `IGNORE` (human parts without people).
      pad_missing: pixels that a warp brings in from outside are `IGNORE`, whatever `Augmentation.pad_ignore` says.
      keeps_lines: where the map shrinks, lines one pixel wide (of 1, or of any annotator) are thickened first, so that
        they stay whole; else the nearest pixels are taken, which cuts them to dots.
      num_values: class ids run over 0..num_values-1 (and `IGNORE` in maps); 0 for what is continuous.
      is_map: False for what is said of a whole image, which no augmentation touches.

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
    pad_missing: bool = False
    keeps_lines: bool = False
    num_values: int = 0
    is_map: bool = True

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Shape of the label of an image of this height and width."""
        if not self.is_map:
            return (self.channels,) if self.channels > 1 else ()
        return (*size, self.channels) if self.channels > 1 else tuple(size)

    @property
    def missing(self) -> int:
        """The value that says "no label": `IGNORE` in maps, -1 for a class of the image (where 255 may be one)."""
        return IGNORE if self.is_map else -1


# Erodes lines to a width of one pixel and keeps them connected.
#
# References:
#   Z. Guo, R. Hall. Parallel thinning with two-subiteration algorithms. Communications of the ACM, 1989.


_RING = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
"""Steps (row, column) to the eight neighbours, clockwise from above."""


def _deletable_codes() -> np.ndarray:
    """For each of the two sub-iterations, which of the 256 neighbourhoods let the centre be deleted."""
    codes = np.arange(256)
    n, ne, e, se, s, sw, w, nw = (((codes >> bit) & 1).astype(bool) for bit in range(8))
    pieces = np.sum([~n & (ne | e), ~e & (se | s), ~s & (sw | w), ~w & (nw | n)], axis=0)
    turned_left = np.sum([nw | n, ne | e, se | s, sw | w], axis=0)
    turned_right = np.sum([n | ne, e | se, s | sw, w | nw], axis=0)
    width = np.minimum(turned_left, turned_right)
    inner = (pieces == 1) & (width >= 2) & (width <= 3)
    return np.stack([inner & ~((s | sw | ~nw) & w), inner & ~((n | ne | ~se) & e)])


_DELETABLE = _deletable_codes()


def erode_lines(lines: np.ndarray, values: np.ndarray | None = None) -> np.ndarray:
    """Deletes redundant line pixels, from alternate sides, until nothing changes.

    Args:
      lines: bool [H, W].
      values: strengths [H, W], not negative; a pixel is redundant only among neighbours at least as strong as itself.
        None: all alike, which is the plain algorithm of the reference.

    Returns:
      bool [H, W], a subset of `lines`.

    >>> band = np.zeros((7, 9), bool); band[2:5, 1:8] = True
    >>> erode_lines(band).sum(axis=1).tolist()
    [0, 0, 0, 5, 0, 0, 0]
    """
    strengths = 1.0 if values is None else values
    level = np.pad(np.where(lines, strengths, -1.0), 1, constant_values=-1.0)
    steps = [row * level.shape[1] + column for row, column in _RING]
    level = level.reshape(-1)
    pixels = np.flatnonzero(level >= 0)
    changed = True
    while changed:
        changed = False
        for deletable in _DELETABLE:
            own = level[pixels]
            code = np.zeros(len(pixels), np.uint8)
            for bit, step in enumerate(steps):
                code |= (level[pixels + step] >= own).astype(np.uint8) << np.uint8(bit)
            doomed = deletable[code]
            level[pixels[doomed]] = -1.0
            pixels = pixels[~doomed]
            changed |= bool(doomed.any())
    height, width = lines.shape
    return level.reshape(height + 2, width + 2)[1:-1, 1:-1] >= 0


def class_borders(classes: np.ndarray) -> np.ndarray:
    """Borders between the classes of a map, as lines one pixel wide.

    Args:
      classes: [H, W]; `IGNORE` where there is no label.

    Returns:
      uint8 [H, W]: 1 on a border of two classes, `IGNORE` where there is no label, 0 elsewhere.

    >>> class_borders(np.array([[3, 3, 5, 5, 255]] * 4, np.uint8)).tolist()[1]
    [0, 0, 1, 0, 255]
    """
    known = classes != IGNORE
    borders = np.zeros(classes.shape, bool)
    for one, other in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differ = (classes[one] != classes[other]) & known[one] & known[other]
        borders[one] |= differ
        borders[other] |= differ
    return np.where(known, erode_lines(borders), np.uint8(IGNORE)).astype(np.uint8)


# Outlines of several annotators in one map, which is then moved like any other: a bit per annotator, and above these
# bits their number, which is 0 where there is no label.


MOST_ANNOTATORS = 12
ANNOTATOR_BITS = (1 << MOST_ANNOTATORS) - 1


def pack_annotators(masks: Sequence[np.ndarray]) -> np.ndarray:
    """One map of what each of up to 12 annotators drew, bool [H, W] each: uint16 [H, W].

    >>> pack_annotators([np.array([[True, False]]), np.array([[True, True]])]).tolist()
    [[8195, 8194]]
    """
    packed = np.full(np.shape(masks[0]), len(masks) << MOST_ANNOTATORS, np.uint16)
    for bit, mask in enumerate(masks):
        packed |= np.asarray(mask, np.uint16) << np.uint16(bit)
    return packed


def unpack_annotators(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What each annotator drew, bool [annotators, H, W], and where there is a label, bool [H, W].

    >>> masks, known = unpack_annotators(np.array([[8195, 8194, 0]], np.uint16))
    >>> masks.astype(int).tolist(), known.tolist()
    ([[[1, 0, 0]], [[1, 1, 0]]], [[True, True, False]])
    """
    counts = packed >> MOST_ANNOTATORS
    known = counts > 0
    bits = np.arange(int(counts.max(initial=0))).reshape(-1, 1, 1)
    return ((packed >> bits) & 1).astype(bool) & known, known
