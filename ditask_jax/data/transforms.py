"""Joint augmentation of a picture and its labels on the host, driven by `LabelSpec`.

Order: horizontal flip, one affine warp (rotation and zoom), resize (aspect ratio not kept), missing values marked.

References: the protocol of the PASCAL-Context and NYUDv2 multi-task benchmarks (Vandenhende et al., MTLoRA, DiTASK).
Two of their side effects are kept by default because published numbers contain them: padding becomes class 0
(`pad_ignore` makes it ignored), and cubic interpolation leaves rings of interpolated normals around masks
(`erode_normals` removes them). One is not: a cubic overshoot is clipped instead of wrapping around in uint8
(`compat_uint8_wrap` brings the wrap back). Pictures stay uint8 between the warp and the resize, at half the time of
floats: each step rounds and clips, which the originals do once, at the end, by cutting digits off.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from ditask_jax.errors import ConfigError, DataError, check_known
from ditask_jax.labels import IGNORE, LabelSpec

_INTERPOLATION = {"nearest": cv2.INTER_NEAREST, "linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Ranges of the random joint augmentation.

    Attributes:
      hflip: probability of a horizontal flip, 0..1.
      rotation: largest rotation in degrees; the angle is uniform in -rotation..rotation.
      scale: (low, high) of a uniform zoom factor, or, with `scales_are_choices`, the factors to choose from.
      scales_are_choices: read `scale` as a list of equally likely factors.
      pad_ignore: pixels that the warp brings in from outside are ignored instead of class 0.
      erode_normals: pixels by which the labelled area of direction fields shrinks after the warp (0 = keep all).
      compat_uint8_wrap: let cubic overshoot wrap around in uint8 as the released code of the originals does.

    >>> Augmentation(rotation=0.0, scale=(1.0, 1.2, 1.5), scales_are_choices=True).hflip
    0.5
    """

    hflip: float = 0.5
    rotation: float = 20.0
    scale: tuple[float, ...] = (0.75, 1.25)
    scales_are_choices: bool = False
    pad_ignore: bool = False
    erode_normals: int = 0
    compat_uint8_wrap: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", tuple(float(s) for s in self.scale))
        if not 0 <= self.hflip <= 1:
            raise ConfigError(f"augmentation: hflip is a probability in 0..1, got {self.hflip}")
        if not self.scale or min(self.scale) <= 0:
            raise ConfigError(f"augmentation: scale needs positive factors, got {self.scale}")
        if not self.scales_are_choices and (len(self.scale) != 2 or self.scale[0] > self.scale[1]):
            raise ConfigError(f"augmentation: scale is (low, high) with low <= high, got {self.scale}")


PRESETS: dict[str, Augmentation | None] = {
    "pascal": Augmentation(),
    "nyud": Augmentation(rotation=0.0, scale=(1.0, 1.2, 1.5), scales_are_choices=True),
    "scenes": Augmentation(),
    "folder": Augmentation(),
    "none": None,
}


def preset(name: str, **changes) -> Augmentation | None:
    """A named preset, with fields replaced. "none" is None: resize only, as in evaluation.

    >>> preset("pascal", rotation=5.0).rotation
    5.0
    """
    check_known("augmentation", name, PRESETS)
    found = PRESETS[name]
    return dataclasses.replace(found, **changes) if found is not None and changes else found


@dataclasses.dataclass(frozen=True)
class Draw:
    """One sample of an `Augmentation`: angle in degrees (counter-clockwise as seen), zoom factor, flip."""

    flip: bool = False
    angle: float = 0.0
    scale: float = 1.0


def sample(augmentation: Augmentation | None, rng: np.random.Generator) -> Draw:
    """Draws one sample; always three uniforms, so that switching one option leaves the others' draws alone."""
    if augmentation is None:
        return Draw()
    flip, turn, zoom = rng.random(3).tolist()
    scale = augmentation.scale
    if augmentation.scales_are_choices:
        factor = scale[min(int(zoom * len(scale)), len(scale) - 1)]
    else:
        factor = scale[0] + (scale[1] - scale[0]) * zoom
    return Draw(flip < augmentation.hflip, (2 * turn - 1) * augmentation.rotation, factor)


def rotate_directions(directions: np.ndarray, degrees: float) -> np.ndarray:
    """Turns the in-plane part of vectors [..., 3] with a picture that is rotated counter-clockwise by `degrees`.

    >>> rotate_directions(np.array([1.0, 0.0, 0.0]), 90.0).round(6) + 0.0  # right becomes up, and y points down
    array([ 0., -1.,  0.])
    """
    r = math.radians(degrees)
    c, s = math.cos(r), math.sin(r)
    turned = directions.copy()
    turned[..., 0] = directions[..., 0] * c + directions[..., 1] * s
    turned[..., 1] = directions[..., 1] * c - directions[..., 0] * s
    return turned


def renormalise(directions: np.ndarray) -> np.ndarray:
    """Scales vectors [..., 3] to length one; zero stays zero."""
    x, y, z = directions[..., 0], directions[..., 1], directions[..., 2]
    length = np.sqrt(x * x + y * y + z * z)
    return directions / np.where(length > 0, length, 1)[..., None].astype(directions.dtype)


def transform(
    example: Mapping,
    specs: Sequence[LabelSpec],
    image_size: tuple[int, int],
    draw: Draw | None = None,
    augmentation: Augmentation | None = None,
) -> dict:
    """Applies one drawn augmentation (none by default), resizes, and marks missing values.

    Args:
      example: "image" uint8 [H, W, 3] and one raw label per spec (zero = missing in continuous maps).
      specs: behaviour of the labels; only these are read.
      image_size: height and width of the result.
      draw: flip, angle and zoom.
      augmentation: the options `pad_ignore`, `erode_normals` and `compat_uint8_wrap`.

    Returns:
      `{"image": uint8 [h, w, 3], "labels": {name: uint8 or float32 [h, w] or [h, w, 3]}}`; missing is `IGNORE` (255).

    Raises:
      DataError: a label is absent or has another size than the image.
    """
    draw, options = draw or Draw(), augmentation or Augmentation()
    image = example["image"]
    height, width = image.shape[:2]
    matrix = None
    if draw.angle != 0 or draw.scale != 1:
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), draw.angle, draw.scale)
    if options.compat_uint8_wrap:
        image = image.astype(np.float32)
    image = _move(image, cv2.INTER_CUBIC, draw.flip, matrix, image_size, 0)
    if options.compat_uint8_wrap:
        image = image.astype(np.int32).astype(np.uint8)
    labels = {}
    for spec in specs:
        if spec.name not in example:
            raise DataError(f"data: example {example.get('id', '?')} has no label '{spec.name}'")
        label = example[spec.name]
        if label.shape[:2] != (height, width):
            raise DataError(
                f"data: example {example.get('id', '?')}: label '{spec.name}' is {label.shape[0]}x{label.shape[1]}, "
                f"its image {height}x{width}"
            )
        labels[spec.name] = _transform_label(label, spec, image_size, draw, matrix, options)
    return {"image": image, "labels": labels}


def _transform_label(label, spec: LabelSpec, image_size, draw: Draw, matrix, options: Augmentation) -> np.ndarray:
    interpolation = _INTERPOLATION[spec.interpolation]
    # Continuous maps say "missing" by zero, which is also what the warp pads with.
    padding = IGNORE if options.pad_ignore and spec.dtype == "uint8" else 0
    present = None
    if spec.is_direction_field:
        if options.erode_normals and spec.zero_is_missing:
            present = label.any(-1).astype(np.uint8)
            present = _move(present, cv2.INTER_NEAREST, draw.flip, matrix, image_size, 0)
            size = 2 * options.erode_normals + 1
            present = cv2.erode(present, np.ones((size, size), np.uint8), borderType=cv2.BORDER_REPLICATE)
        if draw.flip:
            label = label * np.array([-1, 1, 1], label.dtype)
        if draw.angle != 0:
            label = rotate_directions(label, draw.angle)
    label = _move(label, interpolation, draw.flip, matrix, image_size, padding)
    if spec.scales_inversely and draw.scale != 1:
        label = label / np.asarray(draw.scale, label.dtype)
    if spec.is_direction_field:
        label = renormalise(label)
        if present is not None:
            label[present == 0] = 0
    label = label.astype(spec.dtype, copy=False)
    if spec.all_zero_is_missing and not ((label != 0) & (label != IGNORE)).any():
        label = np.full_like(label, IGNORE)
    if spec.zero_is_missing:
        missing = ~label.any(-1) if spec.channels > 1 else label == 0
        label = label.copy()
        label[missing] = IGNORE
    return label


def _move(array: np.ndarray, interpolation: int, flip: bool, matrix, image_size: tuple[int, int], padding: int):
    """Flip, warp (forward matrix), resize: [H, W] or [H, W, C]."""
    if flip:
        array = cv2.flip(array, 1)
    height, width = array.shape[:2]
    if matrix is not None:
        array = cv2.warpAffine(array, matrix, (width, height), flags=interpolation, borderMode=cv2.BORDER_CONSTANT,
                               borderValue=(padding,) * 4)  # fmt: skip
    if (height, width) != tuple(image_size):
        array = cv2.resize(array, (image_size[1], image_size[0]), interpolation=interpolation)
    return array
